"""The pages about measures say what is there, and their examples run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.support.measures import NAMES

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "use" / "measures.md").read_text("utf-8")


@pytest.mark.parametrize("example", re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL))
def test_examples_run(example: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    exec(compile(example, "docs/use/measures.md", "exec"), {})  # noqa: S102 - our own documentation


def test_every_package_is_in_the_table_and_has_cases() -> None:
    packages = sorted(path.parent.name for path in (ROOT / "measures").glob("*/measure.json"))
    assert packages == NAMES
    assert all(f"| `{name}` |" in PAGE for name in packages)
