"""Every dimension of every member, as of a day, out of the lake's rows and imported tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.equity.coverage import COVERAGE_COLUMNS, coverage_of
from fhir_gateway.equity.dimensions import DIMENSIONS, MemberDimensions, column
from fhir_gateway.equity.needs import CONDITION_COLUMNS, OBSERVATION_COLUMNS, question_codes, social_needs
from fhir_gateway.equity.people import PATIENT_COLUMNS, people
from fhir_gateway.equity.places import ADDRESS_COLUMNS, places
from fhir_gateway.equity.tables import ReferenceTables

#: Rows of a type with these columns; of those without any of the codes (by path) some may be left out.
Read = Callable[[str, Sequence[str], dict[str, frozenset[str]] | None], pa.Table]


def dimensions_of(read: Read, tables: ReferenceTables, on: date) -> MemberDimensions:
    """The members that have a Patient row, with all dimensions as of ``on`` (see :class:`Read`)."""
    patients = read("Patient", tuple(dict.fromkeys((*PATIENT_COLUMNS, *ADDRESS_COLUMNS))), None)
    who = people(patients, on)
    members = who["member"].combine_chunks().cast(pa.string())
    adi, ruca = tables.table("adi"), tables.table("ruca")
    where = places(members, patients, adi, ruca, on.isoformat())
    eligibility = tables.table("eligibility")
    payer = coverage_of(members, read("Coverage", COVERAGE_COLUMNS, None), eligibility, on)
    conditions = read("Condition", CONDITION_COLUMNS, None)
    observations = read("Observation", OBSERVATION_COLUMNS, {"code.coding.code": question_codes()})
    need = social_needs(members, conditions, observations, on)
    national = where["adi_national"] if eligibility is None else _given(members, eligibility, where["adi_national"], on)
    disabled = pc.if_else(payer["disabled"], "yes", "no")
    values: dict[str, Any] = {name: who[name] for name in who.column_names if name in DIMENSIONS}
    values |= {name: need[name] for name in need.column_names if name in DIMENSIONS}
    values |= {
        "payer": payer["payer"],
        "dual": payer["dual"],
        "lis": pc.if_else(payer["lis"], "yes", "no"),
        "disability": pc.coalesce(disabled, need["disability"].cast(pa.string())),
        "adi-decile": _band(national, 10),
        "adi-quintile": _band(national, 20),
        "rurality": where["rurality"],
    }
    dual = pc.is_in(payer["dual"], value_set=pa.array(["full", "partial"]))
    dual = pc.if_else(pc.is_valid(payer["dual"]), dual, pa.scalar(None, pa.bool_()))
    facts = pa.table(
        {
            "member": members,
            "adi_national": national.cast(pa.int64()),
            "adi_state": where["adi_state"].cast(pa.int64()),
            "dual": dual.cast(pa.bool_()),
            "lis": payer["lis"].cast(pa.bool_()),
            # rural: anything but metropolitan, as in RUCA 4 to 10
            "rural": pc.not_equal(where["rurality"], "metropolitan"),
        }
    )
    columns = {name: column(DIMENSIONS[name], values[name]) for name in DIMENSIONS}
    return MemberDimensions(members, on, columns, facts.combine_chunks())


def _band(national: Any, width: int) -> Any:
    """Percentiles 1 to 100 in bands of so many, from 1 on."""
    return pc.cast(pc.add(pc.divide(pc.subtract(national.cast(pa.int64()), 1), width), 1), pa.string())


def _given(members: pa.Array, eligibility: pa.Table, found: Any, on: date) -> Any:
    """The index that was imported for a member goes before that of where they live."""
    day = pa.scalar(on, pa.date32())
    until = pc.fill_null(pc.greater_equal(eligibility["until"], day), True)
    known = pc.and_(pc.less_equal(eligibility["since"], day), pc.is_valid(eligibility["adi_national"]))
    rows = eligibility.filter(pc.and_(known, until)).sort_by("since")
    last = rows.group_by("member", use_threads=False).aggregate([("adi_national", "last")])
    index = pc.index_in(members, value_set=last["member"].combine_chunks())
    return pc.coalesce(last["adi_national_last"].combine_chunks().take(index), found.cast(pa.int64()))


def of_columns(members: pa.Array, on: date, values: dict[str, pa.Array]) -> MemberDimensions:
    """Dimensions from codes that are known already, the others not recorded; ``members`` in any order."""
    order = pc.sort_indices(members)
    nothing = pa.nulls(len(members), pa.string())
    columns = {name: column(one, values.get(name, nothing).take(order)) for name, one in DIMENSIONS.items()}
    sorted_members = members.take(order)
    facts = pa.table(
        {"member": sorted_members}
        | {
            name: pa.nulls(len(members), kind)
            for name, kind in (
                ("adi_national", pa.int64()),
                ("adi_state", pa.int64()),
                ("dual", pa.bool_()),
                ("lis", pa.bool_()),
                ("rural", pa.bool_()),
            )
        }
    )
    return MemberDimensions(sorted_members, on, columns, facts)


def known_share(dimensions: MemberDimensions, name: str) -> float | None:
    """Share of the members of whom something is known in a dimension; None of nobody."""
    if not len(dimensions.members):
        return None
    one = dimensions.columns[name]
    missing = [place for place, code in enumerate(one.strata) if code in ("unknown", "asked-unknown")]
    return 1 - float(np.isin(one.codes, missing).mean())
