"""What lies in docker/ names what there is (metrics, settings, secrets), and its entry point keeps secrets apart."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from fhir_gateway.config import Settings
from fhir_gateway.telemetry import meters
from tests.support.databases import control_plane

DOCKER = Path(__file__).parents[2] / "docker"
ENTRYPOINT = DOCKER / "entrypoint.sh"
METRIC = re.compile(r"\bfhir_gateway[a-z_]*")
#: Metrics of Prometheus itself.
ALWAYS = {"up"}
#: Settings of the libraries beneath, by their prefix.
FOREIGN = ("AWS_", "OTEL_")


def manifests(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.rglob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Samples that Prometheus gets, with their labels, once everything has happened."""
    from fhir_gateway.factory import Gateway
    from fhir_gateway.server.audit import Access
    from fhir_gateway.server.metrics import Metrics
    from fhir_gateway.sources.models import LedgerEntry

    folder = tmp_path_factory.mktemp("metrics")
    with control_plane("sqlite", folder):
        gateway = Gateway(Settings(data_dir=folder / "data"))
        metrics = Metrics(gateway)
        metrics.answered(Access("1"), 0.1)
        meters.committed([LedgerEntry("Patient", None, 1, 1, 0, 0, 0)])
        with meters.job("settle"):
            pass
        found: dict[str, set[str]] = {}
        for registry in (metrics.registry, meters.REGISTRY):
            for family in registry.collect():
                # those of the control plane have samples only where there is something to tell
                shown = family.name + ("_total" if family.type == "counter" else "")
                found.setdefault(shown, set()).update(getattr(family, "_labelnames", ()))
                for sample in family.samples:
                    found.setdefault(sample.name, set()).update(sample.labels)
        return found


def queries() -> list[str]:
    board = json.loads((DOCKER / "grafana/dashboards/fhir-gateway.json").read_text(encoding="utf-8"))
    rules = yaml.safe_load((DOCKER / "prometheus/alerts.yml").read_text(encoding="utf-8"))
    panels = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    alerts = [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(panels) > 15
    assert len(alerts) > 5
    return panels + alerts


def test_every_query_is_about_metrics_that_there_are(emitted: dict[str, set[str]]) -> None:
    asked = {name for query in queries() for name in METRIC.findall(query)}
    assert asked - set(emitted) == set()
    families = {re.sub(r"_(total|created|bucket|sum|count)$", "", name) for name in asked}
    shown = {re.sub(r"_(total|created|bucket|sum|count)$", "", name) for name in emitted}
    assert shown - families == set(), "a metric that nobody looks at"


def test_labels_that_queries_ask_for_are_there(emitted: dict[str, set[str]]) -> None:
    for query in queries():
        for name, chosen in re.findall(r"(fhir_gateway[a-z_]*)\{([^}]*)\}", query):
            labels = set(re.findall(r"(\w+)\s*(?:=|!=|=~|!~)", chosen))
            assert labels <= emitted[name], query


def test_manifests_and_compose_say_settings_that_there_are() -> None:
    compose = yaml.safe_load((DOCKER / "compose.yaml").read_text(encoding="utf-8"))
    said = set(compose["services"]["gateway"]["environment"]) | set(compose["services"]["worker"]["environment"])
    for manifest in manifests(DOCKER / "kubernetes"):
        for generator in manifest.get("configMapGenerator", ()):
            said |= {literal.split("=", 1)[0] for literal in generator["literals"]}
    known = {f"FHIR_GATEWAY_{name.upper()}" for name in Settings.model_fields}
    ours = {name.removesuffix("_FILE") for name in said if not name.startswith(FOREIGN)}
    assert ours - known == set()
    as_files = {name for name in said if name.endswith("_FILE")}
    assert {name.removesuffix("_FILE") for name in as_files} <= set(_secrets_of_the_entrypoint())


def test_containers_of_the_manifests_are_confined() -> None:
    deployments = [one for one in manifests(DOCKER / "kubernetes/base") if one["kind"] == "Deployment"]
    assert {one["metadata"]["name"] for one in deployments} == {"fhir-gateway", "fhir-gateway-worker"}
    for deployment in deployments:
        pod = deployment["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        for container in [*pod["initContainers"], *pod["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }
            assert "memory" in container["resources"]["limits"]
            assert "env" not in container  # secrets are files
        for container in pod["containers"]:
            assert {"startupProbe", "livenessProbe"} <= set(container)
    gateway = next(one for one in deployments if one["metadata"]["name"] == "fhir-gateway")
    assert gateway["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert not [one for one in manifests(DOCKER / "kubernetes") if one["kind"] == "Secret"]


def _secrets_of_the_entrypoint() -> list[str]:
    text = ENTRYPOINT.read_text(encoding="utf-8").replace("\\\n", " ")
    listed = re.search(r"for name in ([^;]+); do", text)
    assert listed is not None
    return listed[1].split()


def _entered(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The entry point as the image runs it, with a command in the gateway's place that shows what it was given."""
    command = folder / "bin" / "fhir-gateway"
    command.parent.mkdir(exist_ok=True)
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nenv\n')
    command.chmod(0o755)
    given = {"PATH": f"{command.parent}:{os.environ['PATH']}", **environment}
    return subprocess.run(["sh", str(ENTRYPOINT), "serve", "a b"], env=given, capture_output=True, text=True)


def test_the_entry_point_hands_on_what_files_hold(tmp_path: Path) -> None:
    given = {}
    for name in _secrets_of_the_entrypoint():
        file = tmp_path / f"{name} it's"
        file.write_text(f"a $(b) '{name}' \"quoted\"\n")
        given[f"{name}_FILE"] = str(file)
    shown = _entered(tmp_path, **given, FHIR_GATEWAY_ENV_FILE="/etc/settings").stdout.splitlines()
    assert shown[:2] == ["serve", "a b"]
    for name in _secrets_of_the_entrypoint():
        assert f"{name}=a $(b) '{name}' \"quoted\"" in shown
        assert not any(line.startswith(f"{name}_FILE") for line in shown)
    assert "FHIR_GATEWAY_ENV_FILE=/etc/settings" in shown


def test_the_entry_point_ends_where_a_secret_cannot_be_read(tmp_path: Path) -> None:
    ran = _entered(tmp_path, FHIR_GATEWAY_DATABASE_URL_FILE=str(tmp_path / "nothing"))
    assert ran.returncode != 0
    assert ran.stdout == ""


def test_without_files_nothing_is_changed(tmp_path: Path) -> None:
    shown = _entered(tmp_path, FHIR_GATEWAY_DATABASE_URL="sqlite://").stdout.splitlines()
    assert "FHIR_GATEWAY_DATABASE_URL=sqlite://" in shown
    assert not any(line.startswith("AWS_") for line in shown)
