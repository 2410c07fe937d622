"""Which measures a request means: ids, canonicals, business identifiers, topics, a program; as an audience sees them.

A program is a contract (its measures), by id, url or identifier; or what Measures name in a ``useContext`` of the code
``program``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fhir_gateway.contracts import Contract
from fhir_gateway.db.audience import label
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.measures.package import MeasurePackage

_NO_MEASURE = "there is no such Measure that can be evaluated here"


class Selection:
    """Finds the packages of measures, over the resources that one audience sees."""

    def __init__(self, gateway: Gateway, store: ResourceStore) -> None:
        """``store`` as the audience sees it."""
        self._gateway, self._store = gateway, store

    def of_id(self, measure_id: str) -> MeasurePackage:
        """The measure of a served Measure's id, or of an installed one that is not served yet; NotFoundError."""
        try:
            served = self._store.read("Measure", measure_id).json()
        except NotFoundError:
            return self._gateway.measures.by_id(measure_id)
        version = served.get("version")
        return self.of_canonical(f"{served.get('url')}|{version}" if version else str(served.get("url")))

    def of_canonical(self, canonical: str) -> MeasurePackage:
        """The measure of ``url`` or ``url|version``; NotFoundError."""
        return self._gateway.measures.by_canonical(canonical)

    def of_identifier(self, token: str) -> MeasurePackage:
        """The measure of a business identifier; NotFoundError."""
        return self._gateway.measures.by_identifier(token)

    def of_reference(self, text: str) -> MeasurePackage:
        """The measure of a canonical, an id, or ``Measure/id``; NotFoundError."""
        if text.startswith("Measure/") or "/" not in text:
            return self.of_id(text.removeprefix("Measure/"))
        return self.of_canonical(text)

    def on_topics(self, tokens: Iterable[str]) -> list[MeasurePackage]:
        """The measures with one of these topics; all measures without topics."""
        return self._gateway.measures.on_topics(list(tokens))

    def of_program(self, token: str) -> list[MeasurePackage]:
        """The measures of a program that the audience may know of; NotFoundError without one."""
        for contract in self._contracts():
            identifier = contract.identifier
            names = (contract.id, contract.url, f"{contract.url}|{contract.version}", identifier.value)
            if token in (*names, f"{identifier.system}|{identifier.value}"):
                return distinct(self.of_canonical(one.canonical) for one in contract.measures if not one.metric)
        found = [one for one in self._gateway.measures.packages() if token in _programs(one.measure)]
        if not found:
            raise NotFoundError("there is no such program")
        return found

    def _contracts(self) -> Iterable[Contract]:
        folder = self._gateway.contracts_folder
        seen = self._store.audience.labels
        for path in sorted(folder.glob("*.toml")) if folder.is_dir() else ():
            contract = Contract.load(path)
            kinds = {label("contract", contract.id)["code"]}
            kinds |= {label("organization", tin)["code"] for tin in contract.provider.tins}
            if seen is None or seen & kinds:
                yield contract


def distinct(packages: Iterable[MeasurePackage]) -> list[MeasurePackage]:
    """Each measure once, in the order they were named."""
    return list({one.package_hash: one for one in packages}.values())


def _programs(measure: Mapping[str, Any]) -> set[str]:
    """Names and codes of the programs that a Measure says it is used in."""
    found: set[str] = set()
    for context in measure.get("useContext", ()):
        if context.get("code", {}).get("code") == "program":
            concept = context.get("valueCodeableConcept", {})
            codings = concept.get("coding", ())
            found |= {f"{coding.get('system')}|{coding.get('code')}" for coding in codings}
            found |= {str(coding.get("code")) for coding in codings} | {str(concept.get("text"))}
    return found
