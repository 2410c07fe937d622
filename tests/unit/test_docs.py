"""Documentation agrees with the code: settings, commands, pages, nouns, decisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.main import get_command

from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from tests.support.settings_page import PAGE, page_with_table

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DECISIONS = sorted((DOCS / "adr").glob("*.md"))


def commands() -> list[str]:
    """Every command of ``fhir-gateway``, groups with their commands as ``group command``."""
    root = get_command(app)
    found: list[str] = []
    for name, command in root.commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        found += [f"{name} {one}" for one in inner] if inner else [name]
    return found


def test_the_settings_page_is_what_the_code_says() -> None:
    """Write it anew with ``python -m tests.support.settings_page``."""
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_table(page)
    for name in Settings.model_fields:
        assert f"`FHIR_GATEWAY_{name.upper()}`" in page


def test_every_command_is_documented() -> None:
    text = " ".join(path.read_text(encoding="utf-8") for path in (*PAGES, ROOT / "README.md"))
    assert [command for command in commands() if f"fhir-gateway {command}" not in text] == []


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_the_index_leads_to_every_page() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    linked = {(DOCS / link).resolve() for link in re.findall(r"\]\(([^)#]+)\)", index)}
    assert [str(page.relative_to(DOCS)) for page in PAGES if page.name != "index.md" and page not in linked] == []


def test_decisions_have_one_number_and_four_parts() -> None:
    numbers = [path.name[:4] for path in DECISIONS]
    assert len(numbers) == len(set(numbers))
    for path in DECISIONS:
        text = path.read_text(encoding="utf-8").lower()
        assert all(part in text for part in ("context", "choice", "given up", "revisit")), path.name


def test_the_glossary_pins_each_noun_once() -> None:
    rows = re.findall(r"^\| \*\*(.+?)\*\* \|", (DOCS / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == sorted(rows, key=str.lower)
    assert len(rows) == len(set(rows))
    packages = {path.parent.name for path in (ROOT / "fhir_gateway").glob("*/__init__.py")}
    assert packages - {"cli", "demo", "server", "db", "auth"} <= {row.lower() for row in rows} | {"r4", "jobs", "cql"}


def test_every_test_folder_says_what_belongs_there() -> None:
    readme = (ROOT / "tests" / "README.md").read_text(encoding="utf-8")
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("_")}
    assert {folder for folder in folders if f"`{folder}/`" not in readme} == set()
