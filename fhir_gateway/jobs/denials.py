"""Denials over the lake: ExplanationOfBenefits, and ClaimResponses to Claims that no ExplanationOfBenefit tells of."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.claim_edits.denials import EOB_ANSWER, LINE_COLUMNS, SENT_SCHEMA, Denials, answers_as_eobs
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_lines import kept_claim_lines
from fhir_gateway.lake.claims import claim_lines, directory

_ANSWER = ("status", "use", "created", "insurer", "request", "outcome", "item", "adjudication", "total", "payment")
_CLAIM = (
    *("identifier", "type", "subType", "created", "billablePeriod", "provider", "related", "careTeam"),
    *("supportingInfo", "diagnosis", "procedure", "insurance", "item"),
)


def denials(
    gateway: Gateway, members: Sequence[str] | None = None, first: date | None = None, last: date | None = None
) -> Denials:
    """Denials of some persons (None: everybody known), of claims that were first answered in a span of days.

    Lines of ExplanationOfBenefits are those that are kept for every use; of answers only what says a denial is read.
    """
    lake, version = gateway.lake, gateway.lake.version
    chosen = None if members is None else pa.array(sorted(set(members)), pa.string())
    told = [lake.read("ExplanationOfBenefit", EOB_ANSWER, version=version, members=chosen, ordered=False)]
    lines = [kept_claim_lines(gateway, version, None, LINE_COLUMNS, members=chosen)]
    answers = _untold(lake.read("ClaimResponse", _ANSWER, version=version, members=chosen), told[0])
    if answers.num_rows:
        claims = lake.read("Claim", _CLAIM, version=version, members=pc.unique(answers["_member"].drop_null()))
        eobs = answers_as_eobs(answers, claims)
        told.append(eobs)
        lines.append(claim_lines(eobs, directory(lake, version), claims).select(list(LINE_COLUMNS)))
    claims = lake.read("Claim", ("created",), version=version, members=chosen, ordered=False)
    created = pc.utf8_slice_codeunits(claims["created"], 0, 10)
    sent = pa.table(
        {
            "source": claims["_source"],
            "claim": pc.binary_join_element_wise("Claim", claims["id"], "/"),
            "created": pc.strptime(created, "%Y-%m-%d", "s", error_is_null=True),
        }
    ).cast(SENT_SCHEMA)
    said = pa.concat_tables([_answers(one) for one in told], promote_options="permissive")
    return Denials(_between(pa.concat_tables(lines), first, last), said, sent)


def _untold(responses: pa.Table, eobs: pa.Table) -> pa.Table:
    """ClaimResponses to Claims that no ExplanationOfBenefit is about."""
    told = pc.is_in(_claim(responses, "request"), value_set=_claim(eobs, "claim").drop_null())
    return responses.filter(pc.invert(told))


def _claim(rows: pa.Table, column: str) -> pa.ChunkedArray:
    """Source and Claim that answers are about; null where none is named."""
    reference = pc.struct_field(rows[column], "reference")
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
