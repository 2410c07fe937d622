"""Every edit finds its failing claim, at the right element, and leaves its passing claim alone."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from cases import CASES, GOOD, Case

from fhir_gateway.claim_edits import Checked, TableStore, check, edits
from fhir_gateway.claim_edits.grounds import GROUNDS
from fhir_gateway.claim_edits.outcome import NOT_CHECKED
from tests.support.claims import Claim, context, institutional, rows_of, write_tables


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> TableStore:
    return write_tables(tmp_path_factory.mktemp("tables"))


def found(checked: Checked) -> list[tuple[str, str]]:
    """Edits and paths of the first claim."""
    return [(one["edit"], one["path"]) for one in checked.findings.to_pylist() if one["rid"] == 0]


def unchecked(checked: Checked) -> set[str]:
    """Edits that could not be judged of the first claim."""
    lacking = {one["ground"] for one in checked.unchecked.to_pylist() if one["rid"] == 0}
    return {edit.id for edit in edits().values() if lacking & {"claim", *edit.needs}}


def judged(
    claim: Claim, tables: TableStore, *history: Claim, names: list[str] | None = None, **known: object
) -> Checked:
    return check(rows_of(claim), context(*history, **known), tables, names)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.edit)
def test_the_failing_claim_is_found(case: Case, tables: TableStore) -> None:
    checked = judged(case.fails, tables, *case.history, names=[case.edit], **case.known)
    assert (case.edit, case.path) in found(checked)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.edit)
def test_the_passing_claim_is_checked_and_passes(case: Case, tables: TableStore) -> None:
    history = case.history if case.history_passing is None else case.history_passing
    # what is changed of the context for the failing claim alone is not passed on
    same = case.fails is case.passes or case.fails == case.passes
    known = case.known_passing if case.known_passing is not None else ({} if same else case.known)
    checked = judged(case.passes, tables, *history, names=[case.edit], **known)
    assert case.edit not in unchecked(checked)
    assert case.edit not in {edit for edit, _ in found(checked)}


def test_every_edit_has_a_case() -> None:
    assert Counter(case.edit for case in CASES) == Counter(edits().keys())


@pytest.mark.parametrize("claim", [GOOD, institutional()], ids=["professional", "institutional"])
def test_a_good_claim_is_clean_with_everything_checked(claim: Claim, tables: TableStore) -> None:
    checked = judged(claim, tables)
    assert found(checked) == []
    assert unchecked(checked) == set()
    assert checked.claims["clean"].to_pylist() == [True]
    assert len(checked.tables) == len(tables.versions())


def test_the_code_system_has_every_edit() -> None:
    file = Path(__file__).parents[3] / "profiles" / "CodeSystem-claim-edit.json"
    concepts = {one["code"]: one["display"] for one in json.loads(file.read_text(encoding="utf-8"))["concept"]}
    assert {code: text for code, text in concepts.items() if code != NOT_CHECKED} == {
        edit.id: edit.message for edit in edits().values()
    }
    assert NOT_CHECKED in concepts


def test_edits_are_whole() -> None:
    for edit in edits().values():
        assert set(edit.needs) <= set(GROUNDS), edit.id
        assert (edit.message[-1] != ".", edit.fix[-1]) == (True, "."), edit.id
        assert "" not in (edit.source, edit.query), edit.id
