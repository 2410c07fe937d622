"""The walk over JSON text that checks resources against R4 without making Python objects; compiled by numba.

One pass over the bytes follows the tables of :mod:`fhir_gateway.lake.grammar`: which key may stand in which object,
what its value must look like. A line either passes, which means it is valid, or is *unsure*: broken, or valid in a way
too rare to be handled here (null members beside a ``_x`` sibling, exponents, escaped codes). What a table does not know
yet is asked for (``NEED_*``): the caller adds it to the tables and calls again.

With ``emit`` it also says where each column's values lie (*events*, a number each); :mod:`fhir_gateway.lake.assemble`
makes Arrow columns of them, without looking at what is between.

Texts handed in must have ``PADDING`` readable bytes after the end, so that no step needs a bounds check:
scanning stops at control characters, of which a line feed ends every line.
"""
