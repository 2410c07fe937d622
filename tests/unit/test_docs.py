"""Documentation agrees with the code: settings, commands, pages, nouns, decisions."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from typer.main import get_command

from fhir_gateway.cli.app import app
from tests.support.pages import GENERATED, current

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DECISIONS = sorted((DOCS / "adr").glob("*.md"))


@pytest.mark.parametrize("name", GENERATED)
def test_generated_parts_are_what_the_code_says(name: str) -> None:
    """Write them anew with ``make pages``."""
    assert (DOCS / name).read_text(encoding="utf-8") == current(name)


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_decisions_have_one_number_and_four_parts() -> None:
    numbers = [path.name[:4] for path in DECISIONS]
    assert len(numbers) == len(set(numbers))
    for path in DECISIONS:
        text = path.read_text(encoding="utf-8").lower()
        assert all(part in text for part in ("context", "choice", "given up", "revisit")), path.name


def documented_commands() -> Iterator[tuple[str, str]]:
    """Each ``fhir-gateway ...`` in a code block or a code span, with its page."""
    fence = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
    for page in [*PAGES, ROOT / "README.md"]:
        text = page.read_text(encoding="utf-8")
        prose = fence.sub("", text)
        code = fence.findall(text) + re.findall(r"^ {4}(.+)$", prose, re.MULTILINE) + re.findall(r"`([^`\n]+)`", prose)
        for line in "\n".join(code).splitlines():
            if match := re.search(r"(?:^|[(/ ])fhir-gateway ([a-z-].*)", line.split(" # ")[0]):
                yield page.name, match[1].strip().rstrip(")")


def test_documented_commands_exist_with_their_options() -> None:
    found = list(documented_commands())
    assert len(found) > 20
    for page, line in found:
        command: click.Command = get_command(app)
        words = shlex.split(line)
        while words and not words[0].startswith("-") and (inner := getattr(command, "commands", None)):
            assert words[0] in inner, f"{page}: {line}"
            command = inner[words.pop(0)]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - known
        assert unknown == set(), f"{page}: {line}"


def routes() -> list[str]:
    """Paths of everything that is served over HTTP but the console's pages."""
    stated: dict[str, object] = json.loads((ROOT / "openapi" / "openapi.json").read_text(encoding="utf-8"))["paths"]  # type: ignore[assignment]
    return sorted(stated)


def named(route: str, text: str) -> bool:
    """Whether a text names a route: by its path, with a type in general, or an operation by its name."""
    parts = [re.escape(part) for part in route.split("/")]
    if route.startswith("/fhir/") and re.match("[A-Z]", parts[2]):
        parts[2] = rf"(?:{parts[2]}|\[type\])"
    path = "/".join(r"[^/\s`?]++" if part.startswith(r"\{") else part for part in parts)
    operation = route.rsplit("/", 1)[1]
    found = re.search(rf"(?<![\w/}}\]]){path}(?![\w/-])", text)
    return bool(found) or (
        operation.startswith("$") and re.search(rf"{re.escape(operation)}(?![\w-])", text) is not None
    )


@pytest.mark.parametrize("route", routes())
def test_every_route_is_named(route: str) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page not in DECISIONS)
    assert named(route, text)


@pytest.mark.parametrize(
    ("route", "text", "said"),
    [
        ("/fhir/Group/{id}", "`GET /fhir/[type]/[id]`", True),
        ("/fhir/Group/{id}", "`GET /fhir/Group`", False),
        ("/fhir/Group/{id}", "`GET /fhir/[type]/[id]/_history`", False),
        ("/fhir/Group/{id}/$export", "call `$export`", True),
        ("/fhir/Group/{id}/$export", "call `$export-more`", False),
        ("/outreach", "`GET /outreach?state=open`", True),
        ("/outreach", "`GET /outreach/{item}`", False),
        ("/health", "`/healthy`", False),
    ],
)
def test_what_names_a_route(route: str, text: str, said: bool) -> None:
    assert named(route, text) == said


def test_every_dependency_has_a_decision() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    declared = project["project"]["dependencies"] + project["dependency-groups"]["dev"]
    names = {re.split(r"[\[<>=;, ]", line)[0].lower() for line in declared}
    decided = "\n".join(path.read_text(encoding="utf-8").lower() for path in DECISIONS)
    assert {name for name in names if not re.search(rf"(?<![\w.-]){re.escape(name)}(?![\w-])", decided)} == set()


def test_the_glossary_pins_each_noun_once() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == sorted(rows, key=str.lower)
    assert len(rows) == len(set(rows))
    packages = {path.parent.name for path in (ROOT / "fhir_gateway").glob("*/__init__.py")}
    words = set(re.findall(r"\w+", (DOCS / "glossary.md").read_text(encoding="utf-8").lower()))
    assert packages - {"cli"} - words == set()


def test_every_test_folder_says_what_belongs_there() -> None:
    readme = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert {folder for folder in folders if f"`{folder}/`" not in readme} == set()
