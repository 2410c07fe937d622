"""The tables of a model in a payment year, as arrays: mapping, edits, hierarchies, coefficients, labels.

Coefficients are whole thousandths: CMS publishes three decimals, so sums are exact.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
from numpy.typing import NDArray

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.risk.hcc.interactions import COUNTS, INTERACTIONS, ONLY_BESIDE
from fhir_gateway.risk.hcc.years import ModelYear, table_bytes

#: Segments of the models, in the order of coefficient rows: community by dual status and age, institutional, new.
SEGMENTS = ("CNA", "CND", "CPA", "CPD", "CFA", "CFD", "INS", "NE", "SNPNE")
BANDS = ("0_34", "35_44", "45_54", "55_59", "60_64", "65_69", "70_74", "75_79", "80_84", "85_89", "90_94", "95_GT")
NEW_BANDS = (*BANDS[:5], "65", "66", "67", "68", "69", *BANDS[6:])
#: Demographic variables beside the age-sex cell.
EXTRAS = ("OriginallyDisabled_Female", "OriginallyDisabled_Male", "LTIMCAID")

_NO_BOUND = -1


@dataclass(frozen=True, slots=True)
class Edits:
    """Age and sex edits by code, of ``codes`` order: where a condition holds the code is dropped or mapped elsewhere.

    ``sex`` is 1, 2 or 0 (not by sex); ages are inclusive, -1 where there is none; ``override`` is a CC or -1 (drop).
    """

    sex: NDArray[np.int8]
    age_max: NDArray[np.int16]
    age_min: NDArray[np.int16]
    override: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class ModelTables:
    """A model of a year. CCs are numbered as in ``ccs``; code ``i`` maps to ``cc_of[first[i]:first[i + 1]]``."""

    year: ModelYear
    ccs: tuple[str, ...]
    labels: Mapping[str, str]
    chronic: frozenset[str]
    codes: pa.Array
    first: NDArray[np.int64]
    cc_of: NDArray[np.int16]
    edits: Edits
    children: tuple[tuple[int, NDArray[np.int64]], ...]  # parent, its children
    beside: tuple[tuple[int, NDArray[np.int64]], ...]  # an HCC, those it needs one of
    variables: tuple[str, ...]  # HCCs, then interactions, counts and extras: the rows of a member's design
    weights: NDArray[np.int64]  # segment x variable, thousandths
    known: NDArray[np.bool_]  # segment x variable: there is a coefficient, be it zero
    cells: NDArray[np.int64]  # segment x (sex x band), thousandths
    cells_known: NDArray[np.bool_]
    new_cells: NDArray[np.int64]  # segment x (Medicaid x originally disabled x sex x band)
    new_known: NDArray[np.bool_]


def cell_names() -> tuple[str, ...]:
    """Age-sex cells of continuing enrollees."""
    return tuple(f"{sex}{band}" for sex in "MF" for band in BANDS)


def new_cell_names() -> tuple[str, ...]:
    """Cells of new enrollees."""
    return tuple(
        f"{medicaid}_{disabled}_NE{sex}{band}"
        for medicaid in ("NMCAID", "MCAID")
        for disabled in ("NORIGDIS", "ORIGDIS")
        for sex in "MF"
        for band in NEW_BANDS
    )


@cache
def model_tables(year: ModelYear) -> ModelTables:
    """Tables of a model in a year; ConfigurationError when they do not fit each other."""
    name = f"CMS-HCC Model {year.model}"
    mapping = _read(year.diagnoses, "model_name", name)
    ccs = tuple(sorted(set(mapping["cc"].to_pylist()), key=int))
    number = {cc: index for index, cc in enumerate(ccs)}
    pairs = sorted(zip(mapping["diagnosis_code"].to_pylist(), mapping["cc"].to_pylist(), strict=True))
    codes = sorted({code for code, _ in pairs})
    first = np.searchsorted(np.array([code for code, _ in pairs]), np.array([*codes, "~"]))
    variables = (*ccs, *INTERACTIONS[year.model], *COUNTS, *EXTRAS)
    coefficients = _coefficients(year)
    named = [*(f"HCC{cc}" for cc in ccs), *variables[len(ccs) :]]
    weights, known = _matrix(coefficients, named)
    if lacking := [cc for cc, has in zip(ccs, known[0], strict=False) if not has]:
        raise ConfigurationError(f"risk/hcc: {year.coefficients} has no coefficient for HCC {lacking[0]}")
    cells, cells_known = _matrix(coefficients, cell_names())
    new_cells, new_known = _matrix(coefficients, new_cell_names())
    return ModelTables(
        year=year,
        ccs=ccs,
        labels=_labels(year),
        chronic=_chronic(year),
        codes=pa.array(codes),
        first=first.astype(np.int64),
        cc_of=np.array([number[cc] for _, cc in pairs], np.int16),
        edits=_edits(year, name, codes, number),
        children=_hierarchies(year, number),
        beside=tuple(
            (number[cc], np.array([number[one] for one in others.split()]))
            for cc, others in ONLY_BESIDE[year.model].items()
        ),
        variables=variables,
        weights=weights,
        known=known,
        cells=cells,
        cells_known=cells_known,
        new_cells=new_cells,
        new_known=new_known,
    )


@cache
def eligible_procedures(file: str) -> pa.Array:
    """CPT and HCPCS codes of services that risk adjustment accepts."""
    return _rows(file)["cpt_hcpcs_code"].combine_chunks()


def _rows(file: str) -> pa.Table:
    content = table_bytes(file)
    names = pyarrow.csv.open_csv(io.BytesIO(content)).schema.names
    return pyarrow.csv.read_csv(
        io.BytesIO(content),
        read_options=pyarrow.csv.ReadOptions(use_threads=False),
        convert_options=pyarrow.csv.ConvertOptions(column_types={name: pa.string() for name in names}),
    )


def _read(file: str, column: str, value: str) -> pa.Table:
    table = _rows(file)
    return table.filter(pc.equal(table[column], value))


def _coefficients(year: ModelYear) -> dict[str, int]:
    table = _read(year.coefficients, "model_domain", "CMS-HCC")
    table = table.filter(pc.equal(table["model_version"], f"C{year.model[1:]}"))
    values = (np.rint(pc.cast(table["value"], pa.float64()).to_numpy() * 1000)).astype(np.int64)
    return dict(zip(pc.utf8_lower(table["coefficient"]).to_pylist(), values.tolist(), strict=True))


def _matrix(
    coefficients: Mapping[str, int], names: tuple[str, ...] | list[str]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    keys = [[f"{segment}_{name}".lower() for name in names] for segment in SEGMENTS]
    values = np.array([[coefficients.get(key, 0) for key in row] for row in keys], np.int64)
    return values, np.array([[key in coefficients for key in row] for row in keys], bool)


def _labels(year: ModelYear) -> dict[str, str]:
    table = _read(year.labels, "model_domain", "CMS-HCC")
    table = table.filter(pc.equal(table["model_version"], year.model))
    names = (name.removeprefix("HCC") for name in table["cc"].to_pylist())
    return dict(zip(names, table["label"].to_pylist(), strict=True))


def _chronic(year: ModelYear) -> frozenset[str]:
    """Categories of lasting conditions. A line that is no row of the table is left out."""
    lines = (line.split(",") for line in table_bytes(year.chronic).decode().splitlines())
    return frozenset(row[0].removeprefix("HCC") for row in lines if row[1:] == ["Y", year.model, "CMS-HCC"])


def _hierarchies(year: ModelYear, number: Mapping[str, int]) -> tuple[tuple[int, NDArray[np.int64]], ...]:
    table = _read(year.hierarchies, "model_domain", "CMS-HCC")
    table = table.filter(pc.equal(table["model_version"], year.model))
    found: dict[int, list[int]] = {}
    for parent, child in zip(table["cc_parent"].to_pylist(), table["cc_child"].to_pylist(), strict=True):
        if parent in number and child in number:
            found.setdefault(number[parent], []).append(number[child])
    return tuple((parent, np.array(children)) for parent, children in sorted(found.items()))


def _edits(year: ModelYear, name: str, codes: list[str], number: Mapping[str, int]) -> Edits:
    sex, age_max = np.zeros(len(codes), np.int8), np.full(len(codes), _NO_BOUND, np.int16)
    age_min, override = age_max.copy(), age_max.copy()
    at = {code: index for index, code in enumerate(codes)}
    for row in _read(year.edits, "model_name", name).to_pylist():
        index = at.get(row["icd10"])
        if index is None:
            continue
        sex[index] = int(row["sex"] or 0) if row["edit_type"] == "sex" else 0
        if row["edit_type"] != "sex":
            age_max[index] = int(row["age_max"]) if row["age_max"] else _NO_BOUND
            age_min[index] = int(row["age_min"]) if row["age_min"] else _NO_BOUND
        if row["action"] == "override":
            override[index] = number[row["cc_override"]]
    return Edits(sex, age_max, age_min, override)
