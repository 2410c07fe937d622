"""A gateway with hand-made cases of our own measures in its lake, for the operations of DEQM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from cryptography.fernet import Fernet
from pydantic import SecretStr

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_files
from tests.measures.published import rename
from tests.support.measures import CASES, MEASURES

Resource = dict[str, Any]
YEAR = {"periodStart": "2026-01-01", "periodEnd": "2026-12-31"}
DIABETES, PRESSURE, STAYS = "diabetes-hba1c-poor-control", "controlling-high-blood-pressure", "readmission-30-day"


class Filled:
    """The gateway, and which person each case became; ``cases`` by name of the measure, in the order of their files."""

    period = (date(2026, 1, 1), date(2026, 12, 31))

    def __init__(
        self,
        folder: Path,
        measures: Iterable[str] = (DIABETES, PRESSURE, STAYS),
        *,
        in_memory: bool = True,
        **settings: Any,
    ) -> None:
        for name in measures:
            shutil.copytree(MEASURES / name, folder / "data" / "measures" / name)
        shutil.copytree(MEASURES / "common", folder / "data" / "measures" / "common")
        self.gateway = Gateway(
            Settings(
                database_url=SecretStr("sqlite://") if in_memory else None,
                encryption_key=SecretStr(Fernet.generate_key().decode()),
                public_url="https://gateway.example",
                data_dir=folder / "data",
                lake_buckets=2,
                **settings,
            )
        )
        self.cases: dict[str, list[Mapping[str, Any]]] = {}
        self._patients: dict[str, list[str]] = {}
        resources: list[Resource] = []
        number = 0
        for name in measures:
            cases = [json.loads(path.read_text("utf-8")) for path in sorted((CASES / name).glob("*.json"))]
            whole = {"start": YEAR["periodStart"], "end": YEAR["periodEnd"]}
            self.cases[name] = [case for case in cases if case["measurementPeriod"] == whole]
            self._patients[name] = []
            for case in self.cases[name]:
                resources += rename(case, number)
                self._patients[name].append(f"case-{number}")
                number += 1
        file = folder / "sent" / "everything.ndjson"
        file.parent.mkdir()
        file.write_text("".join(json.dumps(one) + "\n" for one in resources))
        report = pull_files(self.gateway, [file.parent], "ehr")
        assert report.quarantined == 0, self.gateway.lake.quarantined()
        for package in self.gateway.measures.packages():
            content = [one for one in package.resources if one["resourceType"] in ("Measure", "Library")]
            self.gateway.resources.put_many(content)

    @property
    def now(self) -> datetime:
        """The present."""
        return datetime.now(UTC)

    @property
    def open(self) -> bool:
        """Whether the year is not over yet: then gaps are prospective."""
        return self.now.date() < self.period[1]

    def persons(self, measure: str) -> list[str]:
        """The persons that the cases of a measure became."""
        found: list[str] = self.gateway.persons.lookup("ehr", pa.array(self._patients[measure])).to_pylist()
        return found

    def counts(self, measure: str) -> dict[str, dict[str, int]]:
        """Expected populations of the first group, by person."""
        return {
            person: case["expected"]["groups"][0]["population"]
            for person, case in zip(self.persons(measure), self.cases[measure], strict=True)
        }
