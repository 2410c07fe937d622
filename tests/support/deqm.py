"""A gateway with hand-made cases of our own measures in its lake, for the operations of DEQM."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

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

    def __init__(self, folder: Path, measures: Iterable[str] = (DIABETES, PRESSURE, STAYS)) -> None:
        for name in measures:
            shutil.copytree(MEASURES / name, folder / "data" / "measures" / name)
        shutil.copytree(MEASURES / "common", folder / "data" / "measures" / "common")
        self.gateway = Gateway(
            Settings(
                database_url=SecretStr("sqlite://"),
                encryption_key=SecretStr(Fernet.generate_key().decode()),
                public_url="https://gateway.example",
                data_dir=folder / "data",
                lake_buckets=2,
            )
        )
        self.cases: dict[str, list[Mapping[str, Any]]] = {}
        self._patients: dict[str, list[str]] = {}
        resources: list[Resource] = []
        number = 0
        for name in measures:
            self.cases[name] = [json.loads(path.read_text("utf-8")) for path in sorted((CASES / name).glob("*.json"))]
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

    def persons(self, measure: str) -> list[str]:
        """The persons that the cases of a measure became."""
        import pyarrow as pa

        found: list[str] = self.gateway.persons.lookup("ehr", pa.array(self._patients[measure])).to_pylist()
        return found

    def counts(self, measure: str) -> dict[str, dict[str, int]]:
        """Expected populations of the first group, by person."""
        return {
            person: case["expected"]["groups"][0]["population"]
            for person, case in zip(self.persons(measure), self.cases[measure], strict=True)
        }
