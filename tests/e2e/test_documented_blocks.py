"""Every code block of the documentation does what it says: commands and requests run, examples load."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from rich.console import Console
from sqlalchemy import text

from fhir_gateway.demo.steps import Steps
from fhir_gateway.demo.tour import Options, open_gateway, run
from tests.support.documented import PAGES, ROOT, Block, blocks, directions, script
from tests.support.serving import free_port, serving
from tests.support.waiting import HANG
from tests.support.warm import warmed

BLOCKS = [block for page in PAGES for block in blocks(page)]
WITH_COMMANDS = [
    page for page in PAGES if any(block.kind in ("commands", "request") for block in BLOCKS if block.page == page)
]

#: Pages whose commands are the installed program; the others' are forked from one that has its imports already.
AS_INSTALLED = ("README.md", "quick-start.md")


@dataclass(frozen=True)
class World:
    """What a demo over a small population left: its data folder, files it pulled, and names that commands take."""

    folder: Path
    names: dict[str, str]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    options = Options(tmp_path_factory.mktemp("documented"), 150, port=free_port())
    gateway = open_gateway(options)
    summary = run(gateway, options, Steps(Console(quiet=True)))
    with gateway.engine.connect() as connection:
        roster = connection.execute(
            text("SELECT body FROM fhir_resource WHERE type = 'Group' AND id = :id"),
            {"id": "demo-shared-savings-2025"},
        ).scalar_one()
    members = [one["entity"]["reference"].removeprefix("Patient/") for one in orjson.loads(roster)["member"]]
    names = {
        "MEMBER": members[0],
        "ANOTHER": members[1],
        "REPORT": summary.settlements[0].report,
        "EXPORTS": str(options.folder / "population"),
    }
    gateway.engine.dispose()
    return World(gateway.settings.data_dir, names)


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``fhir-gateway`` that does not wait for its imports; what a newcomer types is run as installed."""
    with warmed(tmp_path_factory.mktemp("warm")) as folder:
        yield folder


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_a_page_run_in_their_order(page: Path, world: World, warm: Path, tmp_path: Path) -> None:
    stage = directions(page)
    data, desk = tmp_path / "data", tmp_path / "desk"
    desk.mkdir()
    if not stage.empty:
        shutil.copytree(world.folder, data)
    for name in ("fhir_gateway", "measures", "tests", "docker", "docs"):
        (desk / name).symlink_to(ROOT / name)
    for name, content in stage.files.items():
        path = desk / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    settings = {"DATA_DIR": str(data), "PUBLIC_URL": base, **stage.settings}
    environment = {
        **os.environ,
        **{f"FHIR_GATEWAY_{name}": value for name, value in settings.items()},
        "PATH": os.pathsep.join(
            [*([] if page.name in AS_INSTALLED else [str(warm)]), str(Path(sys.executable).parent), os.environ["PATH"]]
        ),
        "PYTHONPATH": str(ROOT),
        **world.names,
        "BASE": base,
        "GATEWAY": base,
        "PORT": str(port),
        "COLUMNS": "200",
    }
    (tmp_path / "page.sh").write_text(script(page), "utf-8")
    with ExitStack() as stack:
        if stage.serve:
            stack.enter_context(serving(data, port, None, **stage.settings))
        done = subprocess.run(
            ["/bin/bash", str(tmp_path / "page.sh")],
            cwd=desk,
            env=environment,
            capture_output=True,
            text=True,
            timeout=HANG,
            check=False,
        )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"


@pytest.mark.parametrize("block", [one for one in BLOCKS if one.kind == "python"], ids=lambda block: block.place)
def test_examples_in_python_run(block: Block, tmp_path: Path) -> None:
    """In a process of their own: some register what nobody else should see."""
    (tmp_path / "example.py").write_text(block.text, "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, str(tmp_path / "example.py")],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.kind in ("toml", "yaml", "json")], ids=lambda block: block.place
)
def test_documents_can_be_read(block: Block) -> None:
    readers: dict[str, Callable[[str], Any]] = {"toml": tomllib.loads, "yaml": yaml.safe_load, "json": json.loads}
    assert readers[block.kind](block.text)


def test_no_block_is_of_a_kind_that_nobody_checks() -> None:
    kinds = {block.kind for block in BLOCKS}
    assert kinds <= {"commands", "request", "python", "toml", "yaml", "json", "text", "mermaid", "sql"}


def test_what_is_not_run_is_there_and_has_its_reason() -> None:
    for page in PAGES:
        lines = [line.strip() for block in blocks(page) for line in block.text.splitlines()]
        for start, reason in directions(page).not_run.items():
            assert reason
            assert any(line.startswith(start.splitlines()[0]) for line in lines), f"{page.name}: {start}"
