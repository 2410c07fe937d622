"""Attribute everybody in the lake under a contract, keep the evidence, and serve the roster as an ATR Group.

Where the contract is with several practices (TINs), each practice has a list of its own beside the contract's, so that
it can be shown its patients and nobody else's. What people decided about the lists (:mod:`fhir_gateway.jobs.lists`) is
applied over what attribution finds; lists, settlements and reports are about the same members.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.attribution import COVERAGE_COLUMNS, Attribution, atr_group, decisions
from fhir_gateway.attribution.decisions import Decision
from fhir_gateway.attribution.entries import Key, same
from fhir_gateway.cluster import Cluster
from fhir_gateway.contracts import Contract
from fhir_gateway.db.audience import label, labelled
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.attribution_facts import known_directory
from fhir_gateway.jobs.attribution_kept import Found, found, kept_lines, of_members
from fhir_gateway.jobs.attribution_runs import attributions_folder, note_run
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.publish import published_id
from fhir_gateway.sources.outcome import Progress, PullProgress
from fhir_gateway.telemetry.spans import traced

#: Members of a row group of the evidence: few, so that one is found without reading all.
_FOUND_TOGETHER = 1 << 13


@dataclass(frozen=True)
class AttributionReport:
    """Attribution under a contract: the evidence, what it was computed from, and the roster served.

    ``decisions`` is a digest of the decisions that were applied, empty when there are none. ``evidence`` names what is
    kept of it (:func:`kept_attribution`), ``rested_on`` what else than the lake it was computed from.
    """

    gateway: Gateway = field(repr=False)
    contract: Contract
    attribution: Attribution
    lake_version: int
    group: Mapping[str, Any]
    decisions: str = ""
    evidence: str = ""
    rested_on: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def lines(self) -> pa.Table:
        """Claim lines with the columns that attribution and settlement look at, read when they are asked for."""
        return kept_lines(self.gateway, self.contract, self.lake_version, self.contract.claims.paid_through)

    @cached_property
    def coverage(self) -> pa.Table:
        """Coverage with the columns that attribution looks at, read when it is asked for."""
        return self.gateway.lake.read("Coverage", COVERAGE_COLUMNS, version=self.lake_version)

    @property
    def members(self) -> pa.Array:
        """Members attributed to the contract's provider."""
        return self.attribution.members_of(self.contract.provider.entity)

    @property
    def reasons(self) -> dict[str, int]:
        """Members attributed to nobody, by reason."""
        counts = pc.value_counts(self.attribution.table["reason"].drop_null())
        return {entry["values"]: entry["counts"] for entry in counts.to_pylist()}


@traced("attribute")
def attribute(
    gateway: Gateway,
    contract_name: str,
    *,
    now: datetime | None = None,
    everybody: bool = False,
    progress: Progress | None = None,
    cluster: Cluster | None = None,
) -> AttributionReport:
    """Who is the contract's patient in its period, by the claims paid through its run-out.

    The Group keeps what changed against its version before. From the same lake version and the same terms the same
    roster comes, and no new version of it. Where there is a run to go by only those are attributed whose data changed
    since, unless ``everybody`` is to be; the outcome is the same (:mod:`fhir_gateway.jobs.attribution_kept`). With
    ``cluster`` it works on everybody's buckets.
    """
    contract = Contract.load(gateway.contract(contract_name))
    if progress:
        progress(PullProgress("attribute", contract.title))
    version = gateway.lake.version
    attributed = traced("attribute.compute")(found)
    made = attributed(gateway, contract, version, everybody=everybody, cluster=cluster)
    attribution, group, digest, key = _serve(gateway, contract, made, version, instant(gateway, now))
    return AttributionReport(gateway, contract, attribution, version, group, digest, key, made.stamps)


def computed(gateway: Gateway, contract: Contract, *, version: int | None = None) -> AttributionReport:
    """Attribution on a lake version (default: the newest) without anybody's decisions; nothing is written or served."""
    version = gateway.lake.version if version is None else version
    made = of_members(gateway, contract, version)
    return AttributionReport(gateway, contract, made.attribution, version, {}, rested_on=made.stamps)


def kept_attribution(gateway: Gateway, contract: Contract, evidence: str) -> AttributionReport:
    """An attribution as it was made and decided then, over the lake version it was made of; NotFoundError."""
    folder = attributions_folder(gateway, contract.id) / evidence
    if contract.attribution_terms is None or not (folder / "header.json").exists():
        raise NotFoundError("the attribution that was settled is not kept any more")
    header = orjson.loads((folder / "header.json").read_bytes())
    attribution = Attribution(
        table=pq.read_table(folder / "members.parquet"),
        candidates=pq.read_table(folder / "candidates.parquet"),
        terms=contract.attribution_terms,
        period=contract.dates,
        participants=contract.participants,
    )
    version = header["lake_version"]
    return AttributionReport(gateway, contract, attribution, version, {}, header["decisions"], evidence)


def organizations(gateway: Gateway, version: int) -> dict[str, str]:
    """Served Organizations by TIN and by NPI; of several sources' the one registered first."""
    return _served(gateway, version, "Organization", ("tin", "npi"))


@traced("attribute.serve")
def _serve(
    gateway: Gateway,
    contract: Contract,
    made: Found,
    version: int,
    now: datetime,
) -> tuple[Attribution, Mapping[str, Any], str, str]:
    """The attribution as decided, the list served, the digest of the decisions, the name of the evidence."""
    attribution, stamps = made.attribution, made.stamps
    tins = contract.provider.tins
    practices = tins if len(tins) > 1 else ()
    lists: dict[str, str | None] = {contract.id: None} | {_practice_list(contract.id, tin): tin for tin in practices}
    roster = replace(
        contract.roster(organizations(gateway, version), _served(gateway, version, "Practitioner", ("npi",))),
        coverage_reference=lambda source, resource_id: f"Coverage/{published_id(source, resource_id)}",
    )
    found = decisions.listed(attribution, contract.provider.entity, roster)
    persons = {one.patient for one in gateway.decisions.standing(contract.id) if one.patient}
    surviving = {person: gateway.persons.surviving(person) for person in persons}
    with (
        gateway.resources.writing() as writing
    ):  # nobody decides anything between what is read here and what is written
        standing = gateway.decisions.standing(contract.id, writing.connection)
        stored = {name: writing.current("Group", name) for name in lists}
        previous = {name: one.json() for name, one in stored.items() if one is not None and not one.deleted}
        decided, final = _decide(contract, found, standing, lists, previous, surviving)
        groups = []
        for name, tin in lists.items():
            group = atr_group(
                attribution,
                contract.provider.entity,
                roster if tin is None else replace(roster, tins=(tin,), npis=(), name=f"{roster.name}, TIN {tin}"),
                group_id=name,
                last_updated=now,
                status="final" if name in final else contract.attribution.list_status,
                previous=previous.get(name),
                tin=tin,
                decided=decided,
            )
            audience = [label("contract", contract.id), label("group", name)]
            if tin is not None or len(tins) == 1:
                audience.append(label("organization", tin or tins[0]))
            group = labelled(group, *audience)
            if name not in previous or not same(group, previous[name]):
                groups.append(group)
        writing.put_many(groups)
    aligned = decisions.aligned(attribution, contract.provider.entity, decided)
    digest = decisions.digest(standing)
    outside = orjson.dumps(stamps, option=orjson.OPT_SORT_KEYS).decode() if stamps else ""
    key = hashlib.sha256(f"{contract.digest} {version} {digest} {outside}".rstrip().encode()).hexdigest()[:16]
    header = {"contract": contract.digest, "lake_version": version, "computed": now.isoformat(), "decisions": digest}
    header |= {"terms": attribution.terms.rule, "terms_digest": attribution.terms.digest, "rivals": attribution.rivals}
    header |= {"period": [day.isoformat() for day in attribution.period], **stamps}
    _keep(attributions_folder(gateway, contract.id) / key, aligned, made.services, header)
    note_run(gateway, contract.id, key)
    return aligned, gateway.resources.read("Group", contract.id).json(), digest, key


def _decide(
    contract: Contract,
    found: Mapping[Key, decisions.Listed],
    standing: list[Decision],
    lists: Mapping[str, str | None],
    previous: Mapping[str, Mapping[str, Any]],
    surviving: Mapping[str, str],
) -> tuple[decisions.Decided, set[str]]:
    """The contract's entries after decisions, and the lists that were confirmed."""
    served = {name: (tin, previous[name]) for name, tin in lists.items() if name in previous}
    entries, final = decisions.confirmed(standing, found, served)
    if contract.id in final:
        return decisions.Decided(entries), final
    start, end = contract.dates
    return decisions.apply(
        entries,
        standing,
        {"start": start.isoformat(), "end": end.isoformat()},
        surviving=lambda person: surviving.get(person, person),
        final={tin for name, tin in lists.items() if name in final},
    ), final


def _practice_list(contract_id: str, tin: str) -> str:
    """Id of a practice's list; one that is too long for FHIR is shortened by a digest."""
    name = f"{contract_id}-{tin}"
    return name if len(name) <= 64 else f"{name[:47]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def _served(gateway: Gateway, version: int, kind: str, numbers: tuple[str, ...]) -> dict[str, str]:
    ranks = {endpoint.name: rank for rank, endpoint in enumerate(gateway.endpoints.all())}
    rows = known_directory(gateway, version).select(["source", "reference", *numbers]).to_pylist()
    rows.sort(key=lambda row: (ranks.get(row["source"], len(ranks)), row["source"], row["reference"]))
    found: dict[str, str] = {}
    for row in rows:
        named, _, resource_id = row["reference"].partition("/")
        if named == kind:
            for name in numbers:
                if row[name]:
                    found.setdefault(row[name], f"{kind}/{published_id(row['source'], resource_id)}")
    return found


def _keep(folder: Path, attribution: Attribution, services: pa.Table, header: Mapping[str, Any]) -> None:
    """Keep the evidence, whole or not at all."""
    if folder.exists():
        return
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=".saving-", dir=folder.parent))
    for name, table in (("members", attribution.table), ("candidates", attribution.candidates)):
        pq.write_table(table, partial / f"{name}.parquet", row_group_size=_FOUND_TOGETHER)
    pq.write_table(services, partial / "services.parquet")
    (partial / "header.json").write_bytes(orjson.dumps(header, option=orjson.OPT_INDENT_2))
    if not folder.exists():
        os.rename(partial, folder)
