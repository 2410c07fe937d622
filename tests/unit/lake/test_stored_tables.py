"""What the tables of a lake rest on, as their logs say."""

from __future__ import annotations

from pathlib import Path

from fhir_gateway.lake.store import COMPACTED, Lake
from tests.support.lake_pulls import MakePull, People


def test_a_table_of_many_files_rests_on_few_once_it_is_compacted(tmp_path: Path, make_pull: MakePull) -> None:
    lake = Lake.open(tmp_path / "lake", buckets=1)
    assert lake.stored() == ()
    for number in range(COMPACTED):
        offices = [{"resourceType": "Organization", "id": f"g{number}", "name": str(number)}]
        lake.commit(make_pull(f"pull-{number}", {"Organization": offices}), People())
    (before,) = lake.stored()
    assert (before.resource_type, before.buckets, before.superseded) == ("Organization", 1, False)
    assert (before.files, before.most_files, before.rows, before.compacted) == (COMPACTED, COMPACTED, COMPACTED, None)
    files = list((tmp_path / "lake" / "Organization").rglob("*.parquet"))
    assert before.bytes == sum(one.stat().st_size for one in files)
    lake.compact()
    (after,) = lake.stored()
    assert (after.files, after.most_files, after.rows, after.compacted) == (1, 1, COMPACTED, lake.version)
    assert lake.described(lake.version).kind == "compact"
