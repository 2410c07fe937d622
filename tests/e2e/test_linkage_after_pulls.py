"""Linkage by the commands and after pulls: weights estimated from the lake, and a setting that links unasked."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from bench.linkage import population, sources
from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.identity.model import LinkageModel
from fhir_gateway.jobs.pull import pull_files

RUNNER = CliRunner()


def filled(value: Any) -> Any:
    """A value of a row as JSON has it: without what is null or empty."""
    if isinstance(value, dict):
        return {name: filled(one) for name, one in value.items() if one not in (None, [], {})}
    return [filled(one) for one in value] if isinstance(value, list) else value


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two sources of 300 made-up persons, by name."""
    folder = tmp_path_factory.mktemp("sources")
    random = Random(5)  # noqa: S311 - a synthetic population
    made: dict[str, list[str]] = {}
    for row in sources(population(300, random), random).to_pylist():
        source = row.pop("_source")
        row.pop("_member", None)
        made.setdefault(source, []).append(json.dumps({"resourceType": "Patient", **filled(row)}))
    found = {}
    for source, lines in made.items():
        found[source] = folder / f"{source}.ndjson"
        found[source].write_text("\n".join(lines))
    return found


def pulled(folder: Path, files: dict[str, Path], **settings: Any) -> Gateway:
    gateway = Gateway(Settings(data_dir=folder, **settings))
    for source, file in sorted(files.items()):
        pull_files(gateway, [file], source)
    return gateway


def persons(gateway: Gateway, *words: object, code: int = 0) -> Any:
    done = RUNNER.invoke(app, ["--json", "--data-dir", str(gateway.settings.data_dir), "persons", *map(str, words)])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout) if done.stdout.strip().startswith(("{", "[")) else str(done.exception)


def test_weights_estimated_from_the_lake_link(tmp_path: Path, files: dict[str, Path]) -> None:
    gateway = pulled(tmp_path / "data", files)
    before = len(gateway.lake.members())
    persons(gateway, "estimate", tmp_path / "model.toml", "--version", "2026-1")
    assert LinkageModel.load(tmp_path / "model.toml").version == "2026-1"
    linked = persons(gateway, "link", "--model", tmp_path / "model.toml", "--later")
    assert linked["linked"] > 100
    assert len(gateway.lake.members()) == before
    persons(gateway, "apply")
    assert len(gateway.lake.members()) == before - linked["linked"]
    assert "cannot be written" in persons(gateway, "estimate", tmp_path, "--version", "1", code=1)


def test_pulls_link_when_the_setting_says_so(tmp_path: Path, files: dict[str, Path]) -> None:
    by_hand = pulled(tmp_path / "by-hand", files)
    assert gateway_persons(by_hand) == by_hand.lake.rows()  # each patient a person: off by default
    persons(by_hand, "link")
    unasked = pulled(tmp_path / "unasked", files, link_persons=True)
    assert gateway_persons(unasked) == gateway_persons(by_hand) < by_hand.lake.rows()
    assert unasked.resources.counts()["Patient"] == gateway_persons(unasked)


def gateway_persons(gateway: Gateway) -> int:
    return len(gateway.lake.members())
