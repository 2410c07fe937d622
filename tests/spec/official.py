"""Run the official CQL conformance tests: ``python -m tests.spec.official [-v] FILE``.

Each test is an expression and its expected output, both as ELM; it passes when the engine finds them equivalent (or
both null), or, for an ``invalid`` one, when the engine refuses it. A test that the translator did not translate
passes only when it is meant to be invalid. Prints ``passed/total`` last.

``exclusions.toml`` lists the tests that do not pass, with reasons: exits 1 when one of them passes, or another fails.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fhir_gateway.cql import Batch, compile_library
from fhir_gateway.cql.operators.comparison import equivalent_mask
from fhir_gateway.cql.values import IntervalVec, IntVec, UncertainVec, Vec
from fhir_gateway.errors import GatewayError
from fhir_gateway.terminology import ValueSets

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)
EXCLUSIONS = Path(__file__).with_name("exclusions.toml")


def library(*expressions: Any) -> dict[str, Any]:
    """An ELM library of definitions ``e0``, ``e1`` ..."""
    return {
        "identifier": {"id": "T", "version": "1"},
        "statements": {
            "def": [{"name": f"e{i}", "context": "Patient", "expression": e} for i, e in enumerate(expressions)]
        },
    }


def evaluate(*expressions: Any) -> list[Any]:
    """Vectors of the expressions for one patient without data."""
    names = [f"e{i}" for i in range(len(expressions))]
    compiled = compile_library([library(*expressions)], ("T", "1"), ValueSets([]), names)
    batch = Batch(pa.array(["p"]), lambda kind, columns: (_ for _ in ()).throw(AssertionError("no data")))
    evaluation = compiled.evaluate(batch, {}, NOW)
    vectors = [evaluation.vector(name) for name in names]
    if evaluation.failures:
        raise RuntimeError(next(iter(evaluation.failures.values())).reason)
    return vectors


def spread(vec: Vec) -> Vec:
    """An uncertain integer as the interval that the tests write for it."""
    if not isinstance(vec, UncertainVec):
        return vec
    one = np.ones(len(vec), dtype=bool)
    return IntervalVec(IntVec(vec.low), IntVec(vec.high), one, one, vec.valid)


def outcome(test: dict[str, Any]) -> str:
    """``pass``, or what went wrong."""
    if test.get("elm") is None:
        return "pass" if test["invalid"] else "not translated"
    if test["invalid"] or test.get("expectedElm") is None:
        try:
            got = evaluate(test["elm"])[0]
        except (GatewayError, RuntimeError):
            return "pass" if test["invalid"] else "error"
        return f"got {got.pylist()[0]!r}, expected an error"
    try:
        got, expected = (spread(v) for v in evaluate(test["elm"], test["expectedElm"]))
    except (GatewayError, RuntimeError) as error:
        return f"error: {str(error)[:150]}"
    if not got.valid[0] and not expected.valid[0]:
        return "pass"
    same = bool(equivalent_mask(None, got, expected)[0])  # type: ignore[arg-type]
    return "pass" if same else f"got {got.pylist()[0]!r}, expected {expected.pylist()[0]!r}"


def run(tests: list[dict[str, Any]]) -> dict[str, str]:
    """Outcome of each test by ``suite.name``."""
    outcomes: dict[str, str] = {}
    for test in tests:
        try:
            result = outcome(test)
        except Exception as error:  # noqa: BLE001 - a crash is a failed test, shown with its kind
            result = f"CRASH {type(error).__name__}: {str(error)[:150]}"
        name = f"{test['suite']}.{test['name']}"
        while name in outcomes:
            name += "'"  # a few names are given twice
        outcomes[name] = result
    return outcomes


def excluded() -> dict[str, str]:
    """Reason of each excluded test."""
    groups = tomllib.loads(EXCLUSIONS.read_text(encoding="utf-8"))
    return {name: group["reason"] for group in groups.values() for name in group["tests"]}


def surprises(outcomes: dict[str, str]) -> list[str]:
    """Tests that fail though they are not excluded, pass though they are, or are excluded but not there."""
    reasons = excluded()
    lines = [f"{name}: {result}" for name, result in outcomes.items() if result != "pass" and name not in reasons]
    lines += [f"{name} passes although it is excluded" for name in reasons if outcomes.get(name) == "pass"]
    return lines + [f"{name} is excluded but not among the tests" for name in reasons if name not in outcomes]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true", help="list excluded tests with what they give")
    options = parser.parse_args()
    outcomes = run(json.loads(options.file.read_text(encoding="utf-8")))
    failing = {name: result for name, result in outcomes.items() if result != "pass"}
    for suite, count in Counter(name.partition(".")[0] for name in failing).most_common():
        print(f"  {suite}: {count} do not pass")
    if options.verbose:
        for name, result in failing.items():
            print(f"{name}: {result}")
    unexpected = surprises(outcomes)
    for line in unexpected:
        print(f"! {line}")
    print(f"{len(outcomes) - len(failing)}/{len(outcomes)}")
    return 1 if unexpected else 0


if __name__ == "__main__":
    raise SystemExit(main())
