"""Embedded data sets: one loader a file."""
