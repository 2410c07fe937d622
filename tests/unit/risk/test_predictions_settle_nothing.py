"""No module that settles, attributes or scores for payment reaches a prediction, directly or through others."""

from __future__ import annotations

import tomllib
from pathlib import Path

from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[3]
CONTRACT = "predictions-settle-nothing"


def test_the_contract_of_imports_is_kept() -> None:
    config = ROOT / "pyproject.toml"
    assert (
        lint_imports(config_filename=str(config), limit_to_contracts=(CONTRACT,), no_cache=True) == EXIT_STATUS_SUCCESS
    )


def test_the_contract_is_about_every_module_that_settles() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (one for one in stated["tool"]["importlinter"]["contracts"] if one.get("id") == CONTRACT)
    assert contract["forbidden_modules"] == ["fhir_gateway.risk.prediction"]
    assert not contract.get("ignore_imports")
    jobs = ROOT / "fhir_gateway" / "jobs"
    calling = {
        f"fhir_gateway.jobs.{path.stem}"
        for path in jobs.glob("*.py")
        if "import settle\n" in path.read_text(encoding="utf-8") or " settle(" in path.read_text(encoding="utf-8")
    }
    assert calling
    assert calling <= set(contract["source_modules"])
