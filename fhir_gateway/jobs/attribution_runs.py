"""The runs of attribution that are kept: a folder of evidence for each, whole, never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.factory import Gateway


def attributions_folder(gateway: Gateway, contract_id: str) -> Path:
    """Where the evidence of a contract's attributions is kept."""
    return gateway.data_folder / "attributions" / contract_id


def evidence_runs(gateway: Gateway, contract_id: str) -> list[tuple[Path, dict[str, Any]]]:
    """The kept runs of a contract's attribution with what each says of itself, oldest first."""
    headers = attributions_folder(gateway, contract_id).glob("[!.]*/header.json")
    found = [(header.parent, orjson.loads(header.read_bytes())) for header in headers]
    return sorted(found, key=lambda one: (one[1]["lake_version"], one[1]["computed"], one[0].name))


def newest_evidence(gateway: Gateway, contract_id: str) -> Path | None:
    """The folder of the newest run; None before there is one."""
    runs = evidence_runs(gateway, contract_id)
    return runs[-1][0] if runs else None
