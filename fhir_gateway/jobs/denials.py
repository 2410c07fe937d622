"""Denials over the lake: ExplanationOfBenefits, and ClaimResponses to Claims that no ExplanationOfBenefit tells of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.claim_edits.denials import SENT_SCHEMA, Denials, answers_as_eobs
from fhir_gateway.factory import Gateway
from fhir_gateway.lake.claims import EOB_COLUMNS, LINE_SCHEMA, claim_lines, directory

_ANSWER = ("status", "use", "created", "insurer", "request", "outcome", "item", "adjudication", "total", "payment")
_CLAIM = (
    *("identifier", "type", "subType", "created", "billablePeriod", "provider", "related", "careTeam"),
    *("supportingInfo", "diagnosis", "procedure", "insurance", "item"),
)


def denials(
    gateway: Gateway, members: Sequence[str] | None = None, first: date | None = None, last: date | None = None
) -> Denials:
    """Denials of some persons (None: everybody), of claims that were first answered in a span of days."""
    lake = gateway.lake
    chosen = None if members is None else pa.array(sorted(set(members)), pa.string())
    providers = directory(lake)
    eobs = lake.read("ExplanationOfBenefit", EOB_COLUMNS, members=chosen)
    claims = lake.read("Claim", _CLAIM, members=chosen)
    lines = [claim_lines(eobs, providers, claims)]
    answers = answers_as_eobs(lake.read("ClaimResponse", _ANSWER, members=chosen), claims)
    if answers.num_rows:
        told = pc.fill_null(pc.is_in(_claim(answers), value_set=_claim(eobs)), False)
        answers = answers.filter(pc.invert(told))
        lines.append(claim_lines(answers, providers, claims))
    created = pc.utf8_slice_codeunits(claims["created"], 0, 10)
    sent = pa.table(
        {
            "source": claims["_source"],
            "claim": pc.binary_join_element_wise("Claim", claims["id"], "/"),
            "created": pc.strptime(created, "%Y-%m-%d", "s", error_is_null=True),
        }
    ).cast(SENT_SCHEMA)
    whole = pa.concat_tables(lines).select(LINE_SCHEMA.names)
    told_by = [_answers(eobs), *([_answers(answers)] if answers.num_rows else [])]
    return Denials(_between(whole, first, last), pa.concat_tables(told_by, promote_options="permissive"), sent)


def _claim(rows: pa.Table) -> pa.ChunkedArray:
    """Source and Claim that answers are about."""
    reference = pc.struct_field(rows["claim"], "reference")
    named = pc.struct_field(pc.extract_regex(reference, r"(?P<claim>Claim/[A-Za-z0-9.\-]{1,64})"), "claim")
    return pc.binary_join_element_wise(rows["_source"], named, "|")


def _answers(rows: pa.Table) -> pa.Table:
    """What denials are read from."""
    return rows.select(["_source", "id", "claim", "created", "adjudication", "outcome", "item"])


def _between(lines: pa.Table, first: date | None, last: date | None) -> pa.Table:
    """Lines of the claims whose first version was paid or denied within the span."""
    if first is None and last is None:
        return lines
    start = lines.group_by("claim_group").aggregate([("payment_date", "min")])
    day = start["payment_date_min"]
    inside = pc.and_kleene(
        pc.greater_equal(day, pa.scalar(first or date.min, pa.date32())),
        pc.less_equal(day, pa.scalar(last or date.max, pa.date32())),
    )
    groups = start["claim_group"].filter(pc.fill_null(inside, False))
    return lines.filter(pc.is_in(lines["claim_group"], value_set=groups))
