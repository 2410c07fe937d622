"""Who is likely to need care: published scores in columns, and models of the customer's own lake.

Nothing here settles: no contract may be paid by it (import-linter says so, ADR 0215).
"""
