"""``Measure/$evaluate-measure`` (R4 Measure operation; DEQM keeps it as a compatibility alias).

The measure is evaluated now, over the newest version of the lake, while the client waits; the answer is one
MeasureReport. Results of whole populations are better searched: ``MeasureReport?measure=...``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import anyio.to_thread
import orjson
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.db.audience import EVERYONE, Audience
from fhir_gateway.db.resources import ResourceStore
from fhir_gateway.errors import NotFoundError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.publish import REPORTER
from fhir_gateway.measures import reports
from fhir_gateway.measures.evaluate import Evaluator
from fhir_gateway.measures.package import MeasurePackage
from fhir_gateway.measures.population import LakePopulation
from fhir_gateway.measures.supplement import maps_of, supplemented
from fhir_gateway.server.access import access_of, admit
from fhir_gateway.server.negotiation import operation_parameters, require_json
from fhir_gateway.server.parameters import EvaluateMeasure, evaluate_measure_parameters
from fhir_gateway.server.problems import FHIR_JSON, UnknownResource

#: Evaluations that run at the same time; each uses all of a core.
CONCURRENT = 2
#: Combinations of measure and first day of the period whose terminology is remembered; clients choose the day.
REMEMBERED = 200
_ATTRIBUTED = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/ext-attributedProvider"


class EvaluateMeasureOperation:
    """The operation over one gateway; compiled measures are kept."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._limiter: anyio.CapacityLimiter | None = None
        self._packages: list[MeasurePackage] | None = None
        self._evaluators: dict[tuple[str, str], Evaluator] = {}
        self._supplemented: dict[tuple[str, date, str], MeasurePackage] = {}
        self._lock = threading.Lock()

    async def handle(self, request: Request, measure_id: str | None) -> Response:
        """Answer a call on the type or, with ``measure_id``, on one Measure."""
        access = access_of(request)
        access.interaction, access.resource_type, access.resource_id = "$evaluate-measure", "Measure", measure_id
        require_json(request)
        header = request.headers.get("authorization")
        pairs = await operation_parameters(request)
        access.named([name for name, _ in pairs])
        if self._limiter is None:  # needs a running event loop
            self._limiter = anyio.CapacityLimiter(CONCURRENT)

        def work() -> bytes:
            admit(self._gateway.authorization, header, access, "Measure", "r")
            token = admit(self._gateway.authorization, header, access, "MeasureReport", "r")
            return orjson.dumps(self.evaluate(evaluate_measure_parameters(pairs, measure_id), token.audience))

        body = await anyio.to_thread.run_sync(work, limiter=self._limiter)
        return Response(body, media_type=FHIR_JSON)

    def evaluate(self, asked: EvaluateMeasure, audience: Audience = EVERYONE) -> Mapping[str, Any]:
        """The MeasureReport over members that ``audience`` sees.

        Raises NotFoundError for a measure, patient, group or practitioner that is not here, for it.
        """
        store = self._gateway.resources.seen_by(audience)
        evaluator = self._evaluator(asked.measure, store, asked.period[0])
        members = self._members(asked, store)
        copies = self._gateway.settings.encounter_copies
        maps = maps_of([evaluator.package])
        population = LakePopulation(self._gateway.lake, members=members, maps=maps, copies=copies)
        now = datetime.now(ZoneInfo(self._gateway.settings.time_zone))
        result = evaluator.evaluate(population, asked.period, now)
        reporter = {"reference": f"Organization/{REPORTER}"}
        if asked.subject is not None and asked.subject[0] == "Patient" and not len(result.members):
            raise UnknownResource("there is no such Patient")
        if asked.report_type == "individual":
            return reports.individual(result, 0, reporter)
        if asked.report_type == "subject-list":
            return reports.subject_list(result, reporter, stored=False)
        return reports.summary(result, reporter)

    def _evaluator(self, measure: str, store: ResourceStore, on: date) -> Evaluator:
        """The compiled measure of a canonical or id, with terminology in force on a day; raises UnknownResource."""
        if measure.startswith("Measure/") or "/" not in measure:
            stored = _stored(store, measure.removeprefix("Measure/"))
            measure = f"{stored.get('url')}|{stored.get('version')}"
        url, _, version = measure.partition("|")
        with self._lock:
            if self._packages is None:
                profiles = self._gateway.settings.profiles
                self._packages = [
                    MeasurePackage.load(path, profiles=profiles) for path in self._gateway.measure_packages()
                ]
            found = [one for one in self._packages if one.url == url and version in ("", one.version)]
            if not found:
                raise UnknownResource("there is no such Measure that can be evaluated here")
            package = max(found, key=lambda one: one.version)
            asked = (package.package_hash, on, self._gateway.terminology.revision())
            if asked not in self._supplemented:
                if len(self._supplemented) >= REMEMBERED:
                    self._supplemented.clear()
                    self._evaluators.clear()
                self._supplemented[asked] = supplemented(package, self._gateway.terminology, on)
            package = self._supplemented[asked]
            key = (package.package_hash, package.terminology_hash)
            if key not in self._evaluators:
                self._evaluators[key] = Evaluator(package)
            return self._evaluators[key]

    def _members(self, asked: EvaluateMeasure, store: ResourceStore) -> list[str] | None:
        """Person ids the request is about, of those that ``store`` shows; None for everyone."""
        if asked.subject is None:
            return store.members() if asked.practitioner is None else _attributed(store, asked)
        kind, identity = asked.subject
        if kind == "Patient":
            if not store.audience.unlimited and not store.read_many([("Patient", identity)]):
                raise UnknownResource("there is no such Patient")
            return [identity]
        try:
            group = store.read("Group", identity).json()
        except NotFoundError:
            raise UnknownResource("there is no such Group") from None
        return sorted(_active_members(group, asked.period, asked.practitioner))


def _stored(store: ResourceStore, measure_id: str) -> dict[str, Any]:
    try:
        return store.read("Measure", measure_id).json()
    except NotFoundError:
        raise UnknownResource("there is no such Measure") from None


def _attributed(store: ResourceStore, asked: EvaluateMeasure) -> list[str]:
    practitioner = str(asked.practitioner).removeprefix("Practitioner/")
    try:
        store.read("Practitioner", practitioner)
    except NotFoundError:
        raise UnknownResource("there is no such Practitioner") from None
    members: set[str] = set()
    for group in store.ids("Group"):
        members |= set(_active_members(store.read("Group", group).json(), asked.period, practitioner))
    return sorted(members)


def _active_members(group: Mapping[str, Any], period: tuple[date, date], practitioner: str | None) -> Iterable[str]:
    """Patients of an attribution list that are active in the period (ATR: ``inactive`` and ``member.period``)."""
    wanted = None if practitioner is None else practitioner.removeprefix("Practitioner/")
    for entry in group.get("member", ()):
        reference = entry.get("entity", {}).get("reference", "")
        span = entry.get("period", {})
        if entry.get("inactive") or not reference.startswith("Patient/"):
            continue
        if span.get("start", "")[:10] > period[1].isoformat() or span.get("end", "9999")[:10] < period[0].isoformat():
            continue
        if wanted is None or f"Practitioner/{wanted}" in _providers(entry):
            yield reference.removeprefix("Patient/")


def _providers(entry: Mapping[str, Any]) -> list[str]:
    return [
        extension.get("valueReference", {}).get("reference", "")
        for extension in entry.get("extension", ())
        if extension.get("url") == _ATTRIBUTED
    ]
