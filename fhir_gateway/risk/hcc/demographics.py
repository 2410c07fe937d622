"""Who a member is to CMS-HCC, in columns: segment, age-sex cell, originally disabled, institutional with Medicaid.

Age is that on 1 February of the payment year. Somebody new to Medicare who is 64 and not entitled by disability counts
as 65 (CMS macro AGESEXV2). New enrollees are scored as such even in an institution: the models of institutional members
rest on a year of diagnoses.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fhir_gateway.errors import InputError
from fhir_gateway.risk.hcc.tables import BANDS, NEW_BANDS, SEGMENTS

#: A row per member. ``dual`` is the monthly dual status code of CMS (00 to 09), ``orec`` and ``crec`` the reasons of
#: entitlement (0 age, 1 disability, 2 ESRD, 3 both); what is null is not so: nobody is a dual, disabled or in an
#: institution without being said to be. ``segment`` overrides what follows from the rest.
MEMBER_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("age", pa.int16()),
        ("sex", pa.string()),  # M or F
        ("orec", pa.string()),
        ("crec", pa.string()),
        ("dual", pa.string()),
        ("lti", pa.bool_()),
        ("new_enrollee", pa.bool_()),
        ("snp", pa.bool_()),
        ("esrd", pa.bool_()),
        ("segment", pa.string()),
    ]
)

FULL_DUAL = ("02", "04", "08")
PARTIAL_DUAL = ("01", "03", "05", "06")
_MEDICAID = ("01", "02", "03", "04", "05", "06", "07", "08", "09", "10")

_EDGES = np.array([34, 44, 54, 59, 64, 69, 74, 79, 84, 89, 94])
_NEW_EDGES = np.array([34, 44, 54, 59, 64, 65, 66, 67, 68, 69, 74, 79, 84, 89, 94])

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Demographics:
    """Columns of members. ``reason`` is null of whom can be scored."""

    reason: pa.Array
    scored: Mask
    segment: NDArray[np.int64]
    new: Mask
    cell: NDArray[np.int64]  # of continuing enrollees' cells or, where ``new``, of new enrollees'
    age: NDArray[np.int64]
    male: Mask
    disabled: Mask
    originally_disabled: Mask
    institutional_medicaid: Mask


def age_on_first_february(births: pa.Array | pa.ChunkedArray, year: int) -> pa.Array:
    """Ages of people born on these days (date32), on 1 February of a payment year; null where unknown."""
    first = pc.and_(pc.equal(pc.month(births), 2), pc.equal(pc.day(births), 1))
    before = pc.or_(pc.equal(pc.month(births), 1), first)
    ages = pc.subtract(year, pc.year(births))
    ages = pc.if_else(before, ages, pc.subtract(ages, 1))
    return pc.cast(pc.max_element_wise(ages, 0, skip_nulls=False), pa.int16())


def demographics(members: pa.Table) -> Demographics:
    """Demographics of members (:data:`MEMBER_SCHEMA`); InputError for a segment that there is not."""
    ages, sexes = members["age"], members["sex"]
    male = _equal(sexes, "M")
    esrd = _true(members["esrd"])
    reason = pc.case_when(
        pc.make_struct(
            pc.is_null(ages), pc.invert(pc.fill_null(pc.is_in(sexes, pa.array(["M", "F"])), False)), pa.array(esrd)
        ),
        pa.scalar("no-birth-date"),
        pa.scalar("no-sex"),
        pa.scalar("esrd"),
    )
    reason = reason.combine_chunks() if isinstance(reason, pa.ChunkedArray) else reason
    age = pc.fill_null(ages, 0).to_numpy().astype(np.int64)
    orec = pc.fill_null(members["orec"], "0")
    orec = pc.if_else(pc.equal(orec, ""), "0", orec)
    by_age = _equal(orec, "0")
    disabled = (age < 65) & ~by_age
    originally = _equal(orec, "1") & ~disabled
    dual = members["dual"]
    medicaid = _in(dual, _MEDICAID)
    lti, new, snp = (_true(members[name]) for name in ("lti", "new_enrollee", "snp"))
    segment = _segments(age, _in(dual, FULL_DUAL), _in(dual, PARTIAL_DUAL), lti, new, snp)
    segment = _overridden(segment, members["segment"])
    new = segment >= SEGMENTS.index("NE")
    sex = np.where(male, 0, 1)
    counted = np.where((age == 64) & by_age, 65, age)
    new_cell = (
        (_in(dual, (*FULL_DUAL, *PARTIAL_DUAL)).astype(np.int64) * 2 + ((age >= 65) & _equal(orec, "1"))) * 2 + sex
    ) * len(NEW_BANDS) + np.searchsorted(_NEW_EDGES, counted)
    cell = np.where(new, new_cell, sex * len(BANDS) + np.searchsorted(_EDGES, age))
    return Demographics(
        reason=reason,
        scored=reason.is_null().to_numpy(zero_copy_only=False),
        segment=segment,
        new=new,
        cell=cell,
        age=age,
        male=male,
        disabled=disabled,
        originally_disabled=originally & (age >= 65),
        institutional_medicaid=(segment == SEGMENTS.index("INS")) & medicaid,
    )


def _segments(age: NDArray[np.int64], full: Mask, partial: Mask, lti: Mask, new: Mask, snp: Mask) -> NDArray[np.int64]:
    community = np.where(full, SEGMENTS.index("CFA"), np.where(partial, SEGMENTS.index("CPA"), 0)) + (age < 65)
    found = np.where(lti, SEGMENTS.index("INS"), community)
    return np.where(new, SEGMENTS.index("NE") + snp, found).astype(np.int64)


def _overridden(segment: NDArray[np.int64], stated: pa.ChunkedArray) -> NDArray[np.int64]:
    given = pc.index_in(stated, value_set=pa.array(SEGMENTS))
    if pc.any(pc.and_(stated.is_valid(), given.is_null())).as_py():
        raise InputError(f"segment: is one of {', '.join(SEGMENTS)}")
    chosen = pc.fill_null(given, -1).to_numpy().astype(np.int64)
    return np.where(chosen >= 0, chosen, segment)


def _true(column: pa.ChunkedArray) -> Mask:
    found: Mask = pc.fill_null(column, False).to_numpy()
    return found


def _equal(column: pa.ChunkedArray, value: str) -> Mask:
    return _true(pc.equal(column, value))


def _in(column: pa.ChunkedArray, values: tuple[str, ...]) -> Mask:
    return _true(pc.is_in(column, value_set=pa.array(values)))
