"""Spans and metrics leave the process by OTLP, with all steps of jobs and nothing about persons."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.evaluate import evaluate
from fhir_gateway.jobs.settle import settle
from fhir_gateway.sandbox.population import generate
from fhir_gateway.sources.endpoint import Endpoint
from fhir_gateway.telemetry.spans import ATTRIBUTES
from tests.support.misbehaving import MisbehavingSource, running
from tests.support.sandbox_contracts import contract_terms, pull_population, tins_of, write_contract
from tests.support.serving import free_port, serving
from tests.support.traces import Collector, collecting, listening, said
from tests.support.waiting import HANG, until


@pytest.fixture
def source() -> Iterator[MisbehavingSource]:
    made = MisbehavingSource()
    made.open = True
    with running(made) as root:
        made.base = f"{root}/fhir"
        yield made


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collecting() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", found.url)
        monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "100")
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "300")
        monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")
        yield found


def test_a_server_that_pulls_tells_a_collector(tmp_path: Path, source: MisbehavingSource, collector: Collector) -> None:
    folder = tmp_path / "data"
    Gateway(Settings(data_dir=folder)).endpoints.add(Endpoint("ehr", source.base, auth="none"))
    port = free_port()
    with serving(folder, port):
        asked = CliRunner().invoke(app, ["--data-dir", str(folder), "pull", "ehr", "--background"])
        assert asked.exit_code == 0, asked.output
        httpx.get(f"http://127.0.0.1:{port}/fhir/Patient/ada-lovelace?name=ada", timeout=HANG)
        wanted = {"job pull", "pull.download", "pull.commit", "pull.publish", "pull.close", "source GET"}
        until(lambda: wanted <= set(collector.spans()))
        until(lambda: "GET /fhir/{resource_type}/{id}" in collector.spans())
        until(lambda: collector.points().get("fhir_gateway_job_seconds"))
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=HANG).text
    assert set(collector.points()) <= set(_names(text))
    assert collector.points()["fhir_gateway_lake_rows"] > 0
    (commit,) = collector.spans()["pull.commit"]
    assert commit["fhir_gateway.source"] == "ehr"
    assert int(commit["fhir_gateway.rows"]) > 0
    for attributes in (one for found in collector.spans().values() for one in found):
        assert set(attributes) <= set(ATTRIBUTES.values())
    resource = {one.key: one.value.string_value for one in collector.traces[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "fhir-gateway"
    assert resource["deployment.environment.name"] == "test"
    everything = b"".join(collector.raw).lower()
    assert b"ada" not in everything
    assert b"/fhir/patient/" not in everything


def test_a_command_sends_what_it_did_before_it_ends(
    tmp_path: Path, collector: Collector, source: MisbehavingSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "3600000")  # only the end sends
    monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "3600000")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    folder = tmp_path / "data"
    Gateway(Settings(data_dir=folder)).endpoints.add(Endpoint("ehr", source.base, auth="none"))
    command = [sys.executable, "-m", "fhir_gateway.cli", "--data-dir", str(folder), "pull", "ehr"]
    subprocess.run(command, check=True, capture_output=True)
    assert {"pull.download", "pull.commit", "pull.publish"} <= set(collector.spans())
    assert "fhir_gateway_job_seconds" in collector.points()
    resource = {one.key: one.value.string_value for one in collector.traces[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "nightly"


def test_evaluation_attribution_and_settlement_are_spans_with_their_steps(tmp_path: Path) -> None:
    population = tmp_path / "population"
    generate(population, patients=40, seed=5, year=2025)
    gateway = pull_population(population, tmp_path / "gateway", lake_buckets=2)
    terms = contract_terms("quality-2025", tins_of(population))
    contract = write_contract(tmp_path, terms)
    now = datetime(2026, 4, 1, tzinfo=UTC)
    with listening() as heard:
        evaluate(gateway, ["ed-visits-per-1000"], (date(2025, 1, 1), date(2025, 12, 31)), now=now)
        settle(gateway, contract, now=now)
    found = heard.get_finished_spans()
    by_id = {one.context.span_id: one for one in found}
    nested = {(one.name, by_id[one.parent.span_id].name if one.parent else None) for one in found}
    assert {
        ("evaluate", None),
        ("evaluate.members", "evaluate"),
        ("evaluate.report", "evaluate"),
        ("settle", None),
        ("attribute", "settle"),
        ("attribute.compute", "attribute"),
        ("attribute.serve", "attribute"),
        ("settle.compute", "settle"),
        ("settle.inputs", "settle.compute"),
        ("settle.serve", "settle"),
        ("settle.record", "settle"),
    } <= nested
    persons = [member.as_py() for member in gateway.lake.members()]
    text = "".join(map(said, found))
    assert not any(person in text for person in persons)


def _names(text: str) -> list[str]:
    return [line.split()[2].removesuffix("_total") for line in text.splitlines() if line.startswith("# TYPE ")]
