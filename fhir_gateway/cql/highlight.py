"""CQL text with its clauses marked, from the annotations that the translator leaves in the ELM.

With ``EnableAnnotations`` each statement carries its text as a tree: ``s`` (pieces), ``r`` (the localId a piece
stands for) and ``value`` (the text itself). Marks are classes, not scripts; all text is escaped.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

import orjson

from fhir_gateway.cql.clauses import Clause, Statement
from fhir_gateway.cql.elm import Elm

#: Longest value in a tooltip; the rest is in the JSON.
LONGEST = 300


def narrative(elm: Elm) -> Mapping[str, Any] | None:
    """The text tree of a statement; None when it was translated without annotations."""
    for annotation in elm.get("annotation") or ():
        if annotation.get("s"):
            tree: Mapping[str, Any] = annotation["s"]
            return tree
    return None


def cql_text(piece: Mapping[str, Any]) -> str:
    """The text of a piece."""
    return "".join(_texts(piece))


def clause_texts(elm: Elm) -> dict[str, str]:
    """Text of each clause of a statement by localId."""
    found: dict[str, str] = {}
    tree = narrative(elm)
    pending = [] if tree is None else [tree]
    while pending:
        piece = pending.pop()
        if "r" in piece:
            text = cql_text(piece).strip()
            if len(text) > len(found.get(str(piece["r"]), "")):
                found[str(piece["r"])] = text
        pending.extend(piece.get("s") or ())
    return found


def statement_html(statement: Statement) -> str:
    """The statement's CQL as spans of class ``clause-true``, ``-false``, ``-null`` or ``-uncovered``."""
    tree = narrative(statement.elm)
    if tree is None:
        return ""
    return "".join(_html(tree, statement.clauses, ""))


def _texts(piece: Mapping[str, Any]) -> Iterator[str]:
    yield from piece.get("value") or ()
    for inner in piece.get("s") or ():
        yield from _texts(inner)


def _html(piece: Mapping[str, Any], clauses: Mapping[str, Clause], outer: str) -> Iterator[str]:
    clause = clauses.get(str(piece.get("r")))
    if "r" in piece and clause is not None:
        title = _title(clause.outcome, clause.value, clause.rows)
        if f"{clause.outcome} {title}" != outer:  # what says the same as the clause around it needs no mark of its own
            yield f'<span class="clause-{clause.outcome}" title="{escape(title)}">'
            yield from _inside(piece, clauses, f"{clause.outcome} {title}")
            yield "</span>"
            return
    yield from _inside(piece, clauses, outer)


def _inside(piece: Mapping[str, Any], clauses: Mapping[str, Clause], outer: str) -> Iterator[str]:
    yield from (escape(text, quote=False) for text in piece.get("value") or ())
    for inner in piece.get("s") or ():
        yield from _html(inner, clauses, outer)


def _title(outcome: str, value: Any, rows: int | None) -> str:
    if outcome == "uncovered":
        return "not reached"
    text = orjson.dumps(value).decode()
    if len(text) > LONGEST:
        text = text[:LONGEST] + " …"
    return text if rows is None else f"{outcome} in {rows} rows: {text}" if rows != 1 else f"in 1 row: {text}"
