"""Measure cases: our own packages, and published ones run from the command line."""
