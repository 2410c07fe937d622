"""Answers of QuestionnaireResponses as a matrix: a row per response, a column per item; NaN is no answer."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from fhir_gateway.experience.instrument import Instrument

Matrix = npt.NDArray[np.float64]

_ANSWER = ("valueInteger", "valueDecimal", "valueBoolean", "valueString", "valueCoding.code", "valueCoding.display")
#: What is read of QuestionnaireResponse, and of Encounter for whom a response is about.
RESPONSE_COLUMNS = (
    *("questionnaire", "status", "authored", "encounter.reference"),
    *("item.linkId", *(f"item.answer.{one}" for one in _ANSWER)),
    *("item.item.linkId", *(f"item.item.answer.{one}" for one in _ANSWER)),
)
ENCOUNTER_COLUMNS = ("serviceProvider.reference",)

#: Whom a response is of that names no encounter with an organization.
NO_PROVIDER = "unknown"

_VALUE = """
lower(trim(coalesce(a.valueCoding.code, a.valueInteger::VARCHAR, a.valueDecimal::VARCHAR, a.valueString,
  CASE a.valueBoolean WHEN true THEN 'yes' WHEN false THEN 'no' END)))
"""
_LONG = f"""
WITH responses AS (
  SELECT *, row_number() OVER (ORDER BY _member, _source, id) - 1 AS number FROM sent
), outer_items AS (
  SELECT number, unnest(item) AS i FROM responses
), items AS (
  SELECT number, i.linkId AS link, i.answer AS answers FROM outer_items
  UNION ALL SELECT number, j.linkId, j.answer FROM (SELECT number, unnest(i.item) AS j FROM outer_items)
), each AS (
  SELECT number, regexp_extract(lower(link), '0*([0-9]+[a-z]?)$', 1) AS item, link, unnest(answers) AS a FROM items
)
SELECT number, item, link, {_VALUE} AS value, lower(trim(a.valueCoding.display)) AS display FROM each
"""  # noqa: S608 the words spliced in are ours


@dataclass(frozen=True, slots=True)
class Answers:
    """Responses to one instrument. ``items`` name the columns of ``values``; ``applicable``: the question was for them.

    ``member`` and ``provider`` are of each response, ``authored`` its day or null.
    """

    items: tuple[str, ...]
    values: Matrix
    applicable: npt.NDArray[np.bool_]
    member: pa.Array
    provider: pa.Array

    def of(self, item: str) -> Matrix:
        """The answers to an item that was for them, as numbers of its scale; NaN otherwise."""
        place = self.items.index(item)
        return np.where(self.applicable[:, place], self.values[:, place], np.nan)

    def take(self, rows: npt.NDArray[np.bool_]) -> Answers:
        """These responses alone."""
        kept = pa.array(rows)
        return Answers(
            self.items, self.values[rows], self.applicable[rows], self.member.filter(kept), self.provider.filter(kept)
        )


def answers_of(
    instrument: Instrument, responses: pa.Table, encounters: pa.Table, period: tuple[date, date] | None = None
) -> Answers:
    """Complete responses to the instrument, authored in the period.

    Of several responses of a member about one encounter (or, without, in the period) the last counts. An answer that
    the scale does not have is none. A question whose screener was answered otherwise is not for them, whatever they
    answered; where the screener was not answered, what they answered counts.
    """
    sent = _sent(instrument, responses, encounters, period)
    items = tuple(instrument.items)
    values = np.full((sent.num_rows, len(items)), np.nan)
    applicable = np.ones(values.shape, np.bool_)
    with duckdb.connect() as connection:
        connection.register("sent", sent)
        long = connection.sql(_LONG).to_arrow_table()
        order = connection.sql("SELECT _member, provider FROM sent ORDER BY _member, _source, id").to_arrow_table()
    number = np.asarray(long["number"])
    by_link = pc.is_in(long["link"], value_set=pa.array(items))
    item = np.asarray(pc.fill_null(pc.index_in(pc.if_else(by_link, long["link"], long["item"]), pa.array(items)), -1))
    for place, name in enumerate(items):
        here = item == place
        if not here.any():
            continue
        scale = instrument.scale_of(name)
        rows = long.filter(pa.array(here))
        at = number[here]
        not_for_them = pa.array([*scale.not_applicable], pa.string())
        outside = np.zeros(len(at), np.bool_)
        for said in (rows["value"], rows["display"]):
            outside |= np.asarray(pc.fill_null(pc.is_in(said, value_set=not_for_them), False))
        found = _numbers(scale.answers, scale.bounds, rows)
        found[outside] = np.nan
        applicable[at[outside], place] = False
        values[at, place] = found
    for place, name in enumerate(items):
        rule = instrument.items[name].asked_if
        if rule is not None:
            screener = values[:, items.index(rule.item)]
            applicable[:, place] &= np.isnan(screener) | np.isin(screener, rule.answers)
    found_answers = Answers(
        items, values, applicable, order["_member"].combine_chunks(), order["provider"].combine_chunks()
    )
    return found_answers.take(complete(instrument, found_answers))


def complete(instrument: Instrument, answers: Answers) -> npt.NDArray[np.bool_]:
    """Which responses answer enough of the questions that are for everybody."""
    places = [answers.items.index(name) for name in instrument.for_everybody]
    # who says that a question does not apply has answered it
    answered = ~np.isnan(answers.values[:, places]) | ~answers.applicable[:, places]
    return (
        np.asarray(answered.mean(axis=1) >= instrument.complete_share) if places else np.ones(len(answers.values), bool)
    )


def _numbers(labels: object, bounds: tuple[int, int], rows: pa.Table) -> Matrix:
    assert isinstance(labels, dict) or hasattr(labels, "items")  # noqa: S101
    texts = pa.array([str(one) for one in labels], pa.string())  # type: ignore[attr-defined]
    codes = np.array([*labels.values(), 0], np.float64)  # type: ignore[attr-defined]
    value = rows["value"]
    plain = pc.match_substring_regex(value, r"^-?[0-9]+(\.0+)?$")
    number = np.asarray(pc.fill_null(pc.if_else(plain, value, pa.scalar(None, pa.string())).cast(pa.float64()), np.nan))
    found = number.astype(np.float64).copy()
    for said in (rows["display"], value):
        place = np.asarray(pc.fill_null(pc.index_in(said, value_set=texts), -1))
        found = np.where(np.isnan(found) & (place >= 0), codes[place], found)
    found[(found < bounds[0]) | (found > bounds[1]) | (found != np.rint(found))] = np.nan
    return found


def _sent(
    instrument: Instrument, responses: pa.Table, encounters: pa.Table, period: tuple[date, date] | None
) -> pa.Table:
    first, last = period or (date.min, date.max)
    with duckdb.connect() as connection:
        connection.register("responses", responses)
        connection.register("encounters", encounters)
        names = pa.table({"canonical": list(instrument.questionnaires)})
        connection.register("names", names)
        return connection.sql(
            """
            SELECT r.*, coalesce(e.serviceProvider.reference, $nobody) AS provider
            FROM responses r LEFT JOIN encounters e
              ON e._source = r._source AND 'Encounter/' || e.id = r.encounter.reference
            WHERE r.status IN ('completed', 'amended') AND r._member IS NOT NULL
              AND (split_part(r.questionnaire, '|', 1) IN (SELECT canonical FROM names)
                OR regexp_matches(lower(split_part(r.questionnaire, '|', 1)), '(^|/)' || $id || '$'))
              AND coalesce(r.authored[1:10], $first) BETWEEN $first AND $last
            QUALIFY row_number() OVER (PARTITION BY r._member, r.encounter.reference
              ORDER BY r.authored DESC NULLS LAST, r._source, r.id) = 1
            """,
            params={
                "nobody": NO_PROVIDER,
                "id": instrument.id,
                "first": first.isoformat(),
                "last": last.isoformat(),
            },
        ).to_arrow_table()
