"""The collector of garbage in a process that keeps much for long.

It stops everything while it looks through all there is, now and then: a quarter of a second in the midst of answers,
for what is never garbage.
"""

from __future__ import annotations

import atexit
import gc


def spare_what_is_kept() -> None:
    """Have the collector pass over everything that is here now, once it has taken what is garbage."""
    gc.collect()
    gc.freeze()
    atexit.unregister(gc.unfreeze)
    atexit.register(gc.unfreeze)  # libraries count what the process leaves behind, and say so
