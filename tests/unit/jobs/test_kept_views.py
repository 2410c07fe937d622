"""Views: computed once for their inputs by whoever asks first, kept, and other ones for other inputs."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs import kept_views
from fhir_gateway.jobs.kept_views import kept_view
from tests.support.waiting import HANG


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    return Gateway(Settings(data_dir=tmp_path, lake_buckets=1))


def test_a_view_is_computed_once_for_its_inputs(gateway: Gateway) -> None:
    computed = []

    def compute() -> dict[str, int]:
        computed.append(1)
        return {"number": len(computed)}

    assert kept_view(gateway, "made", ["a", "b"], compute) == {"number": 1}
    assert kept_view(gateway, "made", ["a", "b"], compute) == {"number": 1}
    assert kept_view(gateway, "made", ["a", "c"], compute) == {"number": 2}
    assert kept_view(gateway, "other", ["a", "b"], compute) == {"number": 3}


def test_of_several_who_ask_at_once_one_computes(gateway: Gateway) -> None:
    begun, go_on, computed, found = threading.Event(), threading.Event(), [], []

    def compute() -> dict[str, int]:
        computed.append(1)
        begun.set()
        assert go_on.wait(HANG)
        return {"number": len(computed)}

    threads = [
        threading.Thread(target=lambda: found.append(kept_view(gateway, "made", ["a"], compute))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    assert begun.wait(HANG)
    go_on.set()
    for thread in threads:
        thread.join(HANG)
    assert found == [{"number": 1}] * 3
    assert len(computed) == 1


def test_what_could_not_be_computed_is_not_kept(gateway: Gateway) -> None:
    def refuse() -> dict[str, int]:
        raise InputError("not now")

    with pytest.raises(InputError):
        kept_view(gateway, "made", ["a"], refuse)
    assert kept_view(gateway, "made", ["a"], lambda: {"number": 1}) == {"number": 1}


def test_the_oldest_of_a_kind_are_forgotten(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_views, "_MOST", 2)
    for number in range(4):
        kept_view(gateway, "made", [str(number)], lambda number=number: {"number": number})  # type: ignore[misc]
    assert len(list((gateway.data_folder / "views" / "made").iterdir())) == 2
