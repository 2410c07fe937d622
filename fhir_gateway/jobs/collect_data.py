"""``$collect-data`` of DEQM: of each subject the data that measures are interested in, with a report for each."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from fhir_gateway.jobs.measure_requests import Asking, Check, Resource, chunks
from fhir_gateway.jobs.reporting import by_member, population_of, resources_of, served_reference
from fhir_gateway.measures.data_exchange import data_exchange
from fhir_gateway.measures.dialect import DIALECTS
from fhir_gateway.measures.interest import criteria, data_of_interest


def collected(asking: Asking, check: Check) -> Iterator[Resource]:
    """A Bundle for each subject: exactly one data exchange report for each measure, and each resource once.

    Nothing is evaluated but the retrieves of the measures; a subject without any data of interest has reports, too.
    """
    request, gateway = asking.request, asking.gateway
    evaluators = [gateway.measures.evaluator(package, request.days[0]) for package in asking.packages()]
    linked = DIALECTS[request.family].link_ids
    names = [[one.link_id if linked else one.id for one in criteria(evaluator)] for evaluator in evaluators]
    reporting = asking.reporting()
    for members in chunks(asking.everyone(), asking.gateway.lake.buckets):
        check()
        population = population_of(gateway, evaluators, members)
        rows = data_of_interest(evaluators, population, request.days, request.instant)
        resources = resources_of(gateway, asking.store, rows, population.lake_version, asking.may_read)
        of_member = by_member(rows)
        for member in members:
            found: list[list[tuple[str, list[str]]]] = [[] for _ in evaluators]
            for row in of_member[member].to_pylist() if member in of_member else ():
                wanted = dict.fromkeys(names[row["measure"]][number] for number in sorted(row["criteria"]))
                found[row["measure"]].append((served_reference(row), list(wanted)))
            reports = [
                asking.located(
                    data_exchange(
                        evaluator.package,
                        _identity(request.now, evaluator.package.package_hash, member),
                        f"Patient/{member}",
                        asking.reporter,
                        request.days,
                        request.instant,
                        evidence,
                        family=request.family,
                    )
                )
                for evaluator, evidence in zip(evaluators, found, strict=True)
            ]
            references = dict.fromkeys(
                [f"Patient/{member}", *(reference for evidence in found for reference, _ in evidence)]
            )
            data = [resources[name] for name in references if name in resources]
            yield asking.bundle("collection", [*reports, *reporting, *data], member)


def _identity(now: str, package_hash: str, member: str) -> str:
    return f"d{hashlib.sha256(f'{now} {package_hash} {member}'.encode()).hexdigest()[:30]}"
