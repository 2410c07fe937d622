"""Documentation agrees with the code: settings, commands, pages, nouns, decisions."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

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
