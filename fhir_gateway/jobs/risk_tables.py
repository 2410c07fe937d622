"""Kept risk scores as tables of a contract: what a capitation, a budget or a bundle is adjusted by."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.contract import SCORE_NAMES
from fhir_gateway.contracts.terms import RiskReference
from fhir_gateway.errors import ContractError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.risk import is_ours, score_members
from fhir_gateway.risk.store import RiskRun


def score_tables(gateway: Gateway, contract: Contract, version: int) -> tuple[dict[str, pa.Table], dict[str, str]]:
    """The contract's tables of kept scores, and which runs they are of.

    Scores of our models are computed of the lake version if nobody did; of imported ones the newest import counts, and
    ContractError names the table where there is none.
    """
    tables, stamps = {}, {}
    for name, (reference, schema) in sorted(contract.risk_tables().items()):
        run = _run(gateway, name, reference, reference.year, version)
        stamps[f"risk.{name}"] = _stamp(run)
        columns = {"score": _scores(run)}
        if reference.previous is not None:
            before = _run(gateway, name, reference, reference.previous, version)
            stamps[f"risk.{name}.previous"] = _stamp(before)
            columns["previous"] = _scores(before)
        tables[name] = _table(columns, schema)
    return tables, stamps


def _run(gateway: Gateway, name: str, reference: RiskReference, year: int, version: int) -> RiskRun:
    if is_ours(reference.model):
        return score_members(gateway, reference.model, year, version=version).run
    run = gateway.risk.newest("scores", model=reference.model, year=year)
    if run is None:
        raise ContractError(f"tables.{name}.risk: no scores of {reference.model} for {year} were imported")
    return run


def _stamp(run: RiskRun) -> str:
    version = run.header.get("version")
    return f"{run.header['model']}{f' {version}' if version else ''} {run.header['year']} {run.id}"


def _scores(run: RiskRun) -> pa.Table:
    scores = run.table("scores").select(["member", "score"])
    return scores.filter(scores["score"].is_valid())


def _table(columns: dict[str, pa.Table], schema: pa.Schema) -> pa.Table:
    """Scores under the names and types of an arrangement's table; what they do not say is null."""
    found = columns["score"]
    if "previous" in columns:
        found = found.join(columns["previous"].rename_columns(["member", "previous"]), "member", join_type="left outer")
    found = found.sort_by("member")
    names = {next(name for name in SCORE_NAMES if name in schema.names): "score", "member": "member"}
    names |= {"previous": "previous"} if "previous" in columns else {}
    arrays = [
        pc.cast(found[names[field.name]], field.type) if field.name in names else pa.nulls(found.num_rows, field.type)
        for field in schema
    ]
    return pa.table(arrays, schema=pa.schema([field.with_nullable(True) for field in schema])).combine_chunks()
