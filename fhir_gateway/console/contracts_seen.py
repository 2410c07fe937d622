"""The contracts that somebody may see, by the Measure that each is served as.

They are those of the contracts folder and, of others, the version that was settled last.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from fhir_gateway.contracts import Contract, Settlement
from fhir_gateway.contracts.disputes import Dispute
from fhir_gateway.contracts.documents import SUFFIXES
from fhir_gateway.contracts.runs import Run
from fhir_gateway.db.audience import Audience
from fhir_gateway.errors import GatewayError, NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import settlement_runs
from fhir_gateway.jobs.contract_versions import kept_document


@dataclass(frozen=True, slots=True)
class Listed:
    """A contract document; ``problem`` says why it cannot be loaded, and then there are no ``terms``."""

    id: str
    title: str
    path: Path
    terms: Contract | None
    problem: str | None = None


class ContractsSeen:
    """Contracts by id. Documents are read anew when they change. Safe to share between threads."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._read: dict[Path, tuple[float, Listed]] = {}

    def all(self, audience: Audience) -> list[Listed]:
        """Those that an audience sees, by title. One that cannot be loaded is shown to who sees everything."""
        found = [self._load(path) for path in self._paths()]
        known = {one.id for one in found}
        settled = {run.contract: run for run in sorted(self._gateway.settlements.runs(), key=lambda one: one.made)}
        others = settled.keys() - known
        found += [self._load(kept_document(self._gateway, name, settled[name].version)) for name in others]
        if not audience.unlimited:
            seen = self._gateway.resources.seen_by(audience)
            served = {one.id for one in seen.read_many(("Measure", one.id) for one in found if one.terms)}
            found = [one for one in found if one.id in served]
        return sorted(found, key=lambda one: one.title)

    def get(self, audience: Audience, contract_id: str) -> Listed:
        """One of them; NotFoundError also for one that is not seen."""
        for one in self.all(audience):
            if one.id == contract_id:
                return one
        raise NotFoundError("there is no such contract")

    def runs(self, audience: Audience, contract_id: str | None = None) -> list[Run]:
        """Settlements that an audience sees, in the order they were made."""
        runs = self._gateway.settlements.runs(contract_id)
        seen = self._gateway.resources.seen_by(audience)
        mine = {one.id for one in seen.read_many(("MeasureReport", run.id) for run in runs)}
        return [run for run in runs if run.id in mine]

    def settled(self, audience: Audience, run_id: str) -> tuple[Run, Contract, Settlement]:
        """One of them with its contract and lines; NotFoundError also for one that is not seen."""
        self._gateway.resources.seen_by(audience).read("MeasureReport", run_id)
        return settlement_runs.settled(self._gateway, run_id)

    def dispute(self, audience: Audience, dispute_id: str) -> Dispute:
        """A dispute about one of them; NotFoundError also for one that is not seen."""
        dispute = self._gateway.settlements.dispute(dispute_id)
        self._gateway.resources.seen_by(audience).read("MeasureReport", dispute.run)
        return dispute

    def _paths(self) -> list[Path]:
        folder = self._gateway.contracts_folder
        return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES) if folder.is_dir() else []

    def _load(self, path: Path) -> Listed:
        changed = path.stat().st_mtime
        known = self._read.get(path)
        if known is not None and known[0] == changed:
            return known[1]
        try:
            terms = Contract.load(path)
            listed = Listed(terms.id, terms.title, path, terms)
        except GatewayError as error:
            listed = Listed(path.stem, path.stem, path, None, str(error))
        self._read[path] = (changed, listed)
        return listed
