"""G: DEQM UV 1.0.0: $collect-data."""

from __future__ import annotations

from face import PERIOD, Face, parameters

from checks import check
from checks.deqm_us import bundles

DEQM = "DEQM kit UV v1.0.0"


@check("G1", DEQM, "M", "metadata")
def metadata(face: Face) -> None:
    assert face.get("metadata").status_code == 200


def urls(face: Face, number: int) -> list[tuple[str, str]]:
    return [("measureUrl", f"{one['url']}|{one['version']}") for one in face.measures[:number]]


def collected(face: Face, number: int, method: str) -> None:
    """One report for each measure in each Bundle."""
    asked = [*PERIOD.items(), *urls(face, number), ("subject", f"Patient/{face.patients[0]}")]
    if method == "GET":
        answered = face.get("Measure/$collect-data", params=asked)
    else:
        answered = face.post("Measure/$collect-data", parameters(*asked))
    for reports in bundles(answered):
        assert len(reports) == number
        assert all(one["type"] == "data-collection" for one in reports)


@check("G2", DEQM, "M", "data of one measure, by GET")
def get_one(face: Face) -> None:
    collected(face, 1, "GET")


@check("G3", DEQM, "M", "data of one measure, by POST")
def post_one(face: Face) -> None:
    collected(face, 1, "POST")


@check("G4", DEQM, "M", "data of two measures, by GET")
def get_two(face: Face) -> None:
    collected(face, 2, "GET")


@check("G5", DEQM, "M", "data of two measures, by POST, without a subject")
def post_two(face: Face) -> None:
    answered = face.post("Measure/$collect-data", parameters(*PERIOD.items(), *urls(face, 2)))
    for reports in bundles(answered):
        assert len(reports) == 2
