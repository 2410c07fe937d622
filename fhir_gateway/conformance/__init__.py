"""Whether a resource keeps what its profiles promise: installed guides, profiles, slicing, bindings, invariants.

Base R4 (types, cardinalities, formats, codes) is :mod:`fhir_gateway.lake`'s; this package checks what
StructureDefinitions add, one resource at a time. It serves the edges (``$validate``, what is pushed, tests of what we
emit), not populations.
"""
