"""A report as one page of HTML that needs nothing else: charts are pictures within it, each beside its numbers."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Iterator
from hashlib import sha256
from html import escape

from fhir_gateway.reports.charts import svg
from fhir_gateway.reports.document import Chart, Document, Table, Text

_STYLE = """
:root { color-scheme: light; }
body { margin: 0; background: #ffffff; color: #1a1a1a; font: 16px/1.5 system-ui, sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 1.5rem 1rem; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 0 0 .6rem; }
h2 { font-size: 1.2rem; margin: 1.6rem 0 .5rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; margin: 0; }
dt { color: #555555; }
dd { margin: 0; overflow-wrap: anywhere; }
.table { overflow-x: auto; margin: .6rem 0 1rem; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
caption { text-align: left; color: #555555; padding: .2rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem .25rem 0; border-bottom: 1px solid #cccccc; }
thead th { border-bottom: 2px solid #1a1a1a; }
tbody th { font-weight: normal; }
.amount { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: .8rem 0; }
img { width: 100%; height: auto; }
@media print { main { padding: 0; max-width: none; } .table { overflow: visible; } h2 { break-after: avoid; } }
"""
#: Policy under which a report is served: its own style and its own pictures, nothing else.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-"
    + b64encode(sha256(_STYLE.encode()).digest()).decode()
    + "'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)


def write(report: Document) -> bytes:
    """The report as HTML, UTF-8."""
    return "\n".join(_page(report)).encode()


def _page(report: Document) -> Iterator[str]:
    yield f'<!doctype html>\n<html lang="{escape(report.language)}">\n<head>\n<meta charset="utf-8">'
    yield '<meta name="viewport" content="width=device-width, initial-scale=1">'
    yield f'<meta name="author" content="{escape(report.author)}">\n<title>{escape(report.title)}</title>'
    yield f"<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{escape(report.title)}</h1>"
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in report.facts)
    yield f"<dl>{facts}</dl>"
    for section in report.sections:
        yield f"<h2>{escape(section.heading)}</h2>"
        for part in section.parts:
            yield from _part(part)
    if report.notes:
        yield "<h2>Notes</h2>\n<ul>" + "".join(f"<li>{escape(note)}</li>" for note in report.notes) + "</ul>"
    yield "</main>\n</body>\n</html>\n"


def _part(part: Text | Table | Chart) -> Iterator[str]:
    if isinstance(part, Text):
        yield f"<p>{escape(part.text)}</p>"
    elif isinstance(part, Chart):
        picture = b64encode(svg(part).encode()).decode()
        yield f'<figure><img src="data:image/svg+xml;base64,{picture}" alt="{escape(part.said)}"></figure>'
    else:
        yield from _table(part)


def _table(table: Table) -> Iterator[str]:
    # reachable by the keyboard, because it can be moved sideways where it is wider than the window
    yield f'<div class="table" role="region" tabindex="0" aria-label="{escape(table.caption)}"><table>'
    yield f"<caption>{escape(table.caption)}</caption>"
    head = "".join(f'<th scope="col"{_class(table, place)}>{escape(one)}</th>' for place, one in enumerate(table.head))
    yield f"<thead><tr>{head}</tr></thead>\n<tbody>"
    for row in table.rows:
        cells = "".join(
            f'<th scope="row">{escape(text)}</th>' if place == 0 else f"<td{_class(table, place)}>{escape(text)}</td>"
            for place, text in enumerate(row)
        )
        yield f"<tr>{cells}</tr>"
    yield "</tbody></table></div>"


def _class(table: Table, place: int) -> str:
    return ' class="amount"' if place in table.amounts else ""
