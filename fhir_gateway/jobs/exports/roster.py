"""Whom an attribution list leads to: the providers of its entries, the payers of its members' coverage."""

from __future__ import annotations

from collections.abc import Mapping

import orjson
import sqlalchemy as sa

from fhir_gateway.db.engine import table_of
from fhir_gateway.db.freezing import Frozen, of_persons
from fhir_gateway.db.resource_tables import ResourceRow, SearchIndexRow
from fhir_gateway.db.writing import slices
from fhir_gateway.jobs.exports.models import Export
from fhir_gateway.jobs.publish import REPORTER

_PROVIDER = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/ext-attributedProvider"


def linked(export: Export, moment: Frozen) -> Mapping[str, set[str]]:
    """Ids by type of the directory resources that the list of an export leads to."""
    if export.linked is None:
        export.linked = _linked(export, moment)
    return export.linked


def _linked(export: Export, moment: Frozen) -> Mapping[str, set[str]]:
    wanted, found = export.wanted, {"Organization": {REPORTER}}
    chosen = export.seen.selecting("Group").where(table_of(ResourceRow).c.id == wanted.group)
    row = moment.connection.execute(chosen).first()
    if row is None:
        return found
    group = orjson.loads(bytes(row.body))
    only = None if wanted.patients is None else {f"Patient/{one}" for one in wanted.patients}
    _add(found, group.get("managingEntity", {}).get("reference"))
    for entry in group.get("member", ()):
        if only is None or entry.get("entity", {}).get("reference") in only:
            for extension in entry.get("extension", ()):
                if extension.get("url") == _PROVIDER:
                    _add(found, extension.get("valueReference", {}).get("reference"))
    coverage = export.seen.selecting("Coverage").where(of_persons("Coverage", group=wanted.group))
    for kind, id in _referred(moment, coverage, "Coverage.payor"):
        found.setdefault(kind, set()).add(id)
    roles = sorted(found.get("PractitionerRole", ()))
    for ids in slices(roles):
        some = export.seen.selecting("PractitionerRole").where(table_of(ResourceRow).c.id.in_(ids))
        for name in ("practitioner", "organization"):
            for kind, id in _referred(moment, some, f"PractitionerRole.{name}"):
                found.setdefault(kind, set()).add(id)
    return found


def _add(found: dict[str, set[str]], reference: str | None) -> None:
    kind, slash, id = (reference or "").partition("/")
    if slash and id:
        found.setdefault(kind, set()).add(id)


def _referred(moment: Frozen, chosen: sa.Select[tuple[object, ...]], parameter: str) -> list[tuple[str, str]]:
    """Where a reference parameter of the chosen resources leads."""
    index = table_of(SearchIndexRow)
    keys = chosen.with_only_columns(table_of(ResourceRow).c.key)
    rows = sa.select(index.c.system, index.c.value).where(
        index.c.parameter == parameter, index.c.system.is_not(None), index.c.key.in_(keys)
    )
    return [(row.system, row.value) for row in moment.connection.execute(rows.distinct())]
