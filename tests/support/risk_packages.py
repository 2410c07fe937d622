"""Risk scores of random members by our columns and by packages that are not ours: ``make test-risk-packages``.

Prints how many of 10,000 agree with hccinfhir and with risk-adjustment-model, and the differences by cause. The second
one needs an environment of its own (``make .risk-package/.installed``), named by ``--python``. A cause is proved, not
guessed: without it the packages agree.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
from collections import Counter
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.risk.hcc import payment_year, score
from fhir_gateway.risk.hcc.tables import model_tables

PEER = Path(__file__).with_name("risk_peer.py")
DEFAULT_PYTHON = Path(__file__).parents[2] / ".risk-package" / "bin" / "python"

Member = dict[str, Any]


def random_members(count: int, model: str, year: int, seed: int = 7, youngest: int = 0) -> list[Member]:
    """People of all ages and segments, most of them aged, with up to 14 diagnoses, some of which mean nothing."""
    chance = random.Random(seed)  # noqa: S311 made-up people
    codes = model_tables(payment_year(year, proposed=True).model(model)).codes.to_pylist()
    found = []
    for number in range(count):
        age = chance.choice((chance.randint(youngest, 64), chance.randint(60, 100), chance.randint(65, 90)))
        diagnoses = chance.sample(codes, chance.choice((0, 1, 2, 3, 5, 8, 14)))
        found.append(
            {
                "member": f"m{number}",
                "age": age,
                "sex": chance.choice("MF"),
                "orec": chance.choice(("0", "0", "0", "1", "1", "2", "3", None)),
                "crec": chance.choice(("0", "1", None)),
                "dual": chance.choice((None, "00", "01", "02", "03", "04", "05", "06", "08")),
                "lti": chance.random() < 0.1,
                "new_enrollee": chance.random() < 0.1,
                "snp": chance.random() < 0.2,
                "diagnoses": [*diagnoses, *chance.sample(("I10", "Z0000", "R05", "X", "E119", "e11.9"), 2)],
            }
        )
    return found


def ours(members: Sequence[Member], model: str, year: int) -> list[tuple[Decimal, dict[str, Decimal]]]:
    """Raw score and components of each member, by our columns."""
    if not members:
        return []
    people = pa.Table.from_pylist(
        [{name: value for name, value in one.items() if name != "diagnoses"} for one in members]
    )
    pairs = [(one["member"], code) for one in members for code in one["diagnoses"]]
    diagnoses = pa.table(
        [pa.array([pair[n] for pair in pairs], pa.string()) for n in (0, 1)], names=["member", "diagnosis"]
    )
    found = score(people, diagnoses, model, year, proposed=True)
    components: dict[str, dict[str, Decimal]] = {one["member"]: {} for one in members}
    for row in found.components.to_pylist():
        components[row["member"]][row["variable"]] = row["coefficient"]
    raws = dict(zip(found.scores["member"].to_pylist(), found.scores["raw"].to_pylist(), strict=True))
    return [(raws[one["member"]], components[one["member"]]) for one in members]


def of_hccinfhir(members: Sequence[Member], model: str, year: int) -> list[tuple[Decimal, dict[str, Decimal]]]:
    """The same by hccinfhir."""
    from hccinfhir import HCCInFHIR

    holding = payment_year(year, proposed=True).model(model)
    peer = HCCInFHIR(
        model_name=f"CMS-HCC Model {model}",
        dx_cc_mapping_filename=holding.diagnoses,
        coefficients_filename=holding.coefficients,
        hierarchies_filename=holding.hierarchies,
    )
    found = []
    for one in members:
        result = peer.calculate_from_diagnosis(
            one["diagnoses"],
            age=one["age"],
            sex=one["sex"],
            orec=one["orec"],
            crec=one["crec"],
            dual_elgbl_cd=one["dual"],
            lti=one["lti"],
            new_enrollee=one["new_enrollee"],
            snp=one["snp"],
        )
        parts = {name: Decimal(str(value)) for name, value in result.coefficients.items()}
        found.append((Decimal(str(round(result.risk_score, 3))), parts))
    return found


def of_peer(members: Sequence[Member], model: str, year: int, python: Path) -> list[dict[str, Any]]:
    """Score and mapping of each member by risk-adjustment-model, in its own environment."""
    given = json.dumps({"model": model, "year": year, "members": members})
    done = subprocess.run([python, PEER], input=given, capture_output=True, text=True, check=True)
    return list(json.loads(done.stdout))


IN_INSTITUTION = "a new enrollee in an institution has the new enrollee score, not an institutional one without a cell"
OF_BAND = "a new enrollee of 65 to 69 with OREC 2 or 3 has the cell of his age, not of a band without coefficient"
OF_TWO = "an age edit takes a code out of all of its categories, not out of one of two"


def without_cause(member: Member, of_two: frozenset[str]) -> tuple[str, Member] | None:
    """What we do otherwise on purpose and can matter for this member, and the member without it."""
    if member["new_enrollee"] and member["lti"]:
        return IN_INSTITUTION, member | {"lti": False, "orec": "0" if member["orec"] in ("2", "3") else member["orec"]}
    if member["new_enrollee"] and member["orec"] in ("2", "3"):
        return OF_BAND, member | {"orec": "0"}
    if member["age"] < 15:
        return OF_TWO, member | {"diagnoses": [code for code in member["diagnoses"] if code not in of_two]}
    return None


def compare_hccinfhir(count: int, model: str, year: int) -> tuple[int, Counter[str]]:
    """How many agree in score and every component, and why the others do not."""
    members = random_members(count, model, year)
    tables = model_tables(payment_year(year, proposed=True).model(model))
    several = (tables.first[1:] - tables.first[:-1]) > 1
    edited = (tables.edits.age_max >= 0) | (tables.edits.age_min >= 0)
    of_two = frozenset(pa.array(tables.codes).filter(pa.array(several & edited)).to_pylist())
    both = zip(members, ours(members, model, year), of_hccinfhir(members, model, year), strict=True)
    differing = [member for member, mine, theirs in both if mine != theirs]
    changed = [without_cause(member, of_two) for member in differing]
    again = [one[1] for one in changed if one is not None]
    same = iter(
        mine == theirs for mine, theirs in zip(ours(again, model, year), of_hccinfhir(again, model, year), strict=True)
    )
    causes = Counter(one[0] if one is not None and next(same) else "unexplained" for one in changed)
    return count - len(differing), causes


def compare_peer(count: int, model: str, year: int, python: Path) -> tuple[int, Counter[str]]:
    """How many agree with risk-adjustment-model in score, and why the others do not."""
    members = random_members(count, model, year)
    theirs = of_peer(members, model, year, python)
    mine = ours(members, model, year)
    tables = model_tables(payment_year(year, proposed=True).model(model))
    codes, first = tables.codes.to_pylist(), tables.first
    mapping = {
        code: sorted(tables.ccs[cc] for cc in tables.cc_of[first[n] : first[n + 1]]) for n, code in enumerate(codes)
    }
    edited = {
        code
        for n, code in enumerate(codes)
        if tables.edits.sex[n] or tables.edits.age_max[n] >= 0 or tables.edits.age_min[n] >= 0
    }
    plain: Callable[[str], str] = lambda code: code.upper().replace(".", "")  # noqa: E731
    causes: Counter[str] = Counter()
    agree, doubtful = 0, []
    for member, (raw, _), other in zip(members, mine, theirs, strict=True):
        if raw == Decimal(str(round(other["raw"], 3))):
            agree += 1
            continue
        otherwise = [c for c in member["diagnoses"] if mapping.get(plain(c), []) != other["mapping"].get(c, [])]
        by_edit = [c for c in member["diagnoses"] if plain(c) in edited and c not in otherwise]
        doubtful.append((member, otherwise, by_edit))
    for name, chosen in (("mapping of another table year", 1), ("age or sex edits, which it does not make", 2)):
        rest = []
        for entry in doubtful:
            left = {c for n in range(1, chosen + 1) for c in entry[n]}
            rest.append({**entry[0], "diagnoses": [c for c in entry[0]["diagnoses"] if c not in left]})
        again = zip(doubtful, ours(rest, model, year), of_peer(rest, model, year, python), strict=True) if rest else ()
        still = []
        for entry, (raw, _), other in again:
            if raw == Decimal(str(round(other["raw"], 3))):
                causes[name] += 1
            else:
                still.append(entry)
        doubtful = still
    rest = [
        {**member, "snp": False, "diagnoses": [c for c in member["diagnoses"] if c not in (*otherwise, *by_edit)]}
        for member, otherwise, by_edit in doubtful
    ]
    again = zip(ours(rest, model, year), of_peer(rest, model, year, python), strict=True) if rest else ()
    for (raw, _), other in again:
        same = raw == Decimal(str(round(other["raw"], 3)))
        causes["no segment of new enrollees of special needs plans (SNPNE)" if same else "unexplained"] += 1
    return agree, causes


def main() -> None:
    """The table of agreement."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=10_000)
    parser.add_argument("--python", type=Path, default=DEFAULT_PYTHON)
    arguments = parser.parse_args()
    for model, year in (("V24", 2025), ("V28", 2026)):
        print(f"hccinfhir, {model}, payment year {year}:", end=" ")
        _print(*compare_hccinfhir(arguments.members, model, year))
        if not arguments.python.exists():
            print("risk-adjustment-model: not installed (make .risk-package/.installed)")
            continue
        print(f"risk-adjustment-model, {model}, payment year {year}:", end=" ")
        _print(*compare_peer(arguments.members, model, year, arguments.python))


def _print(agree: int, causes: Counter[str]) -> None:
    total = agree + sum(causes.values())
    print(f"{agree} of {total} agree ({agree / total:.2%})")
    for cause, number in causes.most_common():
        print(f"  {number:6} {cause}")


if __name__ == "__main__":
    main()
