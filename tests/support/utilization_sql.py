"""Utilization of Synthea's sample out of its JSON, by SQL written for this alone: nothing of the gateway is used.

    python -m tests.support.utilization_sql ../shared/data/synthea/generated-sample-data-r4 2018

prints each metric as the gateway computes it and as this query does. Synthea 2019 knows no bill types, revenue codes
or CPT; its places of service are 19 (ambulatory), 20 (urgent care) and 21 (inpatient), and every claim is final.
"""

from __future__ import annotations

import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import duckdb

TYPES = ("Patient", "ExplanationOfBenefit", "Claim", "Encounter", "Organization", "Practitioner")

_READ = """
CREATE TABLE patient AS SELECT id, gender, birthDate::DATE AS born, left(deceasedDateTime::VARCHAR, 10)::DATE AS died
FROM read_json('{folder}/Patient.ndjson.gz', columns = {{id: 'VARCHAR', gender: 'VARCHAR', birthDate: 'VARCHAR',
  deceasedDateTime: 'VARCHAR'}});
CREATE TABLE raw_eob AS SELECT * FROM read_json('{folder}/ExplanationOfBenefit.ndjson.gz',
  maximum_object_size = 99999999, columns = {{id: 'VARCHAR', patient: 'STRUCT(reference VARCHAR)',
    claim: 'STRUCT(reference VARCHAR)', billablePeriod: 'STRUCT("start" VARCHAR, "end" VARCHAR)',
    payment: 'STRUCT(amount STRUCT("value" DECIMAL(18, 4)))',
    careTeam: 'STRUCT(provider STRUCT(reference VARCHAR))[]', item: 'JSON[]'}});
CREATE TABLE hospital AS SELECT 'Claim/' || id AS claim, provider.reference AS organization
FROM read_json('{folder}/Claim.ndjson.gz', maximum_object_size = 99999999,
  columns = {{id: 'VARCHAR', provider: 'STRUCT(reference VARCHAR)'}});
CREATE TABLE encounter AS SELECT 'Encounter/' || id AS encounter, left(period."start", 10)::DATE AS came,
  left(period."end", 10)::DATE AS went, "class".code = 'IMP' AS imp
FROM read_json('{folder}/Encounter.ndjson.gz', columns = {{id: 'VARCHAR', class: 'STRUCT(code VARCHAR)',
  period: 'STRUCT("start" VARCHAR, "end" VARCHAR)'}});
CREATE TABLE item AS
WITH one AS (
  SELECT id AS eob, substr(patient.reference, 9) AS patient, claim.reference AS claim, payment.amount.value AS payment,
    left(billablePeriod."start", 10)::DATE AS stated_from, left(billablePeriod."end", 10)::DATE AS stated_to,
    careTeam[1].provider.reference AS clinician, unnest(item) AS i, generate_subscripts(item, 1) AS n
  FROM raw_eob
)
SELECT eob, patient, claim, payment, stated_from, stated_to, clinician, n,
  left(coalesce(i->>'$.servicedDate', i->>'$.servicedPeriod.start'), 10)::DATE AS day,
  left(coalesce(i->>'$.servicedDate', i->>'$.servicedPeriod.end'), 10)::DATE AS until,
  i->>'$.encounter[0].reference' AS encounter, i->>'$.locationCodeableConcept.coding[0].code' AS place,
  i->>'$.revenue.coding[0].code' AS revenue,
  i->>'$.productOrService.coding[0].code' AS service,
  list_sum([(a->>'$.amount.value')::DECIMAL(18, 4) FOR a IN (i->'$.adjudication[*]')::JSON[]
    IF a->>'$.category.coding[0].code' LIKE '%line_prvdr_pmt_amt']) AS paid,
  list_sum([(a->>'$.amount.value')::DECIMAL(18, 4) FOR a IN (i->'$.adjudication[*]')::JSON[]
    IF a->>'$.category.coding[0].code' LIKE '%line_alowd_chrg_amt']) AS allowed
FROM one;
CREATE TABLE cost AS -- what no line of a claim states, its first line has of the payment
SELECT *, any_value(place = '21') OVER w IS NOT NULL AND bool_or(place = '21') OVER w AS inpatient,
  CASE WHEN max(paid) OVER w IS NULL AND n = 1 THEN payment ELSE paid END AS spent
FROM item WINDOW w AS (PARTITION BY eob);
"""

# stays one after the other: each joins the one before, or begins anew
_STAYS = """
CREATE TABLE stay AS
WITH RECURSIVE claims AS (
  SELECT patient, eob, min(organization) AS hospital,
    coalesce(min(came) FILTER (imp), min(came), CASE WHEN min(stated_from) <= min(day) AND max(stated_to) >= max(day)
      AND max(stated_to) - min(stated_from) <= 100 THEN min(stated_from) ELSE min(day) END) AS a,
    coalesce(max(went) FILTER (imp), max(went), CASE WHEN min(stated_from) <= min(day) AND max(stated_to) >= max(day)
      AND max(stated_to) - min(stated_from) <= 100 THEN max(stated_to) ELSE max(until) END) AS d
  FROM cost LEFT JOIN hospital USING (claim) LEFT JOIN encounter USING (encounter) WHERE inpatient GROUP BY patient, eob
), numbered AS (
  SELECT *, row_number() OVER (PARTITION BY patient ORDER BY a, d, eob) AS n FROM claims
), walk AS (
  SELECT patient, n, 1 AS number, a, d AS reach, hospital, d FROM numbered WHERE n = 1
  UNION ALL
  SELECT c.patient, c.n, CASE WHEN c.a < w.reach OR (c.hospital IS DISTINCT FROM w.hospital AND c.a <= w.reach + 1)
      THEN w.number ELSE w.number + 1 END, c.a, greatest(c.d, w.reach), c.hospital, c.d
  FROM walk w JOIN numbered c ON c.patient = w.patient AND c.n = w.n + 1
)
SELECT patient, number, min(a) AS a, max(d) AS d FROM walk GROUP BY patient, number;
"""

_METRICS = """
WITH who AS (SELECT * FROM patient WHERE {whom}),
month AS (
  SELECT w.id AS patient, count(*) AS months,
    count(*) FILTER (born + INTERVAL 18 YEAR <= m) AS adult, count(*) FILTER (born + INTERVAL 40 YEAR <= m) AS older
  FROM who w, range($start::DATE, $end::DATE + 1, INTERVAL 1 MONTH) r (m)
  WHERE last_day(m::DATE) >= born AND (died IS NULL OR died >= m) GROUP BY w.id
),
mm AS (SELECT sum(months) AS months, count(*) AS members, sum(adult) AS adult, sum(older) AS older FROM month),
line AS (SELECT c.* FROM cost c JOIN month USING (patient) WHERE day BETWEEN $start AND $end),
spent AS (
  SELECT m.patient, coalesce(sum(spent), 0) AS paid FROM month m LEFT JOIN line USING (patient) GROUP BY m.patient
),
ranked AS (SELECT paid, row_number() OVER (ORDER BY paid DESC, patient) AS r, count(*) OVER () AS n FROM spent),
mine AS (SELECT s.*, w.born, w.died, lead(s.a) OVER (PARTITION BY s.patient ORDER BY s.a, s.d) - s.d AS gap
  FROM stay s JOIN who w ON w.id = s.patient),
adm AS (SELECT * FROM mine SEMI JOIN month USING (patient) WHERE a BETWEEN $start AND $end),
idx AS (SELECT * FROM mine SEMI JOIN month USING (patient)
  WHERE d BETWEEN $start AND $end AND (died IS NULL OR died > d)),
ind AS (SELECT * FROM idx WHERE a >= born + INTERVAL 18 YEAR AND d + 30 <= $known)
SELECT name, numerator, denominator FROM (
  SELECT 'members' AS name, members AS numerator, NULL AS denominator FROM mm
  UNION ALL SELECT 'member-months', months, NULL FROM mm
  UNION ALL SELECT 'paid-pmpm', (SELECT coalesce(sum(spent), 0) FROM line), months FROM mm
  UNION ALL SELECT 'paid-pmpm inpatient-acute', (SELECT coalesce(sum(spent), 0) FROM line WHERE inpatient), months
    FROM mm
  UNION ALL SELECT 'paid-pmpm urgent-care',
    (SELECT coalesce(sum(spent), 0) FROM line WHERE NOT inpatient AND place = '20'), months FROM mm
  UNION ALL SELECT 'paid-pmpm outpatient-other',
    (SELECT coalesce(sum(spent), 0) FROM line WHERE NOT inpatient AND place <> '20'), months FROM mm
  UNION ALL SELECT 'allowed-pmpm', (SELECT coalesce(sum(allowed), 0) FROM line), months FROM mm
  UNION ALL SELECT 'allowed-pmpm inpatient-acute', (SELECT coalesce(sum(allowed), 0) FROM line WHERE inpatient), months
    FROM mm
  UNION ALL SELECT 'allowed-pmpm urgent-care',
    (SELECT coalesce(sum(allowed), 0) FROM line WHERE NOT inpatient AND place = '20'), months FROM mm
  UNION ALL SELECT 'allowed-pmpm outpatient-other',
    (SELECT coalesce(sum(allowed), 0) FROM line WHERE NOT inpatient AND place <> '20'), months FROM mm
  UNION ALL SELECT unnest(['low-acuity-ed-share', 'snf-average-length-of-stay', 'uamcc']), 0, 0 -- no such codes
  UNION ALL SELECT 'medical-paid-pmpm', (SELECT coalesce(sum(spent), 0) FROM line), months FROM mm
  UNION ALL SELECT 'pharmacy-paid-pmpm', 0, months FROM mm
  UNION ALL SELECT unnest(['admissions-per-1000', 'acute-admissions-per-1000']), (SELECT count(*) FROM adm), months
    FROM mm
  UNION ALL SELECT 'acute-days-per-1000', (SELECT coalesce(sum(greatest(d - a, 1)), 0) FROM adm), months FROM mm
  UNION ALL SELECT 'acute-average-length-of-stay', coalesce(sum(greatest(d - a, 1)), 0), count(*) FROM adm
  UNION ALL SELECT unnest(['ed-visits-per-1000', 'ed-visits-all-per-1000', 'ed-visits-observed-per-1000',
      'ed-visits-without-observation-per-1000', 'low-acuity-ed-visits-per-1000']),
    (SELECT count(*) FROM line WHERE place = '23' OR revenue LIKE '045%' OR service SIMILAR TO '9928[1-5]'), months
    FROM mm
  UNION ALL SELECT 'observation-stays-per-1000', (SELECT count(*) FROM line WHERE revenue LIKE '0762'), months FROM mm
  UNION ALL SELECT unnest(['snf-admissions-per-1000', 'snf-days-per-1000']),
    (SELECT count(*) FROM line WHERE place IN ('31', '32')), months FROM mm
  UNION ALL SELECT unnest(['office-visits-per-1000', 'office-visits-per-member']),
    (SELECT count(*) FROM line WHERE service SIMILAR TO '992(0|1)[1-5]'), months FROM mm
  UNION ALL SELECT 'urgent-care-visits-per-1000',
    (SELECT count(DISTINCT (patient, day, clinician)) FROM line WHERE NOT inpatient AND place = '20'), months FROM mm
  UNION ALL SELECT 'ambulatory-visits-per-1000',
    (SELECT count(DISTINCT (patient, day, clinician)) FROM line WHERE NOT inpatient AND place IN ('19', '20')), months
    FROM mm
  UNION ALL SELECT unnest(['readmissions-30-day', 'readmissions-30-day-all']), count(*) FILTER (gap BETWEEN 0 AND 30),
    count(*) FROM ind
  UNION ALL SELECT 'follow-up-' || k || '-day', 0, (SELECT count(*) FROM idx WHERE d + k <= $known)
    FROM (VALUES (7), (14), (30)) v (k)
  UNION ALL SELECT unnest(['pqi-01', 'pqi-03', 'pqi-07', 'pqi-08', 'pqi-11', 'pqi-12', 'pqi-14', 'pqi-16', 'pqi-90',
    'pqi-91', 'pqi-92', 'pqi-93']), 0, adult FROM mm
  UNION ALL SELECT 'pqi-05', 0, older FROM mm
  UNION ALL SELECT 'pqi-15', 0, adult - older FROM mm
  UNION ALL SELECT 'high-cost-members-per-1000', count(*) FILTER (paid >= 100000), count(*) FROM spent
  UNION ALL SELECT 'high-cost-share', coalesce(sum(paid) FILTER (paid >= 100000), 0), sum(paid) FROM spent
  UNION ALL SELECT 'top-1-percent-share', sum(paid) FILTER (r <= ceil(n / 100.0)), sum(paid) FROM ranked
  UNION ALL SELECT 'top-5-percent-share', sum(paid) FILTER (r <= ceil(n / 20.0)), sum(paid) FROM ranked
)
"""

Pairs = dict[str, tuple[Decimal, Decimal | None]]


def by_sql(folder: Path, year: int, whom: str = "TRUE") -> Pairs:
    """Numerator and denominator of each metric, of patients for whom a condition holds."""
    with duckdb.connect() as connection:
        connection.execute(_READ.format(folder=folder))
        connection.execute(_STAYS)
        newest = connection.execute("SELECT max(day) FROM item").fetchall()[0][0]
        days = {"start": f"{year}-01-01", "end": f"{year}-12-31", "known": str(max(str(newest), f"{year}-12-31"))}
        rows = connection.execute(_METRICS.format(whom=whom), days).fetchall()
    return {name: (Decimal(str(n)), None if d is None else Decimal(str(d))) for name, n, d in rows}


def by_gateway(folder: Path, year: int, data: Path) -> dict[str | None, Pairs]:
    """The same of the gateway, of everybody and by sex; categories are named beside their metric."""
    from datetime import date

    from fhir_gateway.config import Settings
    from fhir_gateway.factory import Gateway
    from fhir_gateway.jobs.pull import pull_files
    from fhir_gateway.jobs.utilization import compute

    gateway = Gateway(Settings(data_dir=data))
    pull_files(gateway, [folder / f"{name}.ndjson.gz" for name in TYPES], "synthea")
    found = compute(gateway, (date(year, 1, 1), date(year, 12, 31)), dimensions=("sex",))
    pairs: dict[str | None, Pairs] = {}
    for row in found.utilization.table.to_pylist():
        name = f"{row['metric']} {row['category']}" if row["category"] else row["metric"]
        pairs.setdefault(row["value"], {})[name] = row["numerator"], row["denominator"]
    return pairs


def main(folder: Path, year: int) -> None:
    """Print metric, ours, theirs."""
    theirs = by_sql(folder, year)
    with tempfile.TemporaryDirectory() as data:
        ours = by_gateway(folder, year, Path(data))[None]
    differing = 0
    for name in sorted({*ours, *theirs}):
        same = ours.get(name) == theirs.get(name)
        differing += not same
        shown = [" / ".join(f"{one:,.2f}" for one in pair if one is not None) if pair else "-" for pair in
                 (ours.get(name), theirs.get(name))]  # fmt: skip
        print(f"{name:42} {shown[0]:>26} {shown[1]:>26} {'' if same else '<- differs'}")
    print(f"{differing} differ")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 2018)
