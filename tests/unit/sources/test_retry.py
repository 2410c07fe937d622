"""Waits, line counts, manifests and limits: the small parts, as tables."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.download import LineCounter
from fhir_gateway.sources.limit import AdaptiveLimit
from fhir_gateway.sources.manifest import Manifest, earliest, named
from fhir_gateway.sources.retry import backoff, retry_after

NOW = 1_750_000_000.0


@pytest.mark.parametrize(("value", "seconds"), [
    (None, None), ("", None), ("soon", None), ("nan", None), ("inf", None),
    ("0", 0), ("-5", 0), ("12", 12), ("1.5", 1.5), ("18000", 300),
    (str(int(NOW) + 20), 20), (str(int(NOW * 1000) + 20_000), 20), (str(int(NOW) - 20), 0), ("99999999999999999", 300),
    ("Sun, 15 Jun 2025 15:06:50 GMT", 10), ("Sun, 15 Jun 2025 15:00:00 GMT", 0), ("Sun, 15 Jun 2099 15:00:00 GMT", 300),
])  # fmt: skip
def test_retry_after(value: str | None, seconds: float | None) -> None:
    assert retry_after(value, NOW, 300) == seconds


def test_backoff_grows_to_the_cap() -> None:
    assert all(backoff(attempt, 30) <= 30 for attempt in range(1, 200))
    assert backoff(6, 30) > backoff(1, 30)


@given(st.lists(st.sampled_from([b"{}", b"", b" ", b"\r", b"x y", b"\t"])), st.lists(st.integers(0, 12)), st.booleans())
def test_line_counter_counts_lines_that_are_not_blank(lines: list[bytes], cuts: list[int], newline: bool) -> None:
    text = b"\n".join(lines) + (b"\n" if newline else b"")
    counter = LineCounter()
    for start, end in pairwise([0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]):
        counter.feed(text[start:end])
    assert counter.total == sum(1 for line in lines if line.strip())


def test_earliest_compares_instants_not_texts() -> None:
    assert earliest("2025-01-01T05:00:00+06:00", None, "2025-01-01T00:00:00Z") == "2025-01-01T05:00:00+06:00"
    assert earliest(None) is None


def test_manifest_tolerance() -> None:
    url = "https://h/jobs/1?secret"
    manifest = Manifest.parse({"output": [{"url": "f/1"}], "transactionTime": "yesterday"}, url)
    assert manifest.output[0].url == "https://h/jobs/f/1"
    assert manifest.transaction_time is None
    assert manifest.requires_access_token
    for body in (None, [], {}, {"output": {}}, {"output": [{"type": "Patient"}]}):
        with pytest.raises(SourceError) as caught:
            Manifest.parse(body, url)
        assert "secret" not in str(caught.value)


def test_local_names_survive_renewed_signatures() -> None:
    def names(*urls: str) -> list[str]:
        return list(
            named(Manifest.parse({"output": [{"type": "Patient", "url": url} for url in urls]}, "https://h/").output)
        )

    assert names("a?sig=1", "b?sig=1") == names("a?sig=2", "b?sig=2")
    assert len(set(names("a?part=1", "a?part=2"))) == 2


def test_limit_adapts() -> None:
    async def story() -> list[int]:
        limit = AdaptiveLimit(8)
        sizes = [limit.size]
        for _ in range(40):
            limit.grow()
        sizes.append(limit.size)
        limit.shrink()
        sizes.append(limit.size)
        for _ in range(9):
            limit.shrink()
        sizes.append(limit.size)
        async with limit:
            waiting = asyncio.create_task(limit.__aenter__())
            await asyncio.sleep(0)
            assert not waiting.done()
        await waiting
        return sizes

    assert asyncio.run(story()) == [4, 8, 4, 1]
