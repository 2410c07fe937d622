"""Equity: who the members are, and measures and metrics by that, without showing the few."""
