"""A synthetic population whose members change from pull to pull.

Claims are adjusted, deleted and new; people come, die, are merged and told apart.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fhir_gateway.factory import Gateway
from fhir_gateway.sandbox.population import generate
from fhir_gateway.sources.models import StagedFile, StagedPull
from tests.support.lake_pulls import People
from tests.support.population import read

Resource = dict[str, Any]

_OWNER = {"Coverage": "beneficiary", "ExplanationOfBenefit": "patient", "Claim": "patient"}


class Changing:
    """What a payer and an EHR send, pull by pull, into the lake of a gateway."""

    def __init__(self, gateway: Gateway, folder: Path, patients: int, seed: int) -> None:
        """Commit everybody but some late ones."""
        folder.mkdir(exist_ok=True)
        generate(folder / "population", patients=patients, seed=seed, year=2025)
        self.gateway, self._folder, self._people = gateway, folder, People()
        self._draw, self._pulls = random.Random(seed), 0  # noqa: S311 - made-up changes
        self._all = {source: read(folder / "population" / source) for source in ("ehr", "payer")}
        self.patients = sorted(one["id"] for one in self._all["payer"]["Patient"])
        self._late = set(self._draw.sample(self.patients, 2))
        for source in self._all:
            self._commit(source, [one for one in self._resources(source) if owner(one) not in self._late])

    def pull(self, kind: str) -> None:
        """One pull: ``claims`` of few members changed, and so on."""
        few = self._draw.sample(self.patients, 2)
        theirs = [one for one in self._resources("payer") if owner(one) in few]
        if kind == "claims":
            self._commit("payer", [self._adjusted(one) for one in theirs if one["resourceType"] in _OWNER])
        elif kind == "people":
            gone = [{**one, "deceasedDateTime": "2025-06-30"} for one in theirs if one["resourceType"] == "Patient"]
            self._commit("payer", gone)
        elif kind == "newcomers":
            self._commit("payer", [one for one in self._resources("payer") if owner(one) in self._late])
        elif kind == "deletions":
            claims = [one["id"] for one in theirs if one["resourceType"] == "ExplanationOfBenefit"]
            self._commit("payer", [], {"ExplanationOfBenefit": claims[::2], "Patient": few[:1]})
        elif kind == "merged":
            first, second, third = self._draw.sample(self.patients, 3)
            self._people.same |= {("payer", first): f"payer/{second}", ("payer", third): "payer/nobody-before"}
            self._commit("payer", theirs[:1])
        elif kind == "told apart":
            self._people.same.clear()
            self._commit("payer", theirs[:1])
        elif kind == "directory":
            self._commit("payer", [self._renumbered(), *theirs[:1]])
        else:
            raise AssertionError(kind)

    def _renumbered(self) -> Resource:
        """The organization that fewest claims name, under another number: their lines are others."""
        claims = self._all["payer"]["ExplanationOfBenefit"]
        named = Counter(one["provider"]["reference"].rpartition("/")[2] for one in claims)
        least = min(named, key=lambda one: (named[one], one))
        (ours,) = (one for one in self._all["payer"]["Organization"] if one["id"] == least)
        numbers = [{**one, "value": f"{100_000_000 + self._pulls}"} for one in ours["identifier"]]
        return {**ours, "identifier": numbers}

    def _resources(self, source: str) -> list[Resource]:
        return [one for resources in self._all[source].values() for one in resources]

    def _adjusted(self, resource: Resource) -> Resource:
        other: Resource = json.loads(json.dumps(resource))
        if other["resourceType"] == "Coverage":
            other["period"]["end"] = f"2025-{self._draw.randrange(1, 13):02}-28"
        elif other["resourceType"] == "ExplanationOfBenefit":
            other["status"] = self._draw.choice(["active", "active", "cancelled"])
            for item in other.get("item", ()):
                for one in item.get("adjudication", ()):
                    if "amount" in one:
                        one["amount"]["value"] = round(one["amount"]["value"] * self._draw.random(), 2)
        return other

    def _commit(self, source: str, resources: Sequence[Resource], gone: Mapping[str, list[str]] | None = None) -> None:
        self._pulls += 1
        texts: dict[str, list[str]] = {}
        for one in resources:
            texts.setdefault(one["resourceType"], []).append(json.dumps(one))
        files = []
        for name, lines in texts.items():
            path = self._folder / f"{self._pulls}-{name}.ndjson"
            path.write_text("\n".join(lines) + "\n")
            files.append(StagedFile(path, path.name, name, None))
        pull = StagedPull(f"pull-{self._pulls}", source, "files", None, tuple(files))
        self.gateway.lake.commit(pull, self._people, deletions=gone)


def owner(resource: Resource) -> str | None:
    """The patient that a resource of the payer is of."""
    if resource["resourceType"] == "Patient":
        return str(resource["id"])
    element = _OWNER.get(resource["resourceType"])
    return str(resource[element]["reference"]).rpartition("/")[2] if element else None


#: Pulls, each of few members.
KINDS = ("claims", "people", "newcomers", "deletions", "merged", "directory", "claims", "told apart")
