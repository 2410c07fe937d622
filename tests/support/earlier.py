"""An earlier release, as it was committed, run beside this one by the same interpreter and libraries."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMIT = "876aa784cafb2b247349c53be4064cd042a85f84"
"""Its last migration is 0018: three migrations, and many commits, before the first that promises side by side.

Where libraries have moved on so far that it does not run any more, take a later one.
"""
VERSION = "0.0.18"
"""What it calls itself here: no two releases of ours have had the same number, these two would."""


def unpack(folder: Path) -> Path:
    """The earlier release in a folder of its own; skips visibly where the history does not reach so far."""
    packed = subprocess.run(["git", "archive", COMMIT], cwd=ROOT, capture_output=True)
    if packed.returncode:
        pytest.skip(f"the history of this checkout does not have {COMMIT[:7]}")
    with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
        archive.extractall(folder, filter="data")
    about = folder / f"fhir_gateway-{VERSION}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.4\nName: fhir-gateway\nVersion: {VERSION}\n")
    return folder


def environment(release: Path, **settings: str) -> dict[str, str]:
    """Of a process of that release; this one's is ``ROOT``."""
    stated = {f"FHIR_GATEWAY_{name}": value for name, value in settings.items()}
    return {**os.environ, "PYTHONPATH": str(release), **stated}


def run(release: Path, *arguments: str, **settings: str) -> str:
    """A command of a release (``-m fhir_gateway.cli ...``, or ``-c``), and what it printed."""
    ran = subprocess.run(
        [sys.executable, *arguments],
        cwd=release,
        env=environment(release, **settings),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout
