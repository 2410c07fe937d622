"""Commands by Spark, started as people start them, next to the same commands without."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import venv
from pathlib import Path
from typing import Any

import pytest

from fhir_gateway.cli import submit
from fhir_gateway.config import Settings
from fhir_gateway.demo.sources import make_population
from fhir_gateway.factory import Gateway
from tests.support.measures import saved
from tests.support.waiting import HANG

NOW = ("--now", "2026-01-15T12:00:00+00:00")
#: What a machine without a cluster has: two JVMs beside the driver's.
MASTER = "local-cluster[2,1,1024]"
BIN = Path(sys.executable).parent


def command(*words: str | Path, **more: str) -> None:
    """Run it to its end; every machine of the cluster is this one."""
    environment = {
        **os.environ,
        "PYSPARK_PYTHON": sys.executable,
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "SPARK_CONF_DIR": str(Path(__file__).parent / "conf"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        **more,
    }
    done = subprocess.run(
        [str(BIN / words[0]), *map(str, words[1:])],
        env=environment,
        capture_output=True,
        text=True,
        timeout=HANG,
        check=False,
    )
    assert done.returncode == 0, f"{done.stderr}\n{done.stdout}"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A gateway that pulled a small population."""
    folder = tmp_path_factory.mktemp("pulled")
    make_population(folder / "population", 120, 1, 2025, lambda _done: None)
    for source in ("ehr", "payer"):
        files = folder / "population" / source
        command("fhir-gateway", "--data-dir", folder / "data", "pull", "--files", files, "--source", source)
    return folder / "data"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """An environment as it travels to executors; what is in it leads back to the one of the tests."""
    folder = tmp_path / "environment"
    venv.create(folder, symlinks=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "tests.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")), "utf-8")
    with tarfile.open(tmp_path / "environment.tar.gz", "w:gz") as packed:
        packed.add(folder, ".")
    return tmp_path / "environment.tar.gz"


def served(folder: Path, kind: str) -> dict[str, dict[str, Any]]:
    """Resources of a type as they are served, without when they were stored."""
    gateway = Gateway(Settings(data_dir=folder))
    store = gateway.resources
    found = {name: dict(store.read(kind, name).json()) for name in store.ids(kind)}
    gateway.engine.dispose()
    for one in found.values():
        one["meta"] = {name: value for name, value in one.get("meta", {}).items() if name != "lastUpdated"}
    return found


def test_evaluate_submitted_to_a_cluster(data: Path, archive: Path, tmp_path: Path) -> None:
    here, there = (Path(shutil.copytree(data, tmp_path / name)) for name in ("here", "there"))
    asked = ("evaluate", "all", "--period", "2025", *NOW)
    command("fhir-gateway", "--data-dir", here, *asked)
    command(
        "spark-submit",
        *("--master", MASTER, "--archives", f"{archive}#environment"),
        *(submit.__file__, "--data-dir", there, *asked, "--on", "spark"),
        PYSPARK_DRIVER_PYTHON=sys.executable,
        PYSPARK_PYTHON="./environment/bin/python",
    )
    assert saved(there / "results") == saved(here / "results") != {}
    assert served(there, "MeasureReport") == served(here, "MeasureReport") != {}
