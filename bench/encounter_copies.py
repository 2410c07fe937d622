"""What it costs that copies of one visit count once: load and evaluation with and without, of one source and of two.

``python -m bench.encounter_copies [--patients 20000] [--data ../shared/data/ecqm/dqm2025] [MEASURE]``: published cases
replicated as one source, then the same Patients and Encounters (days for times, as in claims) as a second one, so that
every Encounter has a copy: more than any payer will send. CPU seconds of one process, the best of three rounds in turn.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from datetime import date
from pathlib import Path

from bench.measures import NOW, EachPatientAPerson, read_cases, replicate
from fhir_gateway.lake.store import Lake
from fhir_gateway.measures import Evaluator, LakePopulation, MeasurePackage
from fhir_gateway.measures.copies import Copies
from fhir_gateway.sources.models import StagedFile, StagedPull

PERIOD = (date(2026, 1, 1), date(2026, 12, 31))


def commit(lake: Lake, folder: Path, source: str) -> None:
    """Take in a folder of NDJSON as a source."""
    files = tuple(StagedFile(path, path.name, path.stem, None) for path in sorted(folder.rglob("*.ndjson")))
    lake.commit(StagedPull(source, source, "files", None, files), EachPatientAPerson())


def claims_of(folder: Path, target: Path) -> None:
    """The Patients and Encounters of a folder as a payer has them: days, no times."""
    for kind in ("Patient", "Encounter"):
        text = (folder / f"{kind}.ndjson").read_text(encoding="utf-8")
        if kind == "Encounter":
            text = re.sub(r'("(?:start|end)":"\d{4}-\d\d-\d\d)T[^"]*"', r'\1"', text)
        (target / f"{kind}.ndjson").write_text(text, encoding="utf-8")


def measured(evaluator: Evaluator, lake: Lake, told: str) -> None:
    """Print CPU seconds with all copies and with one of each."""
    best: dict[Copies, float] = {}
    counts: dict[Copies, tuple[int, tuple[str, ...]]] = {}
    for _ in range(3):
        for copies in ("all", "once"):
            started = time.process_time()
            result = evaluator.evaluate(LakePopulation(lake, copies=copies), PERIOD, NOW)
            best[copies] = min(best.get(copies, 1e9), time.process_time() - started)
            counts[copies] = (result.groups[0].count("numerator"), result.notes)
    print(
        f"{told}: {best['all']:.2f} CPU s with all, {best['once']:.2f} with one of each: "
        f"{best['once'] / best['all'] - 1:+.1%}; numerator {counts['all'][0]} and {counts['once'][0]}; "
        f"{[note for note in counts['once'][1] if 'copies' in note]}"
    )


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("measure", nargs="?", default="CMS122FHIRDiabetesAssessGT9Pct")
    arguments.add_argument("--patients", type=int, default=20_000)
    arguments.add_argument("--data", type=Path, default=Path("../shared/data/ecqm/dqm2025"))
    given = arguments.parse_args()
    folder = given.data / given.measure
    evaluator = Evaluator(MeasurePackage.load(folder), supplemental="none")
    with tempfile.TemporaryDirectory() as made:
        clinic, payer = Path(made) / "clinic", Path(made) / "payer"
        clinic.mkdir()
        payer.mkdir()
        replicate(read_cases(folder), given.patients, clinic)
        claims_of(clinic, payer)
        lake = Lake.open(str(Path(made) / "lake"), buckets=8)
        commit(lake, clinic, "clinic")
        print(f"{given.measure}, {given.patients} patients, {lake.read('Encounter').num_rows} Encounters of one source")
        measured(evaluator, lake, "one source")
        commit(lake, payer, "payer")
        measured(evaluator, lake, "two sources, every Encounter sent by both")


if __name__ == "__main__":
    main()
