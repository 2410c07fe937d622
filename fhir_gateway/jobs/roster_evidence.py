"""What people ask of a kept attribution: why a member is whose, who was lost by a hair, churn, leakage, overlap,
months."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.attribution.differences import explained
from fhir_gateway.attribution.eligibility import BIRTH_SCHEMA, months_by
from fhir_gateway.attribution.evidence import line_evidence
from fhir_gateway.attribution.ledger_store import MonthLedger
from fhir_gateway.attribution.months import of_period, with_newborn_cell, with_provider_of_record
from fhir_gateway.attribution.overlap import Precedence, claimants
from fhir_gateway.attribution.reconciliation import Reconciliation
from fhir_gateway.attribution.rules import AttributionTerms
from fhir_gateway.attribution.stability import Churn, Leakage, churn, leakage, near_misses
from fhir_gateway.contracts import Contract
from fhir_gateway.contracts.documents import SUFFIXES
from fhir_gateway.errors import ContractError, InputError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribute import AttributionReport, kept_attribution
from fhir_gateway.jobs.attribution_facts import clinicians, with_ccns
from fhir_gateway.jobs.attribution_kept import kept_lines
from fhir_gateway.jobs.attribution_runs import attributions_folder, evidence_runs, newest_evidence
from fhir_gateway.jobs.people import persons_of
from fhir_gateway.jobs.selections import selections_of


@dataclass(frozen=True, slots=True)
class Explained:
    """Why a member is whose patient: his row, who competed, and every claim line with what became of it."""

    member: dict[str, Any]
    candidates: list[dict[str, Any]]
    lines: list[dict[str, Any]]


def kept(gateway: Gateway, contract_name: str, evidence: str | None = None) -> AttributionReport:
    """A kept run of a contract: the newest, or the one that is named; NotFoundError before there is one."""
    contract = Contract.load(gateway.contract(contract_name))
    if evidence is None:
        newest = newest_evidence(gateway, contract.id)
        if newest is None:
            raise NotFoundError("this contract was not attributed yet")
        evidence = newest.name
    return kept_attribution(gateway, contract, evidence)


def explain(gateway: Gateway, contract_name: str, member: str, evidence: str | None = None) -> Explained:
    """Why a member is whose patient, by a kept run and the claims of its lake version; NotFoundError."""
    contract = Contract.load(gateway.contract(contract_name))
    folder = newest_evidence(gateway, contract.id) if evidence is None else None
    if evidence is not None:
        folder = attributions_folder(gateway, contract.id) / evidence
    if folder is None or contract.attribution_terms is None or not (folder / "header.json").exists():
        raise NotFoundError("this contract was not attributed yet")
    only = pc.field("member") == member
    rows, candidates = (
        pq.read_table(folder / f"{name}.parquet", filters=only).to_pylist() for name in ("members", "candidates")
    )
    if not rows:
        raise NotFoundError("the run does not know this member")
    version = orjson.loads((folder / "header.json").read_bytes())["lake_version"]
    looked_at = pa.array([member])
    lines = kept_lines(gateway, contract, version, contract.claims.paid_through, looked_at)
    found = _judged(gateway, contract, contract.attribution_terms, lines, version, looked_at)
    return Explained(rows[0], sorted(candidates, key=lambda one: one["rank"]), found.to_pylist())


def lost_by_a_hair(gateway: Gateway, contract_name: str, within: Decimal, amount: Decimal) -> pa.Table:
    """Members whom the contract lost by little (:func:`~fhir_gateway.attribution.stability.near_misses`)."""
    report = kept(gateway, contract_name)
    return near_misses(report.attribution, report.contract.provider.entity, within, amount)


def changed(gateway: Gateway, contract_name: str, before: str | None = None) -> Churn:
    """Who stayed, came and left between two kept runs: the newest and the one before it, or that of a name.

    ``before`` is the name of a run of this contract, or the id of another contract, whose newest run is taken.
    """
    contract = Contract.load(gateway.contract(contract_name))
    runs = evidence_runs(gateway, contract.id)
    if not runs:
        raise NotFoundError("this contract was not attributed yet")
    if before is None:
        if len(runs) < 2:
            raise NotFoundError("there is one run of this contract only: name one to compare with")
        earlier = runs[-2][0]
    else:
        named = attributions_folder(gateway, contract.id) / before
        found = named if (named / "header.json").exists() else newest_evidence(gateway, before)
        if found is None:
            raise NotFoundError("there is no such run, and no attributed contract of this name")
        earlier = found
    tables = [pq.read_table(folder / "members.parquet") for folder in (earlier, runs[-1][0])]
    return churn(tables[0], tables[1], contract.provider.entity)


def leaked(gateway: Gateway, contract_name: str) -> Leakage:
    """Primary care of the contract's members in and outside of it."""
    return leakage_of(kept(gateway, contract_name))


def leakage_of(report: AttributionReport) -> Leakage:
    """The same of a run that was read."""
    return leakage(report.attribution, report.lines, report.contract.provider.entity)


def overlapping(gateway: Gateway, contract_names: Sequence[str], *, several: bool = False) -> pa.Table:
    """For each member the contracts that would have claimed him (``CLAIM_SCHEMA``), by their newest runs.

    Without names: all contracts that were attributed. ``several``: only members whom more than one would have claimed.
    """
    folder = sorted(gateway.contracts_folder.glob("*"))
    names = list(contract_names) or [str(path) for path in folder if path.suffix in SUFFIXES]
    claims, precedence = {}, {}
    for name in names:
        contract = Contract.load(gateway.contract(name))
        newest = newest_evidence(gateway, contract.id)
        if newest is None:
            if contract_names:
                raise NotFoundError(f"contract {contract.id} was not attributed yet")
            continue
        claims[contract.id] = (pq.read_table(newest / "members.parquet"), contract.provider.entity)
        precedence[contract.id] = Precedence(contract.attribution.priority, contract.attribution.exclusive_group)
    found = claimants(claims, precedence)
    if not several:
        return found
    counts = found.group_by("member").aggregate([([], "count_all")])
    more = counts.filter(pc.greater(counts["count_all"], 1))["member"]
    return found.filter(pc.is_in(found["member"], value_set=more.combine_chunks()))


def reasons(gateway: Gateway, contract_name: str, found: Reconciliation) -> pa.Table:
    """Reason codes of what two rosters differ in, by the newest run of the contract.

    Where its terms do not look at claims there is no evidence of them, and codes that need it are not given.
    """
    report = kept(gateway, contract_name)
    members = pc.unique(found.differences()["member"].drop_null())
    by_claims = "plurality" in report.attribution.terms.methods
    evidence = _evidence(gateway, report, members) if by_claims else None
    return explained(found, report.attribution, report.contract.provider.entity, evidence)


def post_months(gateway: Gateway, contract_name: str, cycle: date, window_months: int) -> pa.Table:
    """Post the member months of a contract, as its newest run has them, to its ledger; the new rows.

    Months up to the cycle's are posted. Cells are the practice (``tin``), where the terms go by selections the
    provider of record of each month, and ``newborn``.
    """
    report = kept(gateway, contract_name)
    contract, attribution = report.contract, report.attribution
    start, end = contract.dates
    if cycle < start:
        raise InputError("the cycle is before the contract's period")
    through = min(end, cycle)
    rule = attribution.terms.eligibility
    people = persons_of(gateway, report.lake_version)
    born = people.filter(people["birth_date"].is_valid()).select(["member", "birth_date"])
    births = born.rename_columns(["member", "born"]).cast(BIRTH_SCHEMA)
    counted = of_period(months_by(rule, report.coverage, (start, end), people), (start, through))
    if set(attribution.terms.methods) <= {"roster", "member_selected_pcp", "plan_assigned_pcp"}:
        selections, _, _ = selections_of(gateway, contract, report.lake_version)
        snapshot = {"snapshot_15th": "fifteenth", "snapshot_last": "last"}.get(rule.month_rule, "first")
        mine = with_provider_of_record(counted, selections, snapshot, attribution.terms.selection.effective)  # type: ignore[arg-type]
        tins = pa.array(contract.provider.tins, pa.string())
        mine = mine.filter(pc.is_in(mine["tin"], value_set=tins)).select(["member", "month", "months", "tin"])
    else:
        ours = attribution.table.filter(pc.equal(attribution.table["entity"], contract.provider.entity))
        mine = counted.join(ours.select(["member", "tin"]), "member", join_type="inner").select(
            ["member", "month", "months", "tin"]
        )
    current = with_newborn_cell(mine, births)
    ledger = MonthLedger(gateway.data_folder / "months" / contract.id)
    return ledger.post(
        current,
        cycle,
        window_months,
        stamps={"evidence": report.evidence, "lake_version": str(report.lake_version), "terms": attribution.terms.rule},
    )


def _evidence(gateway: Gateway, report: AttributionReport, members: pa.Array) -> pa.Table:
    return _judged(gateway, report.contract, report.attribution.terms, report.lines, report.lake_version, members)


def _judged(
    gateway: Gateway, contract: Contract, terms: AttributionTerms, lines: pa.Table, version: int, members: pa.Array
) -> pa.Table:
    if "plurality" not in terms.methods:
        raise ContractError("the terms of this contract do not look at claims")
    return line_evidence(
        with_ccns(gateway, contract, lines, version),
        terms,
        contract.dates,
        contract.participants,
        members,
        clinicians(gateway, version),
    )
