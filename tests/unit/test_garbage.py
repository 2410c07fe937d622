"""What a process keeps for long is spared the collector of garbage: afterwards as well, and for good."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import gc
from fhir_gateway.garbage import spare_what_is_kept

class Cycle:
    gone = 0
    def __init__(self): self.own = self
    def __del__(self): Cycle.gone += 1

kept = [[n] for n in range(1000)]
gc.disable()
Cycle()
spare_what_is_kept()
assert Cycle.gone == 1, "garbage is not kept with the rest"
assert gc.get_freeze_count() > 1000
seen = {id(one) for one in gc.get_objects()}
assert not seen & {id(one) for one in kept}
Cycle()
gc.collect()
assert Cycle.gone == 2, "what comes later is looked through as ever"
later = [[n] for n in range(1000)]
spare_what_is_kept()
assert not {id(one) for one in gc.get_objects()} & {id(one) for one in later}
"""


def test_what_is_kept_is_passed_over_and_garbage_is_not() -> None:
    done = subprocess.run(  # in a process of its own: this one should not keep what other tests leave behind
        [sys.executable, "-W", "error", "-c", PROGRAM], check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
