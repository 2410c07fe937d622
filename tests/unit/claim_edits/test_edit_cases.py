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
from tests.support.claims import Claim, context, institutional, line, professional, rows_of, write_tables


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


NAMES_CLAIMS = {"replacement-names-original", "original-unknown"}  # a denied claim can be replaced


@pytest.mark.parametrize("case", [case for case in CASES if case.history], ids=lambda case: case.edit)
def test_what_was_denied_counts_for_no_other_claim(case: Case, tables: TableStore) -> None:
    passing = case.history if case.history_passing is None else case.history_passing
    for claim, history in ((case.fails, case.history), (case.passes, passing)):
        lines = [{"claim": one["id"], "line": item["sequence"]} for one in history for item in one["item"]]
        whole = [{"claim": one["id"], "line": None} for one in history]
        bare, *denied = (
            found(judged(claim, tables, *past, names=[case.edit], **(case.known | {"denied": answers})))
            for past, answers in (((), []), (history, lines), (history, whole))
        )
        if case.edit not in NAMES_CLAIMS:
            assert denied == [bare, bare]


def test_one_denied_line_leaves_the_others_of_its_claim(tables: TableStore) -> None:
    earlier = professional(line(1, "93000"), line(2, "99213"), identifier="earlier", created="2025-03-15")
    claim = professional(line(1, "93000"), line(2, "99213"), created="2025-03-20")
    denied = [{"claim": "earlier", "line": 1}]
    checked = judged(claim, tables, earlier, names=["duplicate-service"], denied=denied)
    assert found(checked) == [("duplicate-service", "Claim.item[1].productOrService")]


def test_lines_of_one_claim_count_for_each_other_though_denied(tables: TableStore) -> None:
    claim = professional(line(1, "11042"), line(2, "11045"))
    denied = [{"claim": "claim-1", "line": None}]
    assert found(judged(claim, tables, names=["add-on-alone"], denied=denied)) == []


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
