"""A FHIR-native gateway for value-based care. The rooms and their doors: ``docs/develop/rooms.md``."""

import os
import sys

# read when Arrow is loaded: mimalloc, its default, keeps what threads have freed, and more of it the longer they run
# (ADR 0252); only Arrow's builds for Linux always have the other
if sys.platform == "linux":
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "jemalloc")
