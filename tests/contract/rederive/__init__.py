"""Derive a statement again from its contract and its own lines alone.

    python -m tests.contract.rederive CONTRACT STATEMENT.json [ROWS.csv]

It shares no code with the product. Lines that rest on no others are taken as given, unless the contract states them;
every other line, the payable amount and its distribution are computed here with exact fractions, from the lines that
they say they rest on. Prints each line that comes out otherwise, each line that there is no rule for and each line
that rests on others than it says; exit 1 if there is any. Values are compared to 20 significant digits (statements
carry quotients to 60, scores to 28), published amounts and parts exactly. With the rows of payments by member month
(`fhir-gateway contract audit RUN --out ROWS.csv`) these are derived too, and the lines that are sums of them.

A rule is a function of (Case, name parts) in ``RULES``, by kind of arrangement and name of the line.
"""
