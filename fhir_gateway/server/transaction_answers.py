"""What a sender is answered to a transaction that was taken in: a Bundle of type ``transaction-response``.

FHIR R4, 3.1.0.11.4: an entry for each of the request, in its order, with status, location and etag. Ids are those of
the sender, by which later pushes name the resources; versions are those of the lake.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.matching import StoredMatches
from fhir_gateway.jobs.pull import PullReport
from fhir_gateway.server.problems import issue, outcome
from fhir_gateway.sources.push import Asked, Push


def by_type(asked: Sequence[Asked]) -> dict[str, set[str]]:
    """Ids that entries are about, by type."""
    found: dict[str, set[str]] = {}
    for one in asked:
        kind, _, identity = one.reference.partition("/")
        found.setdefault(kind, set()).add(identity)
    return found


def transaction_response(
    gateway: Gateway, report: PullReport, sent: Push, before: Mapping[str, set[str]]
) -> dict[str, Any]:
    """The answer; ``before`` are the ids, by type, of what was there when the transaction came.

    What the pull was warned of, which concerns no single entry, stands with the first one.
    """
    stored = StoredMatches(gateway.lake, report.source)
    written = {kind: stored.versions(kind, ids) for kind, ids in by_type(sent.asked).items()}
    versions = gateway.lake.versions()
    entries: list[dict[str, Any]] = []
    for one in sent.asked:
        kind, _, identity = one.reference.partition("/")
        there = one.found or identity in before.get(kind, ())
        status = "204 No Content" if one.method == "DELETE" else "200 OK" if there else "201 Created"
        response: dict[str, Any] = {"status": status}
        seq = None if one.method == "DELETE" else written[kind].get(identity)
        if seq is not None:
            response["location"] = f"{one.reference}/_history/{seq}"
            response["etag"] = f'W/"{seq}"'
            response["lastModified"] = versions[seq - 1].committed_at
        entries.append({"response": response})
    told = [issue(one.severity, "processing", one.message) for one in report.issues]
    if told and entries:
        entries[0]["response"]["outcome"] = outcome(*told)
    answer = {"resourceType": "Bundle", "type": "transaction-response", "identifier": {"value": report.pull_id}}
    return {**answer, "entry": entries} if entries else answer
