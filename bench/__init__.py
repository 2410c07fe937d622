"""Benchmarks: ratios in one run against a named peer or limit. Nothing here is a test."""
