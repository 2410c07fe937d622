"""An explanation as a page: populations, gaps and the CQL with its clauses marked.

One self-contained HTML file without scripts. Colours are those of Okabe and Ito (told apart with any colour vision),
and each mark has a line style of its own, so that nothing is said by colour alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import orjson

from fhir_gateway.cql.clauses import Statement
from fhir_gateway.cql.evidence import Evidence
from fhir_gateway.cql.highlight import narrative, statement_html
from fhir_gateway.cql.reasons import Criterion
from fhir_gateway.measures.explain import Explanation
from fhir_gateway.measures.gap import Gap
from fhir_gateway.measures.model import GroupResult

STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 76rem; margin: 2rem auto;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; } h3 { font-size: 1rem; margin-bottom: .3rem; }
table { border-collapse: collapse; } th, td { border: 1px solid #8a8a8a; padding: .25rem .6rem; text-align: left;
  vertical-align: top; }
pre { background: #fafafa; border: 1px solid #c8c8c8; padding: .8rem; overflow-x: auto; font-size: .9rem;
  line-height: 1.9; white-space: pre-wrap; }
summary { cursor: pointer; } .value { color: #444; font-size: .9rem; overflow-wrap: anywhere; }
summary h2 { display: inline; }
.clause-true { background: #d9efe6; border-bottom: 2px solid #00664b; }
.clause-false { background: #fbe0d3; border-bottom: 4px double #a63d00; }
.clause-null { background: #fdf3c8; border-bottom: 2px dashed #6b5900; }
.clause-uncovered { background: #f0f0f0; color: #4d4d4d; border-bottom: 2px dotted #707070; }
"""
LEGEND = (
    ("true", "true, or a value, or a list with elements (solid line)"),
    ("false", "false, or an empty list (double line)"),
    ("null", "not known (dashed line)"),
    ("uncovered", "not reached: nothing to evaluate it for, or not needed (dotted line)"),
)
_STATUS = {
    "open-gap": "open gap",
    "closed-gap": "no gap",
    "prospective-gap": "open, and the period is not over",
    "not-applicable": "not applicable: outside the initial population",
}


def page(explanation: Explanation) -> str:
    """The whole page; every text of the data and the CQL is escaped."""
    return "".join(_page(explanation))


def content(explanation: Explanation) -> str:
    """What the page says, as the body of another page, which has its own style for the classes of :data:`STYLE`."""
    return "".join(_content(explanation))


def _page(explanation: Explanation) -> Iterator[str]:
    title = escape(f"{explanation.package.title}: {explanation.member}")
    yield '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    yield f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
    yield from _content(explanation)
    yield "</body>\n</html>\n"


def _content(explanation: Explanation) -> Iterator[str]:
    start, end = explanation.period
    yield f"<p>{escape(explanation.package.url)}|{escape(explanation.package.version)}, {start} to {end}, "
    yield f"evaluated {escape(explanation.evaluated_at.isoformat())}</p>\n"
    if explanation.failure:
        yield f"<p><strong>Not evaluated:</strong> {escape(explanation.failure)}</p>\n"
    for group in explanation.groups:
        yield from _group(group)
    for gap in explanation.gaps:
        yield from _gap(gap)
    yield "<h2>How to read the text</h2>\n<ul>\n"
    for outcome, meaning in LEGEND:
        yield f'<li><span class="clause-{outcome}">{outcome}</span>: {meaning}</li>\n'
    yield "</ul>\n<p>Values are shown when the pointer rests on a clause. In a query a clause is true when it was "
    yield "true for any row.</p>\n"
    for number, (label, statements) in enumerate(explanation.libraries.items()):
        yield from _library(label, statements, opened=number == 0)


def _group(group: GroupResult) -> Iterator[str]:
    yield f"<h2>Populations: {escape(group.id)}</h2>\n<table>\n<tr><th>population</th><th>counts</th>"
    yield "<th>criterion alone</th></tr>\n"
    for population in group.populations:
        counts, raw = int(population.counts[0]), int(population.raw[0])
        yield f"<tr><td>{escape(population.code)}</td><td>{counts}</td><td>{raw}</td></tr>\n"
    yield "</table>\n"


def _gap(gap: Gap) -> Iterator[str]:
    yield f"<h2>Gap: {escape(gap.group)}</h2>\n<p><strong>{_STATUS[gap.status]}</strong> ({gap.status})</p>\n"
    if gap.failed:
        yield "<h3>What decided</h3>\n<ul>\n"
        for criterion in gap.failed:
            yield f"<li>{_criterion(criterion)}</li>\n"
        yield "</ul>\n"
    if gap.evidence:
        yield "<h3>Nearest evidence</h3>\n<table>\n<tr><th>resource</th><th>date</th><th>what</th><th>value</th>"
        yield "<th>stopped at</th></tr>\n"
        for one in gap.evidence:
            yield _evidence(one)
        yield "</table>\n"


def _criterion(criterion: Criterion) -> str:
    value = "" if criterion.value is None else f": {escape(orjson.dumps(criterion.value).decode())}"
    return (
        f'<code class="clause-{criterion.outcome}">{escape(criterion.text)}</code> in '
        f"{escape(criterion.definition)}{value}"
    )


def _evidence(one: Evidence) -> str:
    when = one.start if one.start == one.end else f"{one.start or '?'} to {one.end or '?'}"
    stopped = "" if one.failed is None else _criterion(one.failed)
    value = "" if one.value is None else str(one.value)
    cells = (escape(one.reference), escape(when or ""), escape(one.what or ""), escape(value), stopped)
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>\n"


def _library(label: str, statements: tuple[Statement, ...], *, opened: bool) -> Iterator[str]:
    yield f"<section>\n<details{' open' if opened else ''}>\n<summary><h2>Library {escape(label)}</h2></summary>\n"
    for statement in statements:
        yield f'<h3 id="{escape(label)}.{escape(statement.name)}">{escape(statement.name)}</h3>\n'
        if statement.kind == "definition" and statement.outcome != "uncovered":
            yield f'<p class="value">{escape(orjson.dumps(statement.value).decode())}</p>\n'
        if narrative(statement.elm) is None:
            yield "<p>Translated without annotations: there is no text.</p>\n"
        else:
            yield f'<pre><code class="cql">{statement_html(statement)}</code></pre>\n'
        if statement.resources:
            yield f'<p class="value">looked at {escape(", ".join(statement.resources))}</p>\n'
    yield "</details>\n</section>\n"
