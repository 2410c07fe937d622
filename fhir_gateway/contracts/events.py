"""Events that count again only after a while: deliveries, first visits."""

from __future__ import annotations

from collections.abc import Sequence


def spaced_events(source: str, keys: Sequence[str], months: int) -> str:
    """SQL of the events of ``source`` (keys, ``day``) that count: the first, then each ``months`` after one that did.

    It recurses as often as the key with most counting events has them; each step is over all keys.
    """
    named = ", ".join(keys)
    of_events = ", ".join(f"e.{key}" for key in keys)
    return f"""
      WITH RECURSIVE counting AS (
        SELECT {named}, min(day) AS day FROM {source} GROUP BY {named}
        UNION ALL
        SELECT {of_events}, min(e.day) FROM {source} e JOIN counting c USING ({named})
        WHERE e.day >= c.day + to_months({months}) GROUP BY {of_events}
      ) SELECT {named}, day FROM counting"""  # noqa: S608 names of our own tables
