"""Whom to call for what: reasons by person, who may be called and how, and what came of it in the next data."""
