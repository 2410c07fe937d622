"""What is kept of compiled code."""

from __future__ import annotations

import os
from pathlib import Path

from fhir_gateway.lake.kernel.machine import forget_older


def test_code_compiled_before_any_module_changed_is_forgotten(tmp_path: Path) -> None:
    kept = tmp_path / "__pycache__"
    kept.mkdir()
    for path, written in (("a.py", 10), ("b.py", 30), ("__pycache__/a.f.nbi", 20), ("__pycache__/b.g.nbi", 30)):
        (tmp_path / path).write_bytes(b"")
        os.utime(tmp_path / path, (written, written))
    forget_older(tmp_path)
    assert [path.name for path in kept.iterdir()] == ["b.g.nbi"]
