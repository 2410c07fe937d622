"""The walls of the house: what may be imported, how large a module grows, which words are used."""

from __future__ import annotations

import ast
import re
import statistics
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "fhir_gateway"
MODULES = sorted(PACKAGE.rglob("*.py"))


def requirement_names(requirements: list[str]) -> set[str]:
    names = (re.match(r"[A-Za-z0-9._-]+", one) for one in requirements)
    return {re.sub(r"[-_.]+", "-", name[0]).lower() for name in names if name}


def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("module", "not_loaded"),
    [
        ("fhir_gateway.cli", "fhir.resources duckdb sqlalchemy fastapi scipy"),
        ("fhir_gateway.cli.app", "fhir.resources fastapi"),
        ("fhir_gateway.server.app", "fhir.resources"),
        ("fhir_gateway.factory", "fhir.resources fastapi duckdb sqlalchemy"),
        ("fhir_gateway.lake.store", "fhir.resources fastapi httpx"),
        ("fhir_gateway.cql.compile", "fhir.resources fastapi httpx sqlalchemy deltalake"),
        ("fhir_gateway.r4.models", "fhir.resources"),
    ],
)
def test_importing_a_module_loads_only_what_it_needs(module: str, not_loaded: str) -> None:
    code = f"import sys, {module}; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(not_loaded.split()) & set(ran.stdout.split()) == set()


def test_modules_are_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES if path.stat().st_size}
    assert statistics.median(lengths.values()) <= 150
    assert {str(path.relative_to(ROOT)): length for path, length in lengths.items() if length > 450} == {}


def test_names_say_what_things_are() -> None:
    empty_words = re.compile(r"(Manager|Helper|Processor|Util|Utils|Data|Info)$")
    classes = {
        node.name
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef)
    }
    assert {name for name in classes if empty_words.search(name)} == set()
    assert [path for path in MODULES if path.stem in ("utils", "util", "helpers", "common", "misc")] == []


def code_and_pages() -> Iterator[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    for name in listed.stdout.split("\0"):
        if name.endswith((".py", ".md", ".toml", ".yaml", ".sql", ".cql", ".mjs", "Makefile", "run", ".sh", ".lock")):
            yield ROOT / name


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_nothing_names_a_home_folder() -> None:
    homes = re.compile(r"(?<![\w.])/(home|root|Users)/\w")
    found = {
        f"{path.relative_to(ROOT)}:{number}"
        for path in code_and_pages()
        if path.exists() and path != Path(__file__)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if homes.search(line)
    }
    assert found == set()


def test_the_lock_pins_every_dependency_and_names_no_host() -> None:
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8")
    pinned = requirement_names(lock.splitlines())
    declared = project()
    direct = requirement_names(declared["project"]["dependencies"])  # type: ignore[index]
    tools = requirement_names(declared["dependency-groups"]["dev"])  # type: ignore[index]
    assert (direct | tools) - pinned == set()
    assert "://" not in lock
    assert all("==" in line for line in lock.splitlines())


def test_every_dependency_has_a_decision() -> None:
    decisions = " ".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "adr").glob("*.md")).lower()
    declared = requirement_names(project()["project"]["dependencies"])  # type: ignore[index]
    assert {name for name in declared if name not in decisions} == set()


def test_dependencies_are_sorted() -> None:
    declared = project()
    for names in (declared["project"]["dependencies"], declared["dependency-groups"]["dev"]):  # type: ignore[index]
        assert names == sorted(names, key=lambda name: re.split(r"[\[><=]", name)[0].lower())


def test_ci_runs_the_same_verbs_as_a_desk() -> None:
    run = ROOT / ".ci" / "run"
    assert run.stat().st_mode & 0o111
    assert "set -euo pipefail" in run.read_text(encoding="utf-8")
    assert "test lint type" in run.read_text(encoding="utf-8")
    verbs = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert {"install", "demo", "test", "lint", "type", "docs", "openapi", "bench-measures", "bench-ingest"} <= verbs


def test_the_image_is_small_in_rights() -> None:
    lines = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if line.startswith("FROM ")]) == 2
    users = [line.split()[1] for line in lines if line.startswith("USER ")]
    assert users == ["10001:10001"]
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    copies = [line.split()[1:-1] for line in lines if line.startswith("COPY ") and "--from" not in line]
    sources = [word for words in copies for word in words if not word.startswith("--")]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert set(sources) == {line[1:] for line in ignored if line.startswith("!")}
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_the_compose_file_keeps_secrets_in_files() -> None:
    compose = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text(encoding="utf-8"))
    services = compose["services"]
    assert services["database"]["image"].startswith("postgres:16")
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert set().union(*(one.get("secrets", ()) for one in services.values())) == set(compose["secrets"])
    assert all(set(secret) == {"file"} for secret in compose["secrets"].values())
    for name in ("gateway", "worker", "migrate"):
        ours = services[name]
        assert ours["read_only"] is True
        assert ours["cap_drop"] == ["ALL"]
        if name != "migrate":
            assert ours["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    published = [port for one in services.values() for port in one.get("ports", ())]
    assert all(port.startswith("127.0.0.1:") for port in published)
    assert services["gateway"]["ports"] == ["127.0.0.1:8000:8000"]
    named = set().union(*(one.get("environment", {}) for one in services.values()))
    assert {
        name for name in named if re.search("PASSWORD|KEY|TOKEN|DATABASE_URL", name) and not name.endswith("_FILE")
    } == set()


def test_the_entrypoint_reads_secrets_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgresql://gateway:it's $HOME@database/gateway\n", encoding="utf-8")
    gateway = tmp_path / "fhir-gateway"
    gateway.write_text('#!/bin/sh\necho "$FHIR_GATEWAY_DATABASE_URL|$#|$1|${FHIR_GATEWAY_DATABASE_URL_FILE-gone}"\n')
    gateway.chmod(0o755)
    ran = subprocess.run(
        ["/bin/sh", str(ROOT / "docker" / "entrypoint.sh"), "serve"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "FHIR_GATEWAY_DATABASE_URL_FILE": str(tmp_path / "url")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "postgresql://gateway:it's $HOME@database/gateway|1|serve|gone\n"


def test_test_modules_have_names_of_their_own() -> None:
    """Without packages in ``tests``, two modules of one name cannot be collected in one run."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
