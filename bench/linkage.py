"""Probabilistic linkage on a synthetic population with known truth: precision, recall, seconds.

``python -m bench.linkage [--persons 20000] [--seed 1]``: two sources, no identifier in common, with misspelled and
swapped names, short forms, changed family names, wrong and missing birth dates, moves, twins, parent and child of one
name, and households that share address and telephone. The rates are at the head of the file, to be argued with.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from random import Random

import pyarrow as pa

from fhir_gateway.db.engine import create_engine
from fhir_gateway.db.migrate import upgrade
from fhir_gateway.identity.crosswalk import Crosswalk
from fhir_gateway.identity.linkage import Linkage, LinkageReport
from fhir_gateway.identity.model import LinkageModel
from fhir_gateway.r4.spec import arrow_type, column_structure
from fhir_gateway.sandbox.population.names import FAMILIES, MEN, WOMEN

IN_A, IN_B = 0.85, 0.85  # of persons known to each source
TWIN, NAMESAKE, HOUSEHOLD = (
    0.015,
    0.01,
    0.5,
)  # of persons: has a twin; a child of the same name; lives with the one before
FAMILY_TYPO, GIVEN_TYPO, SHORT_FORM, SWAPPED = 0.02, 0.02, 0.03, 0.005  # of records
CHANGED_FAMILY, FORMER_KNOWN = 0.03, 0.5  # of women in source B; of those with the name of before
BIRTH_DIGIT, BIRTH_TRANSPOSED, BIRTH_MISSING, GENDER_WRONG = 0.008, 0.003, 0.01, 0.003
MOVED, PHONE_CHANGED, PHONE_MISSING, SUFFIX_WRITTEN, MISSING_ADDRESS = 0.15, 0.25, 0.1, 0.6, 0.03

_ELEMENTS = ("identifier", "name", "birthDate", "gender", "telecom", "address")
SCHEMA = pa.schema(
    [("_source", pa.string()), ("id", pa.string())]
    + [(name, arrow_type(column_structure("Patient")[name])) for name in _ELEMENTS]
)


@dataclass(frozen=True)
class Person:
    number: int
    family: str
    given: str
    gender: str
    birth: date
    street: str
    postal_code: str
    phone: str
    suffix: str | None = None
    maiden: str | None = field(default=None)


def population(count: int, random: Random) -> list[Person]:
    """Persons, some of them twins, namesakes and households."""
    rare = sorted({"".join(random.choice(_SYLLABLES) for _ in range(3)).capitalize() for _ in range(4000)})
    families = [*FAMILIES, *rare]
    weights = [200 / (rank + 4) for rank in range(len(FAMILIES))] + [1.0] * len(rare)
    made: list[Person] = []
    while len(made) < count:
        before = made[-1] if made and random.random() < HOUSEHOLD else None
        gender = random.choice(("female", "male"))
        given = random.choice(WOMEN if gender == "female" else MEN)
        if random.random() < 0.15:
            given = "".join(random.choice(_SYLLABLES) for _ in range(2)).capitalize()
        family = before.family if before and random.random() < 0.8 else random.choices(families, weights)[0]
        one = Person(
            len(made),
            family,
            given,
            gender,
            date(1930, 1, 1) + timedelta(days=random.randrange(33_000)),
            before.street if before else f"{random.randrange(1, 9999)} {random.choice(rare)} St",
            before.postal_code if before else f"{random.randrange(85001, 85400)}",
            before.phone if before and random.random() < 0.6 else f"602{random.randrange(10**7):07d}",
        )
        made.append(one)
        if random.random() < TWIN:
            other = random.choice(WOMEN if gender == "female" else MEN)
            if other != given:
                made.append(replace(one, number=len(made), given=other))
        elif random.random() < NAMESAKE and one.gender == "male":
            made[-1] = replace(one, suffix="Sr")
            child = one.birth + timedelta(days=random.randrange(7_000, 14_000))
            made.append(replace(one, number=len(made), birth=child, suffix="Jr"))
    return made[:count]


_SYLLABLES = (
    "ba be bo ca ce da de do fa fe ga go ha he ka ke la le lo ma me mi na ne ni ra re ro sa se ta te to va ve".split()
)


def misspelled(word: str, random: Random) -> str:
    """One letter too many, too few, another, or two changed over."""
    place = random.randrange(1, max(len(word), 2))
    kind = random.randrange(4)
    letter = random.choice("aeioulnrst")
    if kind == 0:
        return word[:place] + letter + word[place:]
    if kind == 1:
        return word[:place] + word[place + 1 :]
    if kind == 2:
        return word[:place] + letter + word[place + 1 :]
    return word[: place - 1] + word[place : place + 1] + word[place - 1] + word[place + 1 :]


def record(person: Person, source: str, random: Random) -> dict[str, object]:
    """What one source has about a person."""

    def chance(rate: float) -> bool:
        return random.random() < rate

    family, given, birth = person.family, person.given, person.birth.isoformat()
    names: list[dict[str, object]] = []
    if source == "b" and person.gender == "female" and chance(CHANGED_FAMILY):
        if chance(FORMER_KNOWN):
            names.append({"use": "maiden", "family": family})
        family = random.choice(FAMILIES)
    if chance(FAMILY_TYPO):
        family = misspelled(family, random)
    if chance(GIVEN_TYPO):
        given = misspelled(given, random)
    elif chance(SHORT_FORM):
        given = given[: random.choice((1, 3, 4))]
    if chance(SWAPPED):
        family, given = given, family
    if chance(BIRTH_DIGIT):
        birth = (person.birth + timedelta(days=random.choice((-1, 1, 10, -10, 365)))).isoformat()
    elif chance(BIRTH_TRANSPOSED) and person.birth.day <= 12:
        birth = f"{birth[:4]}-{birth[8:]}-{birth[5:7]}"
    suffix = [person.suffix] if person.suffix and chance(SUFFIX_WRITTEN) else None
    names.insert(0, {"use": "official", "family": family, "given": [given], "suffix": suffix})
    street, code = person.street, person.postal_code
    if chance(MOVED):
        street, code = f"{random.randrange(1, 9999)} Moved Ave", f"{random.randrange(85001, 85400)}"
    phone = f"602{random.randrange(10**7):07d}" if chance(PHONE_CHANGED) else person.phone
    gender = person.gender
    if chance(GENDER_WRONG):
        gender = "male" if gender == "female" else "female"
    return {
        "_source": source,
        "id": f"{source}{person.number}",
        "identifier": [],
        "name": names,
        "birthDate": None if chance(BIRTH_MISSING) else birth,
        "gender": gender,
        "telecom": [] if chance(PHONE_MISSING) else [{"system": "phone", "value": phone}],
        "address": [] if chance(MISSING_ADDRESS) else [{"line": [street], "postalCode": code}],
    }


def sources(persons: Iterable[Person], random: Random) -> pa.Table:
    """Both sources' Patient rows; the number in an id says who it is."""
    rows = []
    for person in persons:
        rows += [record(person, name, random) for name, share in (("a", IN_A), ("b", IN_B)) if random.random() < share]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--persons", type=int, default=20_000)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--estimate", action="store_true", help="weights estimated from the data, too")
    given = arguments.parse_args()
    random = Random(given.seed)  # noqa: S311  # a synthetic population
    patients = sources(population(given.persons, random), random)
    print(f"{given.persons:,} persons, {patients.num_rows:,} records, seed {given.seed}")
    measure("shipped weights", patients, LinkageModel.load())
    if given.estimate:
        engine = crosswalk_of(patients)
        began = time.process_time()
        model = Linkage(engine).estimate(patients, "estimated")
        print(f"estimated in {time.process_time() - began:.1f} CPU s")
        measure("estimated weights", patients, model)


def crosswalk_of(patients: pa.Table):  # type: ignore[no-untyped-def]
    engine = create_engine("sqlite://")
    upgrade(engine)
    crosswalk = Crosswalk(engine)
    for source in ("a", "b"):
        crosswalk.assign(source, patients.filter(pa.compute.field("_source") == source))
    return engine


@dataclass(frozen=True)
class Truth:
    """What a linkage of labelled records came to. Pairs are of two records that the crosswalk says are one person."""

    report: LinkageReport
    right: int
    wrong: int
    true_pairs: int
    reviews: int
    right_reviews: int
    cpu: float

    @property
    def precision(self) -> float:
        """Share of the linked pairs that are one person."""
        return self.right / max(self.right + self.wrong, 1)

    @property
    def recall(self) -> float:
        """Share of the pairs of one person that were linked unseen."""
        return self.right / max(self.true_pairs, 1)

    @property
    def recall_with_reviews(self) -> float:
        """The same, were all reviews decided rightly."""
        return (self.right + self.right_reviews) / max(self.true_pairs, 1)


def link(patients: pa.Table, model: LinkageModel) -> Truth:
    """Link, and hold what came of it against the numbers in the ids."""
    engine = crosswalk_of(patients)
    began = time.process_time()
    report = Linkage(engine, model).run(patients)
    cpu = time.process_time() - began
    ids = patients.group_by("_source").aggregate([("id", "list")])
    known = {row["_source"]: sorted(one[1:] for one in row["id_list"]) for row in ids.to_pylist()}
    crosswalk = Crosswalk(engine)
    persons: dict[str, list[str]] = {}
    for source, numbers in known.items():
        found = crosswalk.lookup(source, pa.array([source + number for number in numbers])).to_pylist()
        for number, person in zip(numbers, found, strict=True):
            persons.setdefault(person, []).append(number)
    pairs = [(x, y) for numbers in persons.values() for i, x in enumerate(numbers) for y in numbers[i + 1 :]]
    right = sum(x == y for x, y in pairs)
    reviews = [one for one in crosswalk.reviews() if one.rule == "linkage"]
    right_reviews = sum(str(one.patient_id)[1:] == str(one.other_patient_id)[1:] for one in reviews)
    engine.dispose()
    true_pairs = len(set(known["a"]) & set(known["b"]))
    return Truth(report, right, len(pairs) - right, true_pairs, len(reviews), right_reviews, cpu)


def measure(name: str, patients: pa.Table, model: LinkageModel) -> None:
    wall = time.monotonic()
    found = link(patients, model)
    print(f"{name}: {found.report}")
    print(
        f"  linked unseen: {found.right + found.wrong:,} pairs, precision {found.precision:.5f} ({found.wrong} wrong), "
        f"recall {found.recall:.4f}"
    )
    print(
        f"  for review: {found.reviews:,} pairs, {found.right_reviews:,} of them one person; "
        f"recall of both {found.recall_with_reviews:.4f}"
    )
    print(
        f"  {found.cpu:.1f} CPU s, {time.monotonic() - wall:.1f} s with the crosswalk; "
        f"{patients.num_rows / found.cpu:,.0f} records per CPU s"
    )


if __name__ == "__main__":
    main()
