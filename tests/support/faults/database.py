"""The database goes away under everything at once: it is stopped, killed, restarted, while jobs and requests go on."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.faults.callers import Caller
from tests.support.faults.postgresql_server import MODES, PostgreSQL
from tests.support.faults.site import CALCULATED, UPKEEP, Site, World, differing, outcome
from tests.support.serving import free_port, serving
from tests.support.waiting import until

PATHS = ("/fhir/Patient?_count=5", "/fhir/Group", "/fhir/MeasureReport?_count=2", "/ready")


def restarts(
    folder: Path, server: PostgreSQL, world: World, expected: Mapping[str, Any], seed: int, most: int = 4
) -> int:
    """One round: the year's end by two workers, a client who reads, and a server that goes away after some answers.

    It comes back when a client was told that it is away. How often it went.
    """
    chance = random.Random(seed)  # noqa: S311 - a seed, no secret
    site = Site(folder / "site", world, server.url)
    site.prepare()
    port = free_port()
    public = f"http://127.0.0.1:{port}"
    caller = Caller.registered(site.gateway, public)
    ids = site.submit(CALCULATED)
    struck = 0
    with (
        serving(folder / "site" / "data", port, None, JOBS_IN_SERVER="false", **_settings(site)) as process,
        site.workers(2),
    ):
        headers = caller.headers()
        with caller.asking(PATHS, headers):
            while struck < most:
                target = sum(caller.answers.values()) + chance.randint(1, 12)
                until(lambda: sum(caller.answers.values()) >= target)  # noqa: B023 - waited for here
                mode = chance.choice(MODES)
                server.stop(mode)
                refused = caller.answers[503]
                until(lambda: caller.answers[503] > refused)  # noqa: B023 - a client was told
                server.start()
                struck += 1
            site.close()
            site.ended(ids)
            answered = caller.answers[200]
            until(lambda: caller.answers[200] > answered + 5)
        assert process.poll() is None, "the server died"
    site.calculate(UPKEEP)
    assert not caller.wrong, caller.wrong[:5]
    wrong = differing(outcome(site.gateway), expected)
    assert not wrong, wrong
    site.close()
    return struck


def _settings(site: Site) -> dict[str, str]:
    return {
        name.removeprefix("FHIR_GATEWAY_"): value
        for name, value in site.variables.items()
        if name not in ("FHIR_GATEWAY_DATA_DIR",)
    }
