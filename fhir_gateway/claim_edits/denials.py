"""What payers denied, out of ExplanationOfBenefit and ClaimResponse: why, to whom, how much, and what became of it.

A line is denied when an adjudication of it, or of its whole claim, gives a denial reason (CARIN Blue Button) or a
reason that is called ``denied``, or when the answer is an error. All versions count: the first answer to a claim says
whether it went through at once, the last what was paid in the end. Amounts are what was billed for the denied lines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Literal

import duckdb
import pyarrow as pa

from fhir_gateway.claim_edits.models import DENIED_SCHEMA
from fhir_gateway.lake.claims import macros

By = Literal["reason", "payer", "provider", "code", "month"]
BY: tuple[By, ...] = ("reason", "payer", "provider", "code", "month")
#: Claim adjustment reasons (numbers of X12's list) that an edit of ours finds before the claim is sent.
AVOIDABLE: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "4": ("modifier-not-allowed", "modifiers-conflict"),
        "5": ("place-not-allowed",),
        "6": ("procedure-age",),
        "7": ("procedure-sex",),
        "8": ("taxonomy-not-on-roster",),
        "9": ("diagnosis-age",),
        "10": ("diagnosis-sex",),
        "11": ("diagnosis-not-covered",),
        "13": ("service-before-birth",),
        "15": ("prior-authorization-missing",),
        "16": ("npi-missing", "diagnosis-missing", "procedure-missing"),
        "18": ("duplicate-service", "duplicate-line"),
        "22": ("other-payer-primary", "primary-answer-missing"),
        "26": ("coverage-not-active",),
        "27": ("coverage-not-active", "coverage-status"),
        "29": ("timely-filing",),
        "31": ("coverage-not-active",),
        "50": ("diagnosis-not-covered",),
        "58": ("place-not-allowed",),
        "60": ("three-day-window",),
        "97": ("ncci-ptp-never", "ncci-ptp-modifier", "global-follow-up", "apcm-conflict"),
        "107": ("add-on-alone",),
        "119": ("frequency-limit", "payer-frequency-limit"),
        "129": ("primary-answer-missing",),
        "140": ("mbi-format",),
        "146": ("diagnosis-not-valid", "diagnosis-not-specific"),
        "151": ("ncci-mue-line", "ncci-mue-day", "ncci-mue-day-clinical"),
        "167": ("diagnosis-not-covered",),
        "181": ("procedure-not-active",),
        "182": ("modifier-not-valid",),
        "197": ("prior-authorization-missing",),
        "199": ("revenue-procedure",),
        "206": ("npi-missing",),
        "207": ("npi-check-digit",),
        "208": ("provider-not-on-roster",),
        "231": ("ncci-ptp-never",),
        "234": ("ncci-ptp-never",),
        "236": ("ncci-ptp-modifier", "ncci-ptp-never"),
    }
)
#: What is read of answers: ExplanationOfBenefit, and ClaimResponse.
_SAID = tuple(f"{where}adjudication.{what}.coding.code" for where in ("", "item.") for what in ("category", "reason"))
EOB_ANSWER = ("status", "use", "created", "outcome", "claim.reference", "item.sequence", *_SAID)
RESPONSE_ANSWER = ("status", "use", "created", "outcome", "request.reference", "item.itemSequence", *_SAID)
#: What :class:`Denials` reads of claim lines, of all versions.
LINE_COLUMNS = (
    *("_member", "source", "eob", "claim_group", "version", "version_status", "line", "insurer", "npi", "procedure"),
    *("revenue_code", "payment_date", "service_from", "submitted", "paid", "denied"),
)
#: Columns of what it reads of Claims.
SENT_SCHEMA = pa.schema([("source", pa.string()), ("claim", pa.string()), ("created", pa.date32())])


@cache
def _sections() -> Mapping[str, str]:
    text = files(__package__).joinpath("denials.sql").read_text(encoding="utf-8")
    return {name.strip(): body for name, body in (part.split("\n", 1) for part in text.split("-- section:")[1:])}


class Denials:
    """Denials of some members, to be asked in several ways; for one thread. A context manager."""

    def __init__(self, lines: pa.Table, eobs: pa.Table, sent: pa.Table) -> None:
        """``lines`` (:data:`LINE_COLUMNS`) are of ``eobs`` (:data:`EOB_ANSWER`); ``sent`` is in :data:`SENT_SCHEMA`."""
        self._connection = duckdb.connect(config={"threads": 1})
        for name, table in (("lines", lines.select(list(LINE_COLUMNS))), ("eobs", eobs), ("submitted", sent)):
            self._connection.register(name, table)
        self._connection.execute(macros())
        for name in ("macros", "tables", "by"):
            self._connection.execute(_sections()[name])
        pairs = [(reason, ", ".join(names)) for reason, names in AVOIDABLE.items()]
        self._connection.register(
            "avoidable", pa.table({"reason": [one for one, _ in pairs], "edits": [names for _, names in pairs]})
        )

    def __enter__(self) -> Denials:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def overall(self) -> dict[str, Any]:
        """One row: claims, those denied at first, overturned since, amounts, days from submission to payment."""
        return self._rows("""
            SELECT count(*) AS claims, count(*) FILTER (denied_first) AS denied_at_first,
              round(count(*) FILTER (denied_first) / count(*), 4) AS first_pass_denial_rate,
              count(*) FILTER (overturned) AS overturned,
              round(count(*) FILTER (overturned) / nullif(count(*) FILTER (denied_first), 0), 4) AS overturn_rate,
              coalesce(sum(denied_amount), 0) AS denied_amount, median(days) AS median_days_to_payment,
              count(days) AS claims_with_days
            FROM story""")[0]

    def by(self, what: By) -> list[dict[str, Any]]:
        """Denied lines and amounts by reason, payer, provider, code or month of the answer; the most money first.

        A line with several reasons counts at each. With the rate of lines where that is one of the same thing.
        """
        if what == "reason":
            return self._rows("""
                SELECT reason, kind_of(reason) AS list, count(*) AS denied_lines, count(DISTINCT claim_group) AS claims,
                  sum(submitted) AS denied_amount, any_value(edits) AS edits
                FROM denied_line LEFT JOIN avoidable USING (reason) GROUP BY reason
                ORDER BY denied_amount DESC, denied_lines DESC, reason""")
        group = "strftime(answered, '%Y-%m')" if what == "month" else what
        return self._rows(f"""
            SELECT {group} AS {what}, count(*) AS lines, count(*) FILTER (denied) AS denied_lines,
              round(count(*) FILTER (denied) / count(*), 4) AS denial_rate,
              coalesce(sum(submitted) FILTER (denied), 0) AS denied_amount,
              count(DISTINCT claim_group) FILTER (denied) AS claims
            FROM answered GROUP BY 1 HAVING count(*) FILTER (denied) > 0
            ORDER BY denied_amount DESC, denied_lines DESC, 1""")  # noqa: S608  # columns of this module

    def top_avoidable(self, count: int = 10) -> list[dict[str, Any]]:
        """Denials that an edit would have found before: reason, edits, provider and code with the most money."""
        return self._rows(f"""
            SELECT reason, any_value(edits) AS edits, provider, code, count(*) AS denied_lines,
              sum(submitted) AS denied_amount
            FROM denied_line JOIN avoidable USING (reason) GROUP BY reason, provider, code
            ORDER BY denied_amount DESC, reason, provider, code LIMIT {int(count)}""")  # noqa: S608  # a number

    def lines(self) -> pa.Table:
        """Every line of every version as columns: whether it was denied, why, and where it stands in its claim."""
        return self._connection.sql("SELECT * FROM answered ORDER BY source, eob, line").to_arrow_table()

    def _rows(self, query: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._connection.sql(query).to_arrow_table().to_pylist()
        return found


def denied_lines(eobs: pa.Table, responses: pa.Table, called: Callable[[str, str], str]) -> pa.Table:
    """Lines of Claims that the newest answer of their source denies (:data:`DENIED_SCHEMA`).

    ``eobs`` and ``responses`` are rows of a lake with :data:`EOB_ANSWER` and :data:`RESPONSE_ANSWER`; ``called`` makes
    the id that a Claim is known by here of source and id there.
    """
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.execute(macros())
        connection.execute(_sections()["macros"])
        connection.register("eobs", eobs)
        connection.register("responses", responses)
        found = connection.sql(_sections()["denied lines"]).to_arrow_table()
    named = [called(*pair) for pair in zip(found["source"].to_pylist(), found["claim"].to_pylist(), strict=True)]
    return pa.table([pa.array(named, pa.string()), found["line"]], schema=DENIED_SCHEMA)


def answers_as_eobs(responses: pa.Table, claims: pa.Table) -> pa.Table:
    """ClaimResponses with their Claims in the columns of ExplanationOfBenefit (``EOB_COLUMNS``), joined by source.

    An answer says what was decided, its Claim what was billed: without the Claim an answer has no lines of ours.
    """
    with duckdb.connect(config={"threads": 1}) as connection:
        connection.register("responses", responses)
        connection.register("claims", claims)
        connection.execute(macros())
        connection.execute(_AS_EOB)
        return connection.sql("SELECT * FROM found").to_arrow_table()


#: Identifier of the Claim and what it replaces make the chain of versions; the answer's own date orders it.
_AS_EOB = """
CREATE TABLE found AS
SELECT r._member, r._source, r.id, r._last_updated, c.identifier, r.status, r.use, c.type, c.subType, r.created,
  c.billablePeriod, r.insurer, c.provider, r.outcome, c.related,
  {'reference': 'Claim/' || c.id} AS claim, c.careTeam, c.supportingInfo, c.diagnosis, c.procedure, c.insurance,
  list_transform(c.item, lambda i: struct_insert(i, adjudication :=
    list_filter(r.item, lambda a: a.itemSequence = i.sequence)[1].adjudication)) AS item,
  r.adjudication, r.total, r.payment
FROM responses r JOIN claims c ON c._source = r._source AND typed_reference(r.request.reference) = 'Claim/' || c.id
"""
