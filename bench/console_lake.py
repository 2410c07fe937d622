"""What the pages of the console show beside the main job's results, made by the product's own jobs.

    python -m bench.console_lake FOLDER

Over the population that ``bench.main_job`` left in FOLDER: a second attribution (churn), a pull of a clinic of which
some lines are refused and a few persons were admitted yesterday, and what follows from data: risk scores and coding
gaps, utilization, claim checks, prediction models and their lists, outreach, alerts, projections, disputes, clients.
Each step is made once; FOLDER says which were. Nothing is written that a job, a command or a form would not write.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.registration import Registration
from fhir_gateway.config import Settings
from fhir_gateway.contracts import Contract
from fhir_gateway.demo.sources import register_endpoint
from fhir_gateway.demo.tour import CONTRACTS
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import alerts, outreach, prediction_models, predictions, settlement_runs, work_lists
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import evidence_runs
from fhir_gateway.jobs.book import ENDED, JobBook
from fhir_gateway.jobs.calculations import calculation_id
from fhir_gateway.jobs.durable import Worker
from fhir_gateway.jobs.projections import project_and_keep
from fhir_gateway.jobs.pull import begin_endpoint
from fhir_gateway.jobs.risk import score_members
from fhir_gateway.jobs.risk_gaps import compute_gaps
from fhir_gateway.jobs.utilization import compute, publish
from fhir_gateway.sandbox.server import SandboxServer
from fhir_gateway.sources.endpoint import Endpoint

#: The day that the demo's contracts are settled on; measures are of the year before.
TODAY = datetime(2026, 4, 1, tzinfo=UTC)
YEAR = date(2025, 1, 1), date(2025, 12, 31)
_EVE = TODAY.date() - timedelta(1)
#: Persons of the clinic, and of how many of its lines one is refused.
_CLINIC, _REFUSED = 2_000, 20
_POLL_SECONDS = 1.0


def open_gateway(folder: Path) -> Gateway:
    """A gateway over the population."""
    return Gateway(Settings(data_dir=folder / "gateway", lake_buckets=None, log_level="error"))


def _twice_attributed(gateway: Gateway, folder: Path) -> None:
    """Claims paid by then only: members come and go between the two attributions."""
    for path in CONTRACTS:
        text = path.read_text(encoding="utf-8")
        earlier = folder / path.name
        earlier.write_text(text.replace("paid_through = 2026-03-31", "paid_through = 2025-12-31"), encoding="utf-8")
        identifier = re.search(r'^id = "([^"]+)"', text, re.MULTILINE)
        assert identifier is not None
        if len(evidence_runs(gateway, identifier[1])) < 2:
            attribute(gateway, str(earlier))
            attribute(gateway, str(path))


def _clinic(gateway: Gateway, folder: Path) -> None:
    """A third source: persons that the others know, some admitted yesterday, and lines that no rule lets pass."""
    alerts.find(gateway, TODAY - timedelta(1))  # what was before is no news
    served = folder / "clinic"
    served.mkdir(exist_ok=True)
    with open(folder / "population" / "ehr" / "Patient.000.ndjson", "rb") as lines:
        patients = [orjson.loads(line) for line in islice(lines, _CLINIC)]
    _write(served / "Patient.000.ndjson", patients)
    _write(served / "Encounter.000.ndjson", (_admission(number, one) for number, one in enumerate(patients)))
    endpoint = register_endpoint(gateway, "clinic")
    keys = {str(endpoint.client_id): gateway.endpoints.public_jwks("clinic")}
    with SandboxServer(served, clients=keys, port=urlsplit(endpoint.base_url).port or 0, name="Clinic"):
        row = begin_endpoint(gateway, "clinic")
        _work(gateway, {"pull": (row.id, {"pull_id": row.id})})
    alerts.find(gateway, TODAY)


def _admission(number: int, patient: dict[str, Any]) -> dict[str, Any]:
    found = {
        "resourceType": "Encounter",
        "id": f"stay-{number}",
        "status": "in-progress",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IMP"},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "period": {"start": f"{TODAY - timedelta(1):%Y-%m-%d}T08:00:00Z"},
    }
    return found | {"status": "begun"} if number % _REFUSED == 0 else found


def _write(path: Path, resources: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> None:
    path.write_bytes(b"".join(orjson.dumps(one) + b"\n" for one in resources))


def _checked(gateway: Gateway, _: Path) -> None:
    """All claims by all edits, as a job."""
    _work(gateway, {"claims": (calculation_id("claims"), {"asked": {"now": TODAY.isoformat()}})})


def _work(gateway: Gateway, asked: dict[str, tuple[str, dict[str, Any]]]) -> None:
    """Submit jobs and carry them out in this process; SystemExit when one fails."""
    with Worker(gateway, background=True), closing(JobBook(gateway)) as book:
        for kind, (job, arguments) in asked.items():
            book.submit(kind, job, **arguments)
        for job, _ in asked.values():
            while (found := book.job(job)).state not in ENDED:
                time.sleep(_POLL_SECONDS)
            if found.state != "done":
                raise SystemExit(f"{found.kind} {found.id} is {found.state}: {found.error}")


def _risk(gateway: Gateway, _: Path) -> None:
    score_members(gateway, "CMS-HCC-V28", TODAY.year)
    compute_gaps(gateway, "V28", TODAY.year, rate=Decimal(12000), now=TODAY)


def _utilization(gateway: Gateway, _: Path) -> None:
    for year in (YEAR[0].year - 1, YEAR[0].year):
        for contract in (None, *CONTRACTS):
            period = date(year, 1, 1), date(year, 12, 31)
            found = compute(
                gateway, period, contract=None if contract is None else str(contract), dimensions=("sex", "age-band")
            )
            publish(gateway, found, TODAY)


def _predicted(gateway: Gateway, _: Path) -> None:
    predictions.score(gateway, _EVE, now=TODAY)
    prediction_models.learn(gateway, _EVE, now=TODAY)
    work_lists.work_list(gateway, _EVE, now=TODAY)
    work_lists.readmission_list(gateway, _EVE, now=TODAY)


def _called(gateway: Gateway, _: Path) -> None:
    outreach.refresh(gateway, _EVE, now=TODAY)


def _projected(gateway: Gateway, _: Path) -> None:
    for path in CONTRACTS:
        for month in (6, 9):
            project_and_keep(gateway, str(path), date(YEAR[0].year, month, 30), "bench", TODAY)


def _disputed(gateway: Gateway, _: Path) -> None:
    """One answered and one open for each settlement; its notice opens the window."""
    for run in gateway.settlements.runs():
        settlement_runs.notify(gateway, run.id, TODAY)
        settlement = settlement_runs.settled(gateway, run.id)[2]
        for line in islice(settlement.payable(), 2):
            filed = settlement_runs.open_dispute(
                gateway, run.id, line.id, "claims", Decimal("1000.00"), "Claims are missing", "bench", TODAY
            )
            settlement_runs.answer_dispute(gateway, filed.id, "Which ones?", "bench", TODAY)


def _clients(gateway: Gateway, _: Path) -> None:
    """One with keys, and one that registered itself and waits."""
    keys = public_key_set(generate_key("ES384", "bench"))
    contract = Contract.load(CONTRACTS[0]).id
    gateway.authorization.register_client(
        "analytics", scopes="system/*.rs", jwks=keys, name="Analytics", grants=[f"contract:{contract}"]
    )
    asked = {
        "client_name": "Dashboard",
        "grant_types": ["client_credentials"],
        "token_endpoint_auth_method": "private_key_jwt",
        "scope": "system/MeasureReport.rs",
        "jwks": public_key_set(generate_key("ES384", "waiting")),
    }
    answer = Registration(gateway.authorization.store, "open", False).register(asked, None)
    if answer.status != 201:
        raise SystemExit(f"a client may not register itself: {answer.body}")


def _unfinished(gateway: Gateway, _: Path) -> None:
    """An endpoint that nobody has registered us at, a pull that waits and a job that waits: their pages follow them."""
    gateway.endpoints.add(Endpoint("hospital", "https://hospital.example/fhir"))
    row = begin_endpoint(gateway, "clinic")
    with closing(JobBook(gateway)) as book:
        book.submit("pull", row.id, pull_id=row.id)
        book.submit("claims", calculation_id("claims"), asked={"now": TODAY.isoformat()})


#: In their order: a pull makes a new version of the lake, which what follows is about.
STEPS: dict[str, Callable[[Gateway, Path], None]] = {
    "attributed": _twice_attributed,
    "clinic": _clinic,
    "claims": _checked,
    "risk": _risk,
    "utilization": _utilization,
    "predictions": _predicted,
    "outreach": _called,
    "projections": _projected,
    "disputes": _disputed,
    "clients": _clients,
    "unfinished": _unfinished,
}


def fill(folder: Path) -> None:
    """Take the steps that were not taken."""
    for name, step in STEPS.items():
        made = folder / f"filled-{name}"
        if made.exists():
            continue
        began = time.perf_counter()
        gateway = open_gateway(folder)
        step(gateway, folder)
        gateway.engine.dispose()
        made.touch()
        print(f"{name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    fill(parser.parse_args().folder)
