"""``profiles/``: every canonical of ours that the code mentions has its file, and every file is right and used."""

from __future__ import annotations

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.conformance.definitions import KINDS, Definitions
from fhir_gateway.conformance.validator import Validator

ROOT = Path(__file__).parents[2]
PROFILES = ROOT / "profiles"
BASE = "https://fhir-gateway.example/fhir/"
FILES = sorted(PROFILES.glob("*-*.json"))
CANONICAL = re.compile(rf"{re.escape(BASE)}(?:{'|'.join(KINDS)})/[A-Za-z0-9.-]+")


def loaded(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def folded(node: ast.AST | None, names: dict[str, str]) -> str | None:
    """The text of a constant expression: sums and f-strings of constants with their parts put together."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.Name):
        return names.get(node.id)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        left, right = folded(node.left, names), folded(node.right, names)
        return left + right if left is not None and right is not None else None
    if isinstance(node, ast.JoinedStr):
        parts = [folded(one.value if isinstance(one, ast.FormattedValue) else one, names) for one in node.values]
        return "".join(one for one in parts if one is not None) if None not in parts else None
    return None


def constants(tree: ast.Module, names: dict[str, str]) -> dict[str, str]:
    """The text constants of a module beside those it may import."""
    found = dict(names)
    for statement in tree.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        text = folded(getattr(statement, "value", None), found)
        if isinstance(target, ast.Name) and text is not None:
            found[target.id] = text
    return found


@cache
def mentioned() -> frozenset[str]:
    """Canonicals of definitions below our base in the package's code, also those put together of constants."""
    trees = {file: ast.parse(file.read_text(encoding="utf-8")) for file in (ROOT / "fhir_gateway").rglob("*.py")}
    ours: dict[str, str] = {}
    for tree in trees.values():
        ours |= {name: text for name, text in constants(tree, {}).items() if text.startswith(BASE[:-1])}
    found: set[str] = set()
    for file, tree in trees.items():
        source = file.read_text(encoding="utf-8")
        if BASE[:-1] not in source and not any(name in source for name in ours):
            continue
        names = constants(tree, ours)
        for node in ast.walk(tree):
            found.update(CANONICAL.findall(folded(node, names) or ""))
    return frozenset(found)


def test_every_canonical_of_ours_that_code_mentions_is_defined() -> None:
    assert mentioned() - {loaded(file)["url"] for file in FILES} == set()


def test_what_is_defined_is_used() -> None:
    """By the code, or by another definition (a value set by its code system)."""
    named = set(mentioned())
    for file in FILES:
        own = loaded(file)
        text = json.dumps({name: value for name, value in own.items() if name != "url"})
        named |= {url for url in CANONICAL.findall(text) if url != own["url"]}
    assert {loaded(file)["url"] for file in FILES} - named == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_each_file_is_valid_and_named_by_its_canonical(file: Path) -> None:
    resource = loaded(file)
    assert resource["resourceType"] in KINDS
    assert file.stem == f"{resource['resourceType']}-{resource['id']}"
    assert resource["url"] == f"{BASE}{resource['resourceType']}/{resource['id']}"
    assert {"version", "name", "status", "date", "publisher", "description"} <= resource.keys()
    report = Validator(Definitions.of(PROFILES, None)).validate(resource)
    assert report.findings == []


def test_the_lock_names_each_guide_once_with_digests() -> None:
    lock = loaded(PROFILES / "guides.lock.json")
    guides = [(one["package"], one["version"]) for one in lock["guides"]]
    assert len(guides) == len(set(guides))
    for guide in lock["guides"]:
        assert {"package", "version", "canonical", "used"} <= guide.keys()
        if guide.get("whole"):
            assert guide["definitions"]
        assert all(re.fullmatch("[0-9a-f]{64}", one) for one in guide.get("definitions", {}).values())
