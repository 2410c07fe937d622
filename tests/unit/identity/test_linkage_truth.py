"""The shipped linkage model against labelled synthetic populations: how often it is right, and what it finds.

The floors are below what was measured (bench/linkage.txt), for populations that the thresholds were not looked at with.
A wrong link puts somebody's history into another's record, so hardly any is allowed; a pair that is not linked unseen
costs a look at a review.
"""

from __future__ import annotations

from random import Random

import pytest

from bench import linkage as bench
from fhir_gateway.identity.model import LinkageModel

ERRORS = (
    *("FAMILY_TYPO", "GIVEN_TYPO", "SHORT_FORM", "SWAPPED", "CHANGED_FAMILY", "BIRTH_DIGIT", "BIRTH_TRANSPOSED"),
    *("BIRTH_MISSING", "GENDER_WRONG", "MOVED", "PHONE_CHANGED", "PHONE_MISSING", "MISSING_ADDRESS"),
)


def truth(persons: int, seed: int) -> bench.Truth:
    random = Random(seed)  # noqa: S311 - a synthetic population
    return bench.link(bench.sources(bench.population(persons, random), random), LinkageModel.load())


@pytest.mark.parametrize("seed", [11, 12])
def test_records_as_two_sources_have_them(seed: int) -> None:
    """Typos, short forms, swapped fields, changed names, wrong and missing dates, moves, twins, namesakes at once."""
    found = truth(2000, seed)
    assert found.true_pairs > 1200
    assert found.precision >= 0.999
    assert found.recall >= 0.84
    assert found.recall_with_reviews >= 0.975
    assert found.reviews <= 0.2 * found.true_pairs


def test_records_of_careless_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the errors: less is linked, and still hardly anything wrongly."""
    for name in ERRORS:
        monkeypatch.setattr(bench, name, min(4 * getattr(bench, name), 0.6))
    found = truth(2000, 13)
    assert found.precision >= 0.995
    assert found.recall >= 0.4
    assert found.recall_with_reviews >= 0.75


#: One thing that is wrong with every record, and nothing else: least recall unseen, and with reviews.
KINDS: dict[str, tuple[dict[str, float], float, float]] = {
    "nothing": ({}, 0.99, 0.99),
    "family name misspelled": ({"FAMILY_TYPO": 1.0}, 0.3, 0.98),
    "given name misspelled": ({"GIVEN_TYPO": 1.0}, 0.05, 0.98),
    "given name cut short": ({"SHORT_FORM": 1.0}, 0.98, 0.98),
    "names swapped in half": ({"SWAPPED": 0.5}, 0.98, 0.98),
    "women's family names changed, the old one known": ({"CHANGED_FAMILY": 1.0, "FORMER_KNOWN": 1.0}, 0.98, 0.98),
    "women's family names changed, the old one unknown": ({"CHANGED_FAMILY": 1.0, "FORMER_KNOWN": 0.0}, 0.45, 0.98),
    "month and day changed over in half": ({"BIRTH_TRANSPOSED": 0.5}, 0.7, 0.98),
    "birth date missing in half": ({"BIRTH_MISSING": 0.5}, 0.2, 0.98),
    "gender wrong in half": ({"GENDER_WRONG": 0.5}, 0.4, 0.98),
    "all moved": ({"MOVED": 1.0}, 0.98, 0.98),
    "all moved, with other telephones": ({"MOVED": 1.0, "PHONE_CHANGED": 1.0}, 0.0, 0.98),
    "all twins": ({"TWIN": 1.0}, 0.95, 0.98),
    "all of one household": ({"HOUSEHOLD": 0.99}, 0.95, 0.98),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_error_alone(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    changed, unseen, reviewed = KINDS[kind]
    for name in ERRORS:
        monkeypatch.setattr(bench, name, changed.get(name, 0.0))
    for name in changed.keys() - set(ERRORS):
        monkeypatch.setattr(bench, name, changed[name])
    found = truth(400, 17)
    assert found.precision >= 0.997
    assert found.recall >= unseen
    assert found.recall_with_reviews >= reviewed
