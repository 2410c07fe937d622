"""Tests of the gateway; a package so that its commands run with ``python -m``."""
