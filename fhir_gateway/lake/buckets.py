"""Which bucket a person's rows lie in."""

from __future__ import annotations

import hashlib


def bucket_of(member: str, buckets: int) -> int:
    """Bucket of a person: stable over machines, versions and time."""
    return int.from_bytes(hashlib.blake2b(member.encode(), digest_size=8).digest(), "big") % buckets
