"""An attribution and a settlement that go by those who changed are those of everybody, to the byte."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.demo import tour
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import attribution_kept
from fhir_gateway.jobs.attribute import attribute
from fhir_gateway.jobs.attribution_runs import attributions_folder
from fhir_gateway.jobs.settle import settle, statements_folder
from fhir_gateway.lake.claims import claims
from tests.support.changing import KINDS, Changing

CONTRACT = tour.CONTRACTS[1]
NOW = datetime(2026, 4, 1, tzinfo=UTC)
#: Of terms that look at what patients nominated, and stay with who won before.
STICKY = 'terms = "commercial-primary-care"\nselections_from = ["loaded", "generalPractitioner"]'


def _evidence(gateway: Gateway, name: str, key: str) -> dict[str, bytes]:
    folder = attributions_folder(gateway, name) / key
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _forget(gateway: Gateway, name: str, key: str) -> None:
    """Nothing is left to go by."""
    for path in ("claim-lines", "attribution-runs", f"attributions/{name}/{key}"):
        shutil.rmtree(gateway.data_folder / path, ignore_errors=True)


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Of how many members each attribution was; None: of everybody."""
    found: list[int | None] = []
    true = attribution_kept.of_members

    def of_members(*given: object) -> attribution_kept.Found:
        found.append(len(given[3]) if len(given) > 3 else None)  # type: ignore[arg-type]
        return true(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(attribution_kept, "of_members", of_members)
    return found


def test_runs_by_who_changed_are_runs_over_everybody(tmp_path: Path, judged: list[int | None]) -> None:
    contract = tmp_path / "contract.toml"
    contract.write_text(CONTRACT.read_text().replace('terms = "commercial-primary-care"', STICKY))
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=3, processes=1))
    changing = Changing(gateway, tmp_path, 30, 1)
    settle(gateway, str(contract), now=NOW)
    for day, kind in enumerate(KINDS, 1):
        changing.pull(kind)
        now = NOW + timedelta(days=day)
        judged.clear()
        some = attribute(gateway, str(contract), now=now)
        if kind == "directory":
            assert judged == [None], "the directory may concern everybody"
        else:
            assert judged[0] is not None
            assert judged[0] < some.attribution.table.num_rows / 2
        again = attribute(gateway, str(contract), now=now)  # who was dropped is not on the next version of the list
        if day % 4 == 1:
            settled = settle(gateway, str(contract), now=now)
        name, folder = some.contract.id, statements_folder(gateway, some.contract.id)
        before = _evidence(gateway, name, some.evidence)
        _forget(gateway, name, some.evidence)
        everybody = attribute(gateway, str(contract), now=now, everybody=True)
        assert everybody.evidence == some.evidence
        assert everybody.group == again.group, "no new version of the list"
        assert everybody.attribution == some.attribution
        assert _evidence(gateway, name, some.evidence) == before
        if day % 4 == 1:
            stated = folder / f"{settled.report}.json"
            before_it = stated.read_bytes()
            assert settle(gateway, str(contract), now=now, everybody=True).report == settled.report
            assert stated.read_bytes() == before_it


def test_nobody_is_attributed_where_nobody_changed(tmp_path: Path, judged: list[int | None]) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=3, processes=1))
    changing = Changing(gateway, tmp_path, 20, 4)
    first = attribute(gateway, str(CONTRACT), now=NOW)
    again = attribute(gateway, str(CONTRACT), now=NOW)
    assert (judged, again.evidence) == ([None], first.evidence)
    changing.pull("people")
    attribute(gateway, str(CONTRACT), now=NOW)
    assert judged[1:] == [2]


def test_other_terms_are_for_everybody(tmp_path: Path, judged: list[int | None]) -> None:
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=3, processes=1))
    Changing(gateway, tmp_path, 20, 5)
    contract = tmp_path / "contract.toml"
    contract.write_text(CONTRACT.read_text())
    attribute(gateway, str(contract), now=NOW)
    contract.write_text(CONTRACT.read_text().replace('tins = ["004703642", "004141478"]', 'tins = ["004703642"]'))
    attribute(gateway, str(contract), now=NOW)
    contract.write_text(contract.read_text().replace("paid_through = 2026-03-31", "paid_through = 2026-01-31"))
    attribute(gateway, str(contract), now=NOW)
    assert judged == [None] * 3


@pytest.mark.parametrize("buckets", [1, 5])
def test_lines_do_not_depend_on_buckets(tmp_path: Path, buckets: int) -> None:
    order = [(name, "ascending") for name in ("_member", "source", "eob", "line")]
    found = []
    for count in (3, buckets):
        gateway = Gateway(Settings(data_dir=tmp_path / f"{count}", lake_buckets=count))
        changing = Changing(gateway, tmp_path / f"{count}-pulls", 20, 6)
        for kind in ("claims", "merged"):
            changing.pull(kind)
        found.append(claims(gateway.lake).sort_by(order))
    assert found[0].equals(found[1])


def test_everybody_in_parts_is_everybody_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    contract = tmp_path / "contract.toml"
    contract.write_text(CONTRACT.read_text().replace('terms = "commercial-primary-care"', STICKY))
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=4))
    Changing(gateway, tmp_path, 30, 3).pull("claims")
    found = []
    for together in (10**6, 1):
        monkeypatch.setattr(attribution_kept, "_TOGETHER", together)
        report = attribute(gateway, str(contract), now=NOW, everybody=True)
        found.append(_evidence(gateway, report.contract.id, report.evidence))
        _forget(gateway, report.contract.id, report.evidence)
    assert found[0] == found[1]
