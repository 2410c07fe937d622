"""The published JSON Schema of contract documents: what an editor needs to help somebody who writes one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic.json_schema import models_json_schema

from fhir_gateway.contracts.arrangements import ARRANGEMENTS
from fhir_gateway.contracts.contract import Contract

ID = "https://fhir-gateway.example/fhir/contract.schema.json"


def contract_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a contract, with every arrangement there is.

    It says what terms there are and what values they take; contradictions between terms are found on load only.
    """
    kinds = dict(sorted(ARRANGEMENTS.items()))
    models = [(Contract, "validation"), *((terms, "validation") for terms in kinds.values())]
    references, found = models_json_schema(models, ref_template="#/$defs/{model}")  # type: ignore[arg-type]
    definitions = found["$defs"]
    top = definitions.pop(references[Contract, "validation"]["$ref"].rpartition("/")[2])
    named = {kind: references[terms, "validation"]["$ref"] for kind, terms in kinds.items()}
    top["properties"]["arrangements"] = {
        "type": "array",
        "minItems": 1,
        "items": {
            "oneOf": [{"$ref": reference} for reference in named.values()],
            "discriminator": {"propertyName": "kind", "mapping": named},
        },
    }
    about = {"title": "Contract", "description": "A value-based contract: parties, population, quality, payments."}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": ID,
        **top,
        **about,
        "$defs": dict(sorted(definitions.items())),
    }


def main() -> None:
    """Write the schema into openapi/, as ``make openapi`` does."""
    path = Path(__file__).parents[2] / "openapi" / "contract.schema.json"
    path.write_text(json.dumps(contract_schema(), indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
