"""Kept claim lines are those of the lake, and never those of another version."""

from __future__ import annotations

import shutil
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import claim_lines
from fhir_gateway.jobs.claim_lines import copies_set_aside, kept_claim_line_buckets, kept_claim_lines
from fhir_gateway.jobs.pull import pull_files
from fhir_gateway.lake.claims import LINE_SCHEMA, claims
from fhir_gateway.sandbox.population import generate
from tests.support.changing import KINDS, Changing


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    population = tmp_path_factory.mktemp("population") / "all"
    generate(population, patients=60, seed=3, year=2025)
    gateway = Gateway(Settings(data_dir=tmp_path_factory.mktemp("gateway"), lake_buckets=3))
    pull_files(gateway, [population / "payer"], "payer")
    return gateway


def _kept(gateway: Gateway) -> list[Path]:
    return sorted((gateway.data_folder / "claim-lines").rglob("*.parquet"))


@pytest.mark.parametrize("paid_through", [None, date(2025, 6, 30), date(1900, 1, 1)])
def test_lines_of_all_buckets_are_the_lines_of_the_lake(gateway: Gateway, paid_through: date | None) -> None:
    derived = kept_claim_lines(gateway, gateway.lake.version, paid_through, LINE_SCHEMA.names)
    assert derived.schema.equals(LINE_SCHEMA)
    order = [(name, "ascending") for name in ("_member", "source", "eob", "line")]
    whole = claims(gateway.lake, paid_through=paid_through)
    assert derived.sort_by(order).equals(whole.sort_by(order))
    assert (whole.num_rows == 0) == (paid_through == date(1900, 1, 1))
    again = kept_claim_lines(gateway, gateway.lake.version, paid_through, LINE_SCHEMA.names)
    assert again.equals(derived)


@pytest.mark.parametrize("paid_through", [None, date(1900, 1, 1)])
def test_each_bucket_has_the_lines_of_its_members(
    gateway: Gateway, paid_through: date | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhir_gateway.jobs.claim_lines._ROWS", 100)  # so that a bucket has several row groups
    shutil.rmtree(gateway.data_folder / "claim-lines", ignore_errors=True)
    version = gateway.lake.version
    parts = list(kept_claim_line_buckets(gateway, version, paid_through, LINE_SCHEMA.names))
    assert len(parts) == gateway.lake.buckets
    for bucket, part in enumerate(parts):
        assert part.equals(claims(gateway.lake, bucket, version, paid_through))
    assert pa.concat_tables(parts).equals(kept_claim_lines(gateway, version, paid_through, LINE_SCHEMA.names))


def test_a_new_lake_version_replaces_what_was_kept(gateway: Gateway, tmp_path: Path) -> None:
    shutil.rmtree(gateway.data_folder / "claim-lines", ignore_errors=True)
    version = gateway.lake.version
    before = kept_claim_lines(gateway, version, None, ["eob"])
    old = _kept(gateway)
    (tmp_path / "more.ndjson").write_text('{"resourceType": "Patient", "id": "new"}\n')
    pull_files(gateway, [tmp_path], "other")
    assert kept_claim_lines(gateway, gateway.lake.version, None, ["eob"]).equals(before)
    assert not set(old) & set(_kept(gateway))
    assert len(_kept(gateway)) == 1
    assert kept_claim_lines(gateway, version, None, ["eob"]).equals(before)  # an older version can be asked for again


def test_only_the_columns_asked_for_are_read(gateway: Gateway) -> None:
    lines = kept_claim_lines(gateway, gateway.lake.version, None, ["_member", "paid"])
    assert lines.schema.equals(pa.schema([LINE_SCHEMA.field("_member"), LINE_SCHEMA.field("paid")]))


def test_the_same_claims_from_a_second_source_cost_nothing_more(tmp_path: Path) -> None:
    generate(tmp_path / "all", patients=40, seed=5, year=2025)
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=2))
    pull_files(gateway, [tmp_path / "all" / "payer"], "payer")

    def total(precedence: tuple[str, ...] = ()) -> pa.Scalar:
        lines = kept_claim_lines(gateway, gateway.lake.version, None, ["counts", "paid"], precedence)
        return pc.sum(lines.filter(lines["counts"])["paid"])

    alone, eobs = total(), gateway.lake.read("ExplanationOfBenefit").num_rows
    assert alone.as_py() > 0
    pull_files(gateway, [tmp_path / "all" / "payer"], "hub")
    version, members = gateway.lake.version, gateway.lake.members()
    for precedence, order in (((), ("payer", "hub")), (("payer",), ("hub", "payer")), (("hub",), ("payer", "hub"))):
        assert total(precedence) == alone
        assert copies_set_aside(gateway, version, None, precedence, members) == {order: eobs}
    assert copies_set_aside(gateway, version, None, (), members.slice(0, 0)) == {}
    assert len(_kept(gateway)) == 3


@pytest.mark.parametrize("rows", [7, 100_000])
def test_lines_of_few_members_are_found_in_their_row_groups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    """Many row groups a bucket, or one: the lines of one, some, nobody and a stranger, in the order of all lines."""
    monkeypatch.setattr(claim_lines, "_ROWS", rows)
    generate(tmp_path / "all", patients=30, seed=3, year=2025)
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=3))
    pull_files(gateway, [tmp_path / "all" / "payer"], "payer")
    version, columns = gateway.lake.version, ["_member", "eob", "line"]
    whole = kept_claim_lines(gateway, version, None, columns)
    members = sorted(set(whole["_member"].to_pylist()))
    for some in ([members[0]], [members[-1], "p0"], members[::3], [], ["pffffffffffffffff"]):
        wanted = pa.array(some, pa.string())
        expected = whole.filter(pc.is_in(whole["_member"], value_set=wanted))
        assert kept_claim_lines(gateway, version, None, columns, members=wanted).equals(expected)
        eobs = kept_claim_lines(gateway, version, None, ["eob"], members=wanted)
        assert eobs.equals(expected.select(["eob"]))


def test_lines_by_who_changed_are_the_lines_of_everybody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pull after pull, of all payment dates; some buckets at once, or each by itself."""
    monkeypatch.setattr(claim_lines, "_ROWS", 50)
    derived: list[int | None] = []
    true = claim_lines.claims

    def counted(*given: object) -> pa.Table:
        derived.append(None if given[-1] is None else len(given[-1]))  # type: ignore[arg-type]
        return true(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(claim_lines, "claims", counted)
    gateway = Gateway(Settings(data_dir=tmp_path / "gateway", lake_buckets=3))
    changing = Changing(gateway, tmp_path, 40, 7)
    days = (None, date(2025, 6, 30))
    for number, kind in enumerate(("", *KINDS)):
        if kind:
            changing.pull(kind)
        monkeypatch.setattr(claim_lines, "_TOGETHER", (1, 100)[number % 2])
        version = gateway.lake.version
        derived.clear()
        some = [list(kept_claim_line_buckets(gateway, version, day, LINE_SCHEMA.names)) for day in days]
        if kind == "directory":  # some of whom nothing came name whom it is about
            assert sum(filter(None, derived)) > 0
        assert (None in derived) is (kind == "")
        assert len(_kept(gateway)) == len(days)
        shutil.move(gateway.data_folder / "claim-lines", tmp_path / "aside")
        for day, buckets in zip(days, some, strict=True):
            for bucket, lines in enumerate(kept_claim_line_buckets(gateway, version, day, LINE_SCHEMA.names)):
                assert lines.equals(buckets[bucket])
        bytes_of = [path.read_bytes() for path in _kept(gateway)]
        shutil.rmtree(gateway.data_folder / "claim-lines")
        shutil.move(tmp_path / "aside", gateway.data_folder / "claim-lines")
        assert [path.read_bytes() for path in _kept(gateway)] == bytes_of


def test_lines_that_somebody_deletes_meanwhile_are_derived_again(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    version, columns = gateway.lake.version, ["_member", "eob"]
    whole = kept_claim_lines(gateway, version, None, columns)
    shutil.rmtree(gateway.data_folder / "claim-lines")
    derive, deleted = claim_lines._derive, []

    def deleting(*given: object) -> None:
        derive(*given)  # type: ignore[arg-type]
        if len(deleted) < 2:
            deleted.extend(_kept(gateway))
            deleted[-1].unlink()

    monkeypatch.setattr("fhir_gateway.jobs.claim_lines._derive", deleting)
    assert kept_claim_lines(gateway, version, None, columns).equals(whole)
    assert len(deleted) == 2
    shutil.rmtree(gateway.data_folder / "claim-lines")
    monkeypatch.setattr("fhir_gateway.jobs.claim_lines._TRIES", 2)
    deleted.clear()
    with pytest.raises(FileNotFoundError):
        kept_claim_lines(gateway, version, None, columns)
