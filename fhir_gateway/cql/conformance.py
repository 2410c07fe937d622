"""The conformance table: every node of the ELM specification, and whether the engine has it.

``python -m fhir_gateway.cql.conformance`` writes ``docs/conformance.md`` anew. The names are those of the
published ELM r1 schema (a test compares with :mod:`fhir_gateway.cql.schema`), by the chapters of the specification;
what the engine has is asked of the registry.
"""

from __future__ import annotations

from pathlib import Path

import fhir_gateway.cql.forms
import fhir_gateway.cql.operators  # noqa: F401 - registers the operators
from fhir_gateway.cql.registry import FORMS, OPERATORS

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"

_CHAPTERS = """
Simple values: Literal
Structured values: Property Tuple Instance
Clinical values: Code Concept CodeRef CodeSystemRef ConceptRef Quantity Ratio ValueSetRef
Reuse: ExpressionRef FunctionRef ParameterRef OperandRef IdentifierRef
Queries: Query AliasRef QueryLetRef With Without AggregateClause ByDirection ByColumn ByExpression
Comparison: Equal Equivalent Greater GreaterOrEqual Less LessOrEqual NotEqual
Logic: And Implies Not Or Xor
Nulls: Null Coalesce IsFalse IsNull IsTrue
Conditions: Case If
Arithmetic: Abs Add Ceiling Divide Exp Floor HighBoundary Ln Log LowBoundary MaxValue MinValue Modulo Multiply Negate
    Power Precision Predecessor Round Subtract Successor Truncate TruncatedDivide
Strings: Combine Concatenate EndsWith Indexer LastPositionOf Length Lower Matches PositionOf ReplaceMatches Split
    SplitOnMatches StartsWith Substring Upper
Dates and times: Date DateFrom DateTime DateTimeComponentFrom DifferenceBetween DurationBetween Now SameAs SameOrAfter
    SameOrBefore Time TimeFrom TimeOfDay TimezoneFrom TimezoneOffsetFrom Today
Intervals: Interval After Before Collapse Contains End Ends Except Expand In IncludedIn Includes Intersect Meets
    MeetsAfter MeetsBefore Overlaps OverlapsAfter OverlapsBefore PointFrom ProperContains ProperIn ProperIncludedIn
    ProperIncludes Size Start Starts Union Width
Lists: List Current Distinct Exists Filter First Flatten ForEach IndexOf Iteration Last Repeat SingletonFrom Slice Sort
    Times Total
Aggregates: Aggregate AllTrue AnyTrue Avg Count GeometricMean Max Median Min Mode PopulationStdDev PopulationVariance
    Product StdDev Sum Variance
Types: As CanConvert CanConvertQuantity Children Convert ConvertQuantity ConvertsToBoolean ConvertsToDate
    ConvertsToDateTime ConvertsToDecimal ConvertsToInteger ConvertsToLong ConvertsToQuantity ConvertsToRatio
    ConvertsToString ConvertsToTime Descendents Is ToBoolean ToChars ToConcept ToDate ToDateTime ToDecimal ToInteger
    ToList ToLong ToQuantity ToRatio ToString ToTime
Clinical operators: AnyInCodeSystem AnyInValueSet CalculateAge CalculateAgeAt ExpandValueSet InCodeSystem InValueSet
    Retrieve Search SubsumedBy Subsumes
Messages: Message
"""

#: Parts of a query that are no nodes of their own.
_CLAUSES = frozenset({"With", "Without", "AggregateClause", "ByDirection", "ByColumn", "ByExpression"})

#: Why a node is refused (always when the library is compiled, with library, definition and locator).
REFUSED: dict[str, str] = {
    "Search": "reserved for implementations: what to read is said by `Retrieve`",
}

#: What is narrower than the specification, in one line.
NOTES: dict[str, str] = {
    "AnyInCodeSystem": "for code systems whose content is in the package",
    "First": "`orderBy` sorts ascending, nulls first",
    "FunctionRef": "recursive functions to a depth of 500; external functions are refused",
    "InCodeSystem": "for code systems whose content is in the package",
    "Indexer": "of lists and of texts",
    "Instance": "of System types and of FHIR types; value sets by literal id are looked up where codes are tested",
    "Last": "`orderBy` sorts ascending, nulls first",
    "Literal": "out of range is refused",
    "Matches": "patterns are Python's, the whole text must match",
    "Precision": "trailing zeros of a decimal are not kept and do not count",
    "Property": "what is not a column is read from the resource's JSON",
    "Retrieve": "by profile, code, date, id (ADR 0090, 0131, 0132); not `include`, `context` or in context Unfiltered",
    "SubsumedBy": "for code systems whose content is in the package; a patient with a code of another one fails",
    "Subsumes": "for code systems whose content is in the package; a patient with a code of another one fails",
    "TimezoneFrom": "the name of `TimezoneOffsetFrom` before CQL 1.3",
    "TimezoneOffsetFrom": "of a date-time that was written without offset: the request's",
}


def chapters() -> dict[str, list[str]]:
    """Names of all nodes by chapter, in the order of the specification's chapters."""
    found: dict[str, list[str]] = {}
    for line in _CHAPTERS.strip().splitlines():
        if not line.startswith(" "):
            chapter, _, line = line.partition(":")
            found[chapter] = []
        found[chapter] += line.split()
    return found


def implemented(node: str) -> bool:
    """Whether the engine has the node."""
    return node in OPERATORS or node in FORMS or node in _CLAUSES


def missing() -> list[str]:
    """Nodes that the engine neither has nor refuses with a reason."""
    return [n for names in chapters().values() for n in names if not implemented(n) and n not in REFUSED]


def page() -> str:
    """The table as Markdown."""
    names = [n for chapter in chapters().values() for n in chapter]
    there = sum(implemented(n) for n in names)
    lines = [
        "# Conformance to ELM",
        "",
        "Written by `python -m fhir_gateway.cql.conformance` from the operator registry; a test compares, also with",
        "the names of the published ELM schema (`fhir_gateway/cql/elm_schema.json`). A field that the schema does not",
        "have, a missing operand or a value of the wrong type is refused like an unknown node. ELM as XML is not read.",
        "",
        f"The engine has {there} of the {len(names)} nodes of ELM r1 (CQL 1.5). One that it does not have is refused",
        "when a library is compiled, naming library, definition, locator and node; it never turns into null. The",
        "official CQL tests run with `python -m tests.spec.official FILE`; `tests/spec/exclusions.toml` says why the",
        "rest does not pass.",
        "",
        "*strict*: null when an operand is null, applied by the engine. *own*: the operator says what null gives.",
        "*form*: binds names, opens rows or reads data.",
    ]
    for chapter, nodes in chapters().items():
        lines += ["", f"## {chapter}", "", "| node | engine | nulls | notes |", "|---|---|---|---|"]
        for node in nodes:
            lines.append(f"| {node} | {_state(node)} | {_nulls(node)} | {_note(node)} |")
    return "\n".join(lines) + "\n"


def _state(node: str) -> str:
    return "yes" if implemented(node) else "refused"


def _nulls(node: str) -> str:
    if node in FORMS or node in _CLAUSES:
        return "form"
    if node in OPERATORS:
        return "strict" if OPERATORS[node].nulls == "strict" else "own"
    return ""


def _note(node: str) -> str:
    if not implemented(node):
        return REFUSED.get(node, "")
    return NOTES.get(node, "")


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
