"""Pulls as jobs: what changes or is wrong on the way, from the endpoint's registration to the ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import LedgerError
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.pull import pull_endpoint
from fhir_gateway.sources.endpoint import Endpoint
from fhir_gateway.sources.outcome import PullProgress
from tests.support.misbehaving import MisbehavingSource, patients, running


@pytest.fixture
def source() -> Iterator[MisbehavingSource]:
    app = MisbehavingSource()
    with running(app) as root:
        app.base = f"{root}/fhir"
        yield app


@pytest.fixture
def gateway(tmp_path: Path, source: MisbehavingSource) -> Gateway:
    gateway = Gateway(Settings(data_dir=tmp_path / "data", lake_buckets=1))
    gateway.endpoints.add(Endpoint("ehr", source.base, client_id="us"))
    source.jwks = gateway.endpoints.public_jwks()
    return gateway


def test_a_key_is_rotated_while_an_export_goes_on(gateway: Gateway, source: MisbehavingSource) -> None:
    """Tokens are asked for with the key of the moment: the old one may be gone before a long download ends."""
    source.files = {f"Patient-{n}": patients(1, n) for n in range(40)}
    old = gateway.endpoints.signing_key("ehr").kid
    asked: list[int] = []

    def rotate(told: PullProgress) -> None:
        if told.phase != "download" or asked:
            return
        asked.append(len(source.requests("token")))
        new = gateway.endpoints.prepare_key("ehr").kid
        assert {key["kid"] for key in gateway.endpoints.public_jwks()["keys"]} == {old, new}
        gateway.endpoints.activate_key("ehr", new)
        gateway.endpoints.remove_key("ehr", old)
        source.jwks = gateway.endpoints.public_jwks()
        source.revoke_tokens()

    report = pull_endpoint(gateway, "ehr", mode="bulk", progress=rotate)
    assert report.complete
    assert source.kickoffs == 1
    assert len(source.requests("token")) > asked[0]
    assert gateway.lake.read("Patient").num_rows == 40


@pytest.mark.parametrize("error", [2, -1])
def test_counts_that_lie_commit_nothing_until_the_operator_accepts_it(
    gateway: Gateway, source: MisbehavingSource, error: int
) -> None:
    source.count_error = error
    with pytest.raises(LedgerError, match="manifest-count"):
        pull_endpoint(gateway, "ehr", mode="bulk")
    assert gateway.lake.version == 0
    assert gateway.pulls.recent()[0].state == "failed"
    report = pull_endpoint(gateway, "ehr", mode="bulk", accept_partial=True)
    assert gateway.lake.read("Patient").num_rows == 5
    assert report.ledger.balanced
    assert not report.complete
    assert [issue.message for issue in report.issues] == [
        f"{count} lines where the manifest says {count + error}" for count in (3, 2)
    ]
    assert gateway.pulls.watermark("ehr", {"types": []}) is None
