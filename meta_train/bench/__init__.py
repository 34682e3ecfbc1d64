"""Benchmarks: figures that can be measured again with one command."""
