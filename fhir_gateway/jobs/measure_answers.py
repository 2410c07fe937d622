"""Answers of the operations on Measure: while the client waits, or by a worker, into files.

The answer of DEQM is a Parameters resource with a Bundle for each subject. Written to files it comes in several, of
:data:`TOGETHER` Bundles each, so that neither a worker nor a client has to hold all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import chain, islice

import orjson

from fhir_gateway.jobs.care_gaps import gap_bundles
from fhir_gateway.jobs.collect_data import collected
from fhir_gateway.jobs.measure_requests import Asking, Check, MeasureRequest, Resource
from fhir_gateway.jobs.report_bundles import one_report, report_bundles
from fhir_gateway.jobs.requests import Answer, AnswerFile, Task

#: Bundles in one Parameters resource of a file.
TOGETHER = 100
_FILE = "Parameters.1.ndjson"

Bundles = Callable[[Asking, Check], Iterator[Resource]]
_BUNDLES: Mapping[str, Bundles] = {
    "evaluate": report_bundles,
    "care-gaps": gap_bundles,
    "collect-data": collected,
}


def _together(bundles: Bundles) -> Callable[[Asking, Check], Resource]:
    return lambda asking, check: parameters(bundles(asking, check))


#: What answers a request of each kind, in one resource.
ANSWERS: Mapping[str, Callable[[Asking, Check], Resource]] = {
    "evaluate-measure": lambda asking, check: one_report(asking),
    **{kind: _together(bundles) for kind, bundles in _BUNDLES.items()},
}


def parameters(bundles: Iterator[Resource]) -> Resource:
    """The Parameters resource that every DEQM operation answers: one ``return`` for each Bundle."""
    found = [{"name": "return", "resource": bundle} for bundle in bundles]
    return {"resourceType": "Parameters"} | ({"parameter": found} if found else {})


def carry_out(task: Task) -> Answer:
    """Answer a request as a worker; begun anew after a kill, it gives the same."""
    asking = Asking(task.gateway, MeasureRequest.of(task.payload), task.audience)
    kind = task.asked.kind
    if kind not in _BUNDLES:
        return task.answer(ANSWERS[kind](asking, task.check))
    bundles = _BUNDLES[kind](asking, task.check)
    count = subjects = 0
    with (task.folder / _FILE).open("wb") as out:
        while some := list(islice(bundles, TOGETHER)):
            out.write(orjson.dumps(parameters(iter(some))) + b"\n")
            count, subjects = count + 1, subjects + len(some)
            task.tell(f"{subjects} Bundles")
        if not count:
            out.write(orjson.dumps(parameters(chain())) + b"\n")
    return Answer(asking.request.instant.isoformat(), (AnswerFile("Parameters", _FILE, max(count, 1)),))
