"""CMS-HCC risk scores of a population, in columns.

Condition categories of all members are one table of bytes (category x member): diagnoses are mapped and edited as
arrays, hierarchies and interactions are operations on its rows, and a score is a row of coefficients times a member's
column. Sums are of whole thousandths, so they are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fhir_gateway.errors import InputError
from fhir_gateway.risk.hcc.demographics import MEMBER_SCHEMA, Demographics, demographics
from fhir_gateway.risk.hcc.interactions import COUNTS, DISABLED, GROUPS, INTERACTIONS
from fhir_gateway.risk.hcc.payment import SCORE, Thousandths, decimals, normalised, paid
from fhir_gateway.risk.hcc.tables import (
    EXTRAS,
    SEGMENTS,
    ModelTables,
    cell_names,
    model_tables,
    new_cell_names,
)
from fhir_gateway.risk.hcc.years import PaymentYear, payment_year

_BLOCK = 32_768  # members of a step: their design fits a processor's cache

#: A row per member. ``reason`` says why somebody has no score: ``no-birth-date``, ``no-sex``, ``esrd`` (other models).
SCORE_SCHEMA = pa.schema(
    [
        ("member", pa.string()),
        ("segment", pa.string()),
        ("reason", pa.string()),
        ("hccs", pa.int32()),
        ("demographic", SCORE),
        ("disease", SCORE),
        ("interaction", SCORE),
        ("raw", SCORE),
        ("normalised", SCORE),
        ("payment", SCORE),
    ]
)
#: A row per variable that a member's score is the sum of.
COMPONENT_SCHEMA = pa.schema(
    [("member", pa.string()), ("kind", pa.string()), ("variable", pa.string()), ("coefficient", SCORE)]
)
#: A row per condition category that a member's diagnoses lead to. ``row`` is that of a diagnosis in the given table.
EVIDENCE_SCHEMA = pa.schema(
    [("member", pa.string()), ("cc", pa.string()), ("superseded", pa.bool_()), ("row", pa.int64())]
)


@dataclass(frozen=True, slots=True)
class RiskScores:
    """Scores of a model in a year. ``components`` and ``evidence`` say what each is made of."""

    model: str
    year: PaymentYear
    scores: pa.Table
    components: pa.Table
    evidence: pa.Table
    payments: Thousandths
    stamps: Mapping[str, str]


def score(
    members: pa.Table, diagnoses: pa.Table, model: str, year: int, *, proposed: bool = False, detail: bool = True
) -> RiskScores:
    """Scores of members (:data:`MEMBER_SCHEMA`; missing columns are null) by ``diagnoses`` (``member``, ``diagnosis``).

    Diagnoses are ICD-10-CM codes with or without dot; those that count only (see :mod:`.diagnoses`). Those of nobody
    among ``members`` are left out. Without ``detail`` components and evidence stay empty. InputError for a model or
    year without tables, or with proposed ones that were not asked for.
    """
    holding = payment_year(year, proposed=proposed)
    tables = model_tables(holding.model(model))
    members = _columns(members)
    people = demographics(members)
    present, who, which, rows = _categories(members, diagnoses, tables, people)
    raw = np.zeros((4, members.num_rows), np.int64)  # demographic, disease, interaction, count of HCCs
    kept = np.empty_like(present)
    found: list[pa.Table] = []
    for start in range(0, members.num_rows, _BLOCK):
        block = slice(start, start + _BLOCK)
        kept[:, block] = _standing(present[:, block], tables)
        design = _design(kept[:, block], people, block, tables)
        raw[:, block] = _sums(design, people, block, tables)
        if detail:
            found += _components(design, people, block, tables)
    evidence = EVIDENCE_SCHEMA.empty_table()
    if detail:
        names = pa.array(tables.ccs)
        evidence = pa.table(
            [
                members["member"].take(pa.array(who)),
                names.take(pa.array(which)),
                pa.array(kept[which, who] == 0),
                pa.array(rows),
            ],
            schema=EVIDENCE_SCHEMA,
        )
    total = raw[:3].sum(axis=0)
    factor = tables.year.normalisation
    normal = normalised(total, factor) if factor is not None else total
    payments = paid(normal, holding.coding_intensity)
    valid = people.scored
    payable = valid & (factor is not None)
    columns = [
        members["member"].combine_chunks(),
        pc.if_else(pa.array(valid), pa.array(SEGMENTS).take(pa.array(people.segment)), pa.scalar(None, pa.string())),
        people.reason,
        pa.array(raw[3].astype(np.int32)),
        *(decimals(one, valid) for one in (raw[0], raw[1], raw[2], total)),
        decimals(normal, payable),
        decimals(payments, payable),
    ]
    return RiskScores(
        model=model,
        year=holding,
        scores=pa.table(columns, schema=SCORE_SCHEMA),
        components=_named_components(found, members),
        evidence=evidence,
        payments=payments,
        stamps=holding.stamps(),
    )


def _columns(members: pa.Table) -> pa.Table:
    if missing := {"member", "age", "sex"} - set(members.column_names):
        raise InputError(f"members: column {min(missing)} is missing")
    rows = members.num_rows
    return pa.table(
        [
            members[field.name].cast(field.type) if field.name in members.column_names else pa.nulls(rows, field.type)
            for field in MEMBER_SCHEMA
        ],
        schema=MEMBER_SCHEMA,
    )


Numbers = NDArray[np.int64]
Bytes = NDArray[np.uint8]


def _categories(
    members: pa.Table, diagnoses: pa.Table, tables: ModelTables, people: Demographics
) -> tuple[Bytes, Numbers, Numbers, Numbers]:
    """Condition categories by member (category x member), and member, category and diagnosis row of each finding."""
    who = pc.index_in(diagnoses["member"], value_set=members["member"].combine_chunks())
    coded = diagnoses["diagnosis"]
    if not isinstance(coded.type, pa.DictionaryType):
        coded = coded.combine_chunks().dictionary_encode()
    else:
        coded = coded.combine_chunks()
    plain = pc.replace_substring(pc.utf8_upper(pc.utf8_trim_whitespace(coded.dictionary)), ".", "")
    numbers = pc.fill_null(pc.index_in(plain, value_set=tables.codes), -1).to_numpy().astype(np.int64)
    indices = pc.fill_null(coded.indices, -1).to_numpy().astype(np.int64)
    code = np.where(indices >= 0, numbers[indices] if len(numbers) else -1, -1)
    member = pc.fill_null(who, -1).to_numpy().astype(np.int64)
    rows = np.flatnonzero((code >= 0) & (member >= 0) & people.scored[np.maximum(member, 0)] if len(member) else [])
    member, code = member[rows], code[rows]
    edited = _edited(code, member, tables, people)
    dropped = edited & (tables.edits.override[code] < 0)
    rows, member, code, edited = rows[~dropped], member[~dropped], code[~dropped], edited[~dropped]
    counts = np.where(edited, 1, tables.first[code + 1] - tables.first[code])
    at = np.repeat(np.arange(len(code)), counts)
    within = np.arange(len(at)) - np.repeat(np.cumsum(counts) - counts, counts)
    category = np.where(edited[at], tables.edits.override[code[at]], 0).astype(np.int64)
    plainly = ~edited[at]
    category[plainly] = tables.cc_of[(tables.first[code[at]] + within)[plainly]]
    present = np.zeros((len(tables.ccs), members.num_rows), np.uint8)
    present[category, member[at]] = 1
    return present, member[at], category, rows[at]


def _edited(code: Numbers, member: Numbers, tables: ModelTables, people: Demographics) -> NDArray[np.bool_]:
    """Of which diagnoses the age or sex edit holds."""
    edits, age = tables.edits, people.age[member]
    sex = np.where(people.male, 1, 2)[member]
    most, least = edits.age_max[code], edits.age_min[code]
    found: NDArray[np.bool_] = (
        (edits.sex[code] == sex) | ((most >= 0) & (age <= most)) | ((least >= 0) & (age >= least))
    )
    return found


def _standing(present: Bytes, tables: ModelTables) -> Bytes:
    """Categories that stand after hierarchies: children of one that is present fall."""
    present = present.copy()
    for category, others in tables.beside:
        present[category] &= np.bitwise_or.reduce(present[others])
    kept = present.copy()
    for parent, children in tables.children:
        if present[parent].any():
            kept[children] &= 1 - present[parent]
    return kept


def _design(kept: Bytes, people: Demographics, block: slice, tables: ModelTables) -> Bytes:
    """Variables by member: HCCs, interactions, counts and extras in the order of ``tables.variables``."""
    model = tables.year.model
    number = {cc: index for index, cc in enumerate(tables.ccs)}
    design = np.zeros((len(tables.variables), kept.shape[1]), np.uint8)
    design[: len(tables.ccs)] = kept
    groups = {
        name: np.bitwise_or.reduce(kept[[number[cc] for cc in ccs.split()]]) for name, ccs in GROUPS[model].items()
    }
    groups[DISABLED] = people.disabled[block].astype(np.uint8)
    row = len(tables.ccs)
    for left, right in INTERACTIONS[model].values():
        factors = [groups[one] if one in groups else kept[number[one]] for one in (left, right)]
        design[row] = factors[0] & factors[1]
        row += 1
    count = kept.sum(axis=0, dtype=np.int64)
    for most in range(1, len(COUNTS)):
        design[row] = count == most
        row += 1
    design[row] = count >= len(COUNTS)
    disabled, male = people.originally_disabled[block], people.male[block]
    design[row + 1] = disabled & ~male
    design[row + 2] = disabled & male
    design[row + 3] = people.institutional_medicaid[block]
    return design


def _sums(design: Bytes, people: Demographics, block: slice, tables: ModelTables) -> Numbers:
    """Demographic, disease and interaction parts of scores, and how many HCCs there are; of whom has no score zero."""
    segment, new, cell = people.segment[block], people.new[block], people.cell[block]
    ccs, extras = len(tables.ccs), len(tables.variables) - len(EXTRAS)
    each = np.arange(design.shape[1])
    weights = tables.weights.astype(np.float32)  # whole numbers far below 2**24: products and sums are exact
    parts = [
        (weights[:, part] @ design[part].astype(np.float32))[segment, each]
        for part in (slice(0, ccs), slice(ccs, extras), slice(extras, None))
    ]
    cells = np.where(
        new,
        tables.new_cells[segment, cell],
        tables.cells[segment, np.minimum(cell, tables.cells.shape[1] - 1)],
    )
    disease, interaction, extra = (np.rint(part).astype(np.int64) for part in parts)
    found = np.stack([cells + extra, disease, interaction, design[:ccs].sum(axis=0, dtype=np.int64)])
    found[:, ~people.scored[block]] = 0
    return found


def _components(design: Bytes, people: Demographics, block: slice, tables: ModelTables) -> Iterator[pa.Table]:
    """What scores are made of: every variable of a member that has a coefficient in the segment, and every HCC."""
    segment, new, scored = people.segment[block], people.new[block], people.scored[block]
    ccs, extras = len(tables.ccs), len(tables.variables) - len(EXTRAS)
    names = pa.array(tables.variables)
    known = tables.known.T[:, segment] & (design != 0) & scored
    variable, member = np.nonzero(known)
    kinds = np.where(variable < ccs, 1, np.where(variable < extras, 2, 0))
    yield _part(block, member, kinds, names.take(pa.array(variable)), tables.weights[segment[member], variable])
    for chosen, cells, has, labels in (
        (~new, tables.cells, tables.cells_known, cell_names()),
        (new, tables.new_cells, tables.new_known, new_cell_names()),
    ):
        member = np.flatnonzero(chosen & scored)
        cell = people.cell[block][member]
        present = has[segment[member], cell]
        member, cell = member[present], cell[present]
        values = cells[segment[member], cell]
        yield _part(block, member, np.zeros(len(member), np.int64), pa.array(labels).take(pa.array(cell)), values)


def _part(block: slice, member: Numbers, kinds: Numbers, names: pa.Array, values: Numbers) -> pa.Table:
    kind = pa.array(["demographic", "hcc", "interaction"]).take(pa.array(kinds))
    coefficient = decimals(values, np.ones(len(values), bool))
    return pa.table(
        [pa.array(member + block.start), kind, names, coefficient], ["at", "kind", "variable", "coefficient"]
    )


def _named_components(found: list[pa.Table], members: pa.Table) -> pa.Table:
    if not found:
        return COMPONENT_SCHEMA.empty_table()
    table = pa.concat_tables(found).combine_chunks()
    order = np.argsort(table["at"].to_numpy(), kind="stable")
    table = table.take(pa.array(order))
    named = [members["member"].take(table["at"]), table["kind"], table["variable"], table["coefficient"]]
    return pa.table(named, schema=COMPONENT_SCHEMA)
