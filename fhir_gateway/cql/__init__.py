"""The CQL engine: ELM in, vectors out.

It knows nothing of measures, HTTP or the lake's files. See ``docs/architecture.md`` (the engine).
"""

from fhir_gateway.cql.batch import Batch
from fhir_gateway.cql.compile import CompiledLibrary, compile_library
from fhir_gateway.cql.evaluation import Episodes, Evaluation

__all__ = ["Batch", "CompiledLibrary", "Episodes", "Evaluation", "compile_library"]
