"""Estimators of the meta-gradient."""
