"""Code lists that metrics look at are replaced by a file and a command, and results name their version."""

from __future__ import annotations

from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fhir_gateway.attribution.eligibility import MONTH_SCHEMA
from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.utilization import import_table, options_of
from fhir_gateway.lake.claims import LINE_SCHEMA
from fhir_gateway.risk.utilization import PEOPLE_SCHEMA, Population, Tables, Utilization, utilization

YEAR = (date(2026, 1, 1), date(2026, 12, 31))


def line(claim: str, start: date, thru: date, **more: object) -> dict[str, object]:
    row: dict[str, object] = dict.fromkeys(LINE_SCHEMA.names)
    days = {"service_from": start, "service_thru": thru, "claim_from": start, "claim_thru": thru}
    head = {"_member": "ann", "source": "payer", "claim_group": claim, "counts": True, "denied": False}
    return row | head | days | {"claim_type": "inpatient", "bill_type": "0111", "organization": "H1"} | more


#: A stay for heart failure, an operation three weeks later, and a visit to an emergency department for a cold.
LINES = pa.Table.from_pylist(
    [
        line("1", date(2026, 2, 1), date(2026, 2, 4), diagnosis="I50.9", discharge_status="01"),
        line("2", date(2026, 2, 25), date(2026, 2, 27), diagnosis="K40.90", procedures=["0YQ50ZZ"]),
        line("3", date(2026, 5, 1), date(2026, 5, 1), diagnosis="J00", claim_type="outpatient", revenue_code="0450"),
    ],
    schema=LINE_SCHEMA,
)
MONTHS = [{"member": "ann", "month": date(2026, month, 1), "months": Decimal(1)} for month in range(1, 13)]
ANN = Population(
    pa.Table.from_pylist(MONTHS, schema=MONTH_SCHEMA),
    people=pa.Table.from_pylist([{"member": "ann", "birth_date": date(1950, 1, 1)}], schema=PEOPLE_SCHEMA),
)


def computed(data: Path) -> Utilization:
    options = options_of(Gateway(Settings(data_dir=data)))
    return utilization(LINES, ANN, YEAR, through=date(2027, 3, 31), options=options)


def imported(data: Path, text: str, *more: str) -> str:
    path = data / "list.csv"
    path.write_text(text)
    result = CliRunner().invoke(
        app, ["utilization", "import", str(path), *more], env={"FHIR_GATEWAY_DATA_DIR": str(data)}
    )
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.parametrize(
    ("text", "more", "metric", "before", "after", "named"),
    [
        (
            "value_set,code,version,source\npqi-08,I11.0,v2027,AHRQ\n",
            (),
            "pqi-08",
            1,
            0,
            ("value-set.pqi-08", "v2027"),
        ),
        (
            "value_set,code,version,source\nreadmission-planned-procedures,0YQ*,4.0 2027,CMS\n",
            (),
            "readmissions-30-day",
            1,
            0,
            ("value-set.readmission-planned-procedures", "4.0 2027"),
        ),
        (
            "diagnosis,non_emergent,primary_care_treatable,avoidable\nJ00,0.5,0.25,0\n",
            ("--form", "ed-probabilities"),
            "avoidable-ed-visits-per-1000",
            0,
            Decimal("0.75"),
            ("ed-probabilities", "sha256:"),
        ),
    ],
    ids=["pqi", "planned-readmission", "avoidable-ed"],
)
def test_a_code_list_is_replaced_by_a_file(
    tmp_path: Path, text: str, more: tuple[str, ...], metric: str, before: int, after: Decimal, named: tuple[str, str]
) -> None:
    was = computed(tmp_path)
    assert was.row(metric)["numerator"] == before
    assert named[0] not in was.versions
    imported(tmp_path, text, *more)
    now = computed(tmp_path)
    assert now.row(metric)["numerator"] == after
    assert now.versions[named[0]].startswith(named[1])
    assert set(was.versions) == set(now.versions) - {named[0]}


def test_a_list_that_no_metric_looks_at_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("value_set,code\npqi-8,I11.0\n")
    with pytest.raises(InputError, match="pqi-8: no metric looks at such a value set"):
        import_table(Gateway(Settings(data_dir=tmp_path)), path, "value-sets")
    assert options_of(Gateway(Settings(data_dir=tmp_path))).tables == Tables.shipped()


def test_what_is_shipped_says_where_it_comes_from() -> None:
    assert all(one.version and one.source and one.trust in ("T", "M") for one in Tables.shipped().value_sets.values())
