"""Targets and benchmarks built from claims: cost, person years, completion, trend, risk, blends.

Columns come in as Arrow tables and leave as exact decimals; what somebody may ask about is a ledger line. Arrangements
call these functions; contracts name the tables (``docs/use/contracts.md``).
"""
