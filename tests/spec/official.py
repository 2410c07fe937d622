"""Run the official CQL conformance tests: ``python -m tests.spec.official [-v] FILE``.

Each test is an expression and its expected output, both as ELM; it passes when the engine finds them equivalent (or
both null), or, for an ``invalid`` one, when the engine refuses it. Prints ``passed/total`` last.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from fhir_gateway.cql import Batch, compile_library
from fhir_gateway.cql.operators.comparison import equivalent_mask
from fhir_gateway.errors import GatewayError
from fhir_gateway.terminology import ValueSets

NOW = datetime(2026, 1, 15, 12, 0, tzinfo=UTC)


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


def outcome(test: dict[str, Any]) -> str:
    """``pass``, or what went wrong."""
    if test["elm"] is None:
        return "pass" if test["invalid"] else "not translated"
    if test["invalid"] or test.get("expectedElm") is None:
        try:
            got = evaluate(test["elm"])[0]
        except (GatewayError, RuntimeError):
            return "pass" if test["invalid"] else "error"
        return f"got {got.pylist()[0]!r}, expected an error"
    try:
        got, expected = evaluate(test["elm"], test["expectedElm"])
    except (GatewayError, RuntimeError) as error:
        return f"error: {str(error)[:150]}"
    if not got.valid[0] and not expected.valid[0]:
        return "pass"
    same = bool(equivalent_mask(None, got, expected)[0])  # type: ignore[arg-type]
    return "pass" if same else f"got {got.pylist()[0]!r}, expected {expected.pylist()[0]!r}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("-v", "--verbose", action="store_true")
    options = parser.parse_args()
    tests = json.loads(options.file.read_text(encoding="utf-8"))
    passed, suites = 0, Counter()
    for test in tests:
        try:
            result = outcome(test)
        except Exception as error:  # noqa: BLE001 - a crash is a failed test, shown with its kind
            result = f"CRASH {type(error).__name__}: {str(error)[:150]}"
        passed += result == "pass"
        if result != "pass":
            suites[test["suite"]] += 1
            if options.verbose:
                print(f"{test['suite']}.{test['name']}: {test['expression'][:90]!r}: {result}")
    for suite, count in suites.most_common():
        print(f"  {suite}: {count} failed")
    print(f"{passed}/{len(tests)}")
    return 0 if passed == len(tests) else 1


if __name__ == "__main__":
    raise SystemExit(main())
