"""What is found does not depend on the batch; check digits; outcomes, rates, and what is not checked."""

from __future__ import annotations

import json
import random
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from cases import CASES
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.claim_edits import Checked, Context, TableStore, check, claim_rows, edits
from fhir_gateway.claim_edits.models import together
from fhir_gateway.claim_edits.outcome import NOT_CHECKED, SYSTEM, outcomes
from fhir_gateway.claim_edits.rates import clean_rates, edit_rates, unchecked_edits
from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.validator import Validator
from fhir_gateway.errors import InputError
from tests.support.claims import BAD_NPI, Claim, changed, context, line, professional, rows_of, write_tables

Found = set[tuple[int, str, str, str | None]]


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> TableStore:
    return write_tables(tmp_path_factory.mktemp("tables"))


def rows(checked: Checked) -> Found:
    return {(one["rid"], one["edit"], one["path"], one["other"]) for one in checked.findings.to_pylist()}


def luhn(digits: str) -> bool:
    """The check of ISO/IEC 7812 over 80840 and the number, by hand."""
    total = 0
    for place, digit in enumerate(reversed("80840" + digits)):
        value = int(digit) * (2 if place % 2 else 1)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


@given(st.lists(st.from_regex(r"[0-9]{9,11}", fullmatch=True), min_size=1, max_size=60))
def test_check_digits_of_npis(numbers: list[str]) -> None:
    good = professional()
    claims = [
        changed(good, "provider.identifier.value", number) | {"id": f"c{at}"} for at, number in enumerate(numbers)
    ]
    wrong = {rid for rid, *_ in rows(check(rows_of(*claims), names=["npi-check-digit"]))}
    right = {at for at, one in enumerate(numbers) if len(one) == 10 and one[0] in "12" and luhn(one)}
    assert wrong == set(range(len(numbers))) - right


def test_check_digits_of_the_fact_sheet() -> None:
    assert (luhn("1234567893"), luhn(BAD_NPI)) == (True, False)


def mixed(seed: int, count: int = 24) -> list[Claim]:
    """Claims of two patients with few codes and days, submitted in the order of their services."""
    chance = random.Random(seed)  # noqa: S311  # made-up claims
    codes = ["99213", "11042", "97597", "36415", "27130", "99490", "G0557", "G0439", "11045", "T1040"]
    made = []
    for number, day in enumerate(sorted(chance.choices(range(1, 29), k=count))):
        written = f"2025-03-{day:02d}"
        lines = [
            line(at, chance.choice(codes), written, modifiers=chance.choice([[], ["25"], ["59"]]))
            for at in range(1, chance.randint(1, 3) + 1)
        ]
        patient = {"reference": f"Patient/p{chance.randint(1, 2)}"}
        made.append(professional(*lines, identifier=f"c{number:02d}", patient=patient, created=written))
    return made


@pytest.mark.parametrize("seed", range(3))
def test_a_batch_finds_what_its_claims_find_one_at_a_time(seed: int, tables: TableStore) -> None:
    """Of two claims that need each other the later one is found, so each is judged beside those before it."""
    claims = mixed(seed)
    order_matters = {"duplicate-service"}
    whole = rows(check(rows_of(*claims), context(), tables))
    assert whole
    for rid, claim in enumerate(claims):
        others = [other for other in claims if other is not claim]
        alone = rows(check(rows_of(claim), context(*others), tables))
        mine = {(edit, path, other) for at, edit, path, other in whole if at == rid}
        assert {one[1:] for one in alone if one[1] not in order_matters} == {
            one for one in mine if one[0] not in order_matters
        }
        earlier = rows(check(rows_of(claim), context(*claims[:rid]), tables, ["duplicate-service"]))
        assert {one[1:] for one in earlier} == {one for one in mine if one[0] in order_matters}


def test_a_shuffled_batch_finds_the_same(tables: TableStore) -> None:
    claims = mixed(7)
    there = list(range(len(claims)))
    random.Random(1).shuffle(there)  # noqa: S311  # made-up order
    whole = rows(check(rows_of(*claims), context(), tables))
    shuffled = rows(check(rows_of(*(claims[at] for at in there)), context(), tables))
    assert {(there[rid], *rest) for rid, *rest in shuffled} == whole


def test_batches_are_put_together(tables: TableStore) -> None:
    first, second = ([professional(identifier=name), changed(professional(), "total", None)] for name in "ab")
    parts = [check(rows_of(*one), context(), tables) for one in (first, second)]
    whole = together(parts)
    assert {rid for rid, *_ in rows(whole)} == {1, 3}
    assert whole.claims["rid"].to_pylist() == [0, 1, 2, 3]


def test_what_is_not_there_is_told_and_not_passed() -> None:
    checked = check(rows_of(*(case.fails for case in CASES)))
    told = {one["edit"] for one in unchecked_edits(checked)}
    assert told >= {edit.id for edit in edits().values() if edit.needs}
    found = {edit for _, edit, *_ in rows(checked)}
    hard = {edit.id for edit in edits().values() if set(edit.needs) - {"history"}}
    assert found & hard == set()


def test_claims_of_another_use_are_told_as_not_checked(tables: TableStore) -> None:
    asked = [professional(use="preauthorization"), professional(status="cancelled"), professional(status="draft")]
    checked = check(rows_of(*(one | {"id": f"c{at}"} for at, one in enumerate(asked))), context(), tables)
    assert [(one["rid"], one["ground"]) for one in checked.unchecked.to_pylist()] == [(0, "claim"), (1, "claim")]


def test_versions_of_tables_hold_for_their_days(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "kept")
    for version, first, codes in (("2024", date(2024, 1, 1), "11111"), ("2025", date(2025, 1, 1), "99213")):
        file = tmp_path / f"{version}.csv"
        file.write_text(f"code\n{codes}\n")
        store.load("procedure-codes", file, version, first, date(2025, 3, 31))

    def judged(day: str) -> tuple[set[str], set[str]]:
        checked = check(rows_of(professional(line(day=day))), Context(), store, ["procedure-not-active"])
        return {edit for _, edit, *_ in rows(checked)}, set(checked.unchecked["ground"].to_pylist())

    assert judged("2024-12-31") == ({"procedure-not-active"}, set())
    assert judged("2025-03-31") == (set(), set())
    assert judged("2025-04-01") == (set(), {"procedure-codes"})
    assert judged("2023-12-31") == (set(), {"procedure-codes"})


def test_outcomes_are_valid_and_say_nothing_of_the_patient() -> None:
    root = Path(__file__).parents[3]
    validator = Validator(Definitions.of(root / "profiles", None))
    claims = [case.fails | {"id": f"c{at}"} for at, case in enumerate(CASES)]
    checked = check(rows_of(*claims))
    made = outcomes(checked)
    assert len(made) == len(claims)
    for outcome in made[:12]:
        assert validator.validate(outcome).findings == []
    codes = Counter(
        coding["code"]
        for one in made
        for issue in one["issue"]
        for coding in issue.get("details", {}).get("coding", ())
        if coding["system"] == SYSTEM
    )
    assert set(codes) <= {*edits(), NOT_CHECKED}
    text = json.dumps(made)
    assert not any(word in text for word in ("Patient/p1", "1234567890", "2025-03-10", "E11.9", "1EG4"))


def test_rates(tables: TableStore) -> None:
    other = {"identifier": {"system": "http://hl7.org/fhir/sid/us-npi", "value": "1679576722"}}
    claims = [
        professional(identifier="a"),
        professional(identifier="b", total={"value": 1}, patient={"reference": "Patient/p2"}),
        professional(line(1), line(2), identifier="c", provider=other),
    ]
    checked = check(rows_of(*claims), context(attributed=None, coverages=None), tables)
    overall = clean_rates(checked)
    assert [(one["claims"], one["clean"], one["deny_likely"]) for one in overall] == [(3, 1, 1)]
    by = {one["provider"]: one["clean_claim_rate"] for one in clean_rates(checked, "provider")}
    assert by == {"1234567893": 0.5, "1679576722": 0.0}
    assert {(one["edit"], one["claims"]) for one in edit_rates(checked)} == {
        ("total-unbalanced", 1),
        ("duplicate-line", 1),
    }
    assert edit_rates(checked, "payer")[0]["payer"] == "Payer One"


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError):
        check(claim_rows([]), names=["no-such-edit"])


def test_nothing_to_check() -> None:
    assert check(claim_rows([])).claims.num_rows == 0
