"""The bench of sizes does what it says, at the smallest: from nothing to a settlement."""

from __future__ import annotations

from pathlib import Path

from bench import scale


def test_from_nothing_to_a_settlement(tmp_path: Path) -> None:
    work = scale.Work(tmp_path, members=50, drawn=0.3, pull_members=scale.BATCH, buckets=2, data=tmp_path)
    made = scale.generate(work, 0)
    taken = [scale.ingest(work, source, 0) for source in scale.SOURCES]
    assert sum(told["lines"] for told in taken) == made["resources"]
    assert [told["quarantined"] for told in taken] == [0, 0]
    attributed = scale.attribute(work)
    evaluated = scale.evaluate(work, measures=4)  # ours: the published ones are not in the repository
    assert evaluated["failed"] == 0
    assert evaluated["evaluated"] > 0
    assert evaluated["rates"]["EDVisitsPer1000 main"][0] > 0
    settled = scale.settle(work)
    assert settled["roster"] == attributed["roster"] > 0
