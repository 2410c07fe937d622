"""Control plane: the relational store behind everything that is not a column in the lake.

``engine`` opens SQLite or PostgreSQL, ``tables`` knows every table of every domain, ``migrate`` brings a database to
the present schema, ``secrets`` encrypts what must not lie in clear, ``resources`` keeps the FHIR resources we serve.
"""
