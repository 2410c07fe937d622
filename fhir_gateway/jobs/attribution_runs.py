"""The runs of attribution that are kept: a folder of evidence for each, whole, never changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.factory import Gateway

_HISTORY = "runs.txt"  # a line per attribution that was not the same run as the one before it


def attributions_folder(gateway: Gateway, contract_id: str) -> Path:
    """Where the evidence of a contract's attributions is kept."""
    return gateway.data_folder / "attributions" / contract_id


def note_run(gateway: Gateway, contract_id: str, run: str) -> None:
    """Note that a run is the latest one; the same inputs as of before make an earlier run the latest again."""
    history = attributions_folder(gateway, contract_id) / _HISTORY
    if _noted(history)[-1:] != [run]:
        with history.open("a", encoding="utf-8") as notes:
            notes.write(f"{run}\n")


def evidence_runs(gateway: Gateway, contract_id: str) -> list[tuple[Path, dict[str, Any]]]:
    """The kept runs of a contract's attribution with what each says of itself, the latest last."""
    folder = attributions_folder(gateway, contract_id)
    order = {run: number for number, run in enumerate(_noted(folder / _HISTORY))}
    found = [(header.parent, orjson.loads(header.read_bytes())) for header in folder.glob("[!.]*/header.json")]
    return sorted(
        found, key=lambda one: (order.get(one[0].name, -1), one[1]["lake_version"], one[1]["computed"], one[0].name)
    )


def newest_evidence(gateway: Gateway, contract_id: str) -> Path | None:
    """The folder of the latest run; None before there is one."""
    runs = evidence_runs(gateway, contract_id)
    return runs[-1][0] if runs else None


def _noted(history: Path) -> list[str]:
    return history.read_text(encoding="utf-8").split() if history.exists() else []
