-- Claims as tables, in the order they run. Sections are split at "-- section:". Input: claim_rows (rid, key, id, member,
-- current, the columns of columns.py), directory, patients, coverages, attributed, denied, submission (day or
-- null); macros of lake/macros.sql.

-- section: macros
CREATE MACRO is_procedure(s) AS s IN (
  'http://www.ama-assn.org/go/cpt', 'urn:oid:2.16.840.1.113883.6.12', 'urn:oid:2.16.840.1.113883.6.285',
  'http://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets', 'https://www.cms.gov/Medicare/Coding/HCPCSReleaseCodeSets');
CREATE MACRO is_icd10cm(s) AS s IN ('http://hl7.org/fhir/sid/icd-10-cm', 'urn:oid:2.16.840.1.113883.6.90');
CREATE MACRO is_ndc(s) AS s IN ('http://hl7.org/fhir/sid/ndc', 'urn:oid:2.16.840.1.113883.6.69');
CREATE MACRO plain(c) AS nullif(upper(replace(replace(c, '.', ''), ' ', '')), '');
CREATE MACRO digit(n, i) AS CAST(substr(n, i, 1) AS INTEGER);
CREATE MACRO doubled(d) AS CASE WHEN d > 4 THEN 2 * d - 9 ELSE 2 * d END;
-- Luhn over 80840 and the ten digits; the prefix adds 24 (CMS, Requirements for NPI and check digit)
CREATE MACRO is_npi(n) AS CASE WHEN regexp_matches(n, '^[12][0-9]{9}$') THEN
    (24 + doubled(digit(n, 1)) + digit(n, 2) + doubled(digit(n, 3)) + digit(n, 4) + doubled(digit(n, 5)) + digit(n, 6)
      + doubled(digit(n, 7)) + digit(n, 8) + doubled(digit(n, 9)) + digit(n, 10)) % 10 = 0
  ELSE FALSE END;
-- calendar months that lie whole between the months of two days
CREATE MACRO full_months(a, b) AS datediff('month', a, b) - 1;
CREATE MACRO age(birth, day) AS date_diff('year', birth, day)
  - CASE WHEN (month(day), day(day)) < (month(birth), day(birth)) THEN 1 ELSE 0 END;
CREATE MACRO is_visit(c) AS -- evaluation and management
  c BETWEEN '99202' AND '99215' OR c BETWEEN '99221' AND '99239' OR c BETWEEN '99281' AND '99285'
  OR c BETWEEN '99304' AND '99316' OR c BETWEEN '99341' AND '99350';
CREATE MACRO at_item(position, element) AS 'Claim.item[' || position || '].' || element;

-- section: claims
CREATE TABLE claim AS
WITH opened AS (
  SELECT rid, key, id, member, current, status, use,
    type.coding[1].code AS kind,
    first_day(created) AS created, first_day(billablePeriod.start) AS period_from,
    final_day(coalesce(billablePeriod.end, billablePeriod.start)) AS period_to,
    CASE WHEN provider.identifier.system = npi_system() THEN provider.identifier.value END AS given_npi,
    CASE WHEN provider.identifier.system = tin_system() THEN provider.identifier.value END AS given_tin,
    typed_reference(provider.reference) AS provider_reference,
    list_filter([insurer.identifier.value, typed_reference(insurer.reference), insurer.display],
      lambda x: x IS NOT NULL) AS insurers,
    total.value AS total, total.currency AS currency,
    list_filter(supportingInfo, lambda x: list_contains(list_transform(x.category.coding, lambda y: y.code), 'typeofbill'))[1]
      .code.coding[1].code AS bill,
    list_filter(flatten(list_transform(supportingInfo, lambda x: coalesce(x.code.coding, []))),
      lambda x: x.system = 'https://codesystem.x12.org/005010/1325')[1].code AS stated_frequency,
    insurance, related, identifier,
    list_filter(insurance, lambda x: x.focal)[1] AS focal,
    coalesce(len(item), 0) AS line_count, coalesce(len(diagnosis), 0) AS diagnosis_count
  FROM claim_rows
)
SELECT o.* EXCLUDE (given_npi, given_tin, bill),
  coalesce(o.given_npi, d.npi) AS npi, replace(coalesce(o.given_tin, d.tin), '-', '') AS tin,
  bill, ltrim(bill, '0') AS bill_type, -- 0131 is 131
  coalesce(stated_frequency, CASE WHEN kind = 'institutional' THEN right(bill, 1) END) AS frequency,
  kind = 'institutional' AND ltrim(bill, '0')[1:2] IN ('11', '12', '18', '21', '41') AS is_inpatient,
  coalesce((SELECT day FROM submission), o.created) AS submitted
FROM opened o LEFT JOIN directory d ON d.reference = o.provider_reference;

CREATE TABLE line AS
WITH opened AS (
  SELECT rid, unnest(item) AS i, generate_subscripts(item, 1) - 1 AS position FROM claim_rows
), read_out AS (
  SELECT rid, position, i.sequence AS sequence, i.careTeamSequence AS team, i.diagnosisSequence AS pointers,
    first_day(coalesce(i.servicedDate, i.servicedPeriod.start)) AS stated_from,
    final_day(coalesce(i.servicedDate, i.servicedPeriod.end, i.servicedPeriod.start)) AS stated_to,
    plain(list_filter(i.productOrService.coding, lambda x: is_procedure(x.system))[1].code) AS code,
    i.revenue.coding[1].code AS revenue, i.locationCodeableConcept.coding[1].code AS place,
    list_filter(list_transform(i.modifier, lambda x: plain(x.coding[1].code)), lambda x: x IS NOT NULL) AS modifiers,
    list_transform(list_filter(list_concat(coalesce(i.productOrService.coding, []),
      flatten(list_transform(coalesce(i.detail, []), lambda x: coalesce(x.productOrService.coding, [])))),
      lambda x: is_ndc(x.system)), lambda x: x.code) AS ndcs,
    i.quantity.value AS units, i.unitPrice.value AS price, i.factor AS factor, i.net.value AS net,
    i.net.currency AS currency
  FROM opened
)
SELECT r.* EXCLUDE (modifiers), coalesce(r.modifiers, []) AS modifiers,
  coalesce(r.stated_from, c.period_from) AS service_from, coalesce(r.stated_to, r.stated_from, c.period_to) AS service_to,
  c.current, c.member, c.kind
FROM read_out r JOIN claim c USING (rid);

CREATE TABLE team AS
SELECT t.rid, t.position, m.sequence AS sequence,
  coalesce(CASE WHEN m.provider.identifier.system = npi_system() THEN m.provider.identifier.value END, d.npi) AS npi,
  list_filter(m.qualification.coding, lambda x: x.system = 'http://nucc.org/provider-taxonomy')[1].code AS taxonomy
FROM (SELECT rid, unnest(careTeam) AS m, generate_subscripts(careTeam, 1) - 1 AS position FROM claim_rows) t
LEFT JOIN directory d ON d.reference = typed_reference(t.m.provider.reference);

CREATE TABLE diagnosis AS
WITH opened AS (
  SELECT rid, unnest(diagnosis) AS d, generate_subscripts(diagnosis, 1) - 1 AS position FROM claim_rows WHERE current
), read_out AS (
  SELECT rid, position, d.sequence AS sequence,
    plain(list_filter(d.diagnosisCodeableConcept.coding, lambda x: is_icd10cm(x.system))[1].code) AS code,
    list_contains(flatten(list_transform(d.type, lambda x: list_transform(x.coding, lambda y: y.code))), 'principal')
      AS said_principal,
    coalesce(len(d.type), 0) = 0 AS untyped
  FROM opened
)
SELECT r.rid, r.position, r.sequence, r.code,
  coalesce(said_principal, FALSE) OR (NOT bool_or(coalesce(said_principal, FALSE)) OVER here AND untyped
    AND r.position = min(r.position) OVER here) AS is_principal,
  c.period_from AS service_from
FROM read_out r JOIN claim c USING (rid)
WINDOW here AS (PARTITION BY r.rid);

CREATE TABLE modifier AS
SELECT rid, line_position AS position, place, modifier FROM (
  SELECT rid, position AS line_position, unnest(modifiers) AS modifier, generate_subscripts(modifiers, 1) - 1 AS place
  FROM line WHERE current
);

-- who rendered each line: the member of the care team it names, else the biller
CREATE TABLE rendered AS
SELECT l.rid, l.position, any_value(t.npi ORDER BY t.position) FILTER (t.npi IS NOT NULL) AS npi
FROM line l JOIN team t ON t.rid = l.rid AND (coalesce(len(l.team), 0) = 0 OR list_contains(l.team, t.sequence))
GROUP BY ALL;

-- claims that others say they take the place of
CREATE TABLE superseded AS
WITH named AS (
  SELECT rid, member, frequency, unnest(related) AS r FROM claim WHERE use = 'claim' AND len(related) > 0
), before AS (
  SELECT rid, member, frequency, typed_reference(r.claim.reference) AS reference,
    coalesce(r.reference.value, r.claim.identifier.value) AS number
  FROM named
  WHERE list_contains(list_transform(r.relationship.coding, lambda x: x.code), 'prior') OR frequency IN ('7', '8')
), numbers AS (
  SELECT rid, member, unnest(identifier).value AS number FROM claim
)
SELECT DISTINCT b.rid AS by, c.rid FROM before b JOIN claim c
  ON c.member = b.member AND c.rid <> b.rid AND b.reference IN ('Claim/' || c.key, 'Claim/' || c.id)
UNION
SELECT DISTINCT b.rid, n.rid FROM before b JOIN numbers n
  ON n.member = b.member AND n.rid <> b.rid AND n.number = b.number;

-- what was billed, of claims that stand: no drafts, no estimates, nothing void or replaced; what the payer denied is
-- nothing that another claim may collide with, or rest on
CREATE TABLE billed AS
SELECT l.rid, l.position, l.current, l.member, l.kind, l.code, l.modifiers, l.service_from, l.service_to, l.units, l.place,
  l.revenue, coalesce(r.npi, c.npi) AS npi, c.npi AS biller, c.created, c.key, c.is_inpatient,
  array_to_string(list_sort(l.modifiers), ' ') AS modifier_text,
  coalesce(c.id IN (SELECT claim FROM denied WHERE line IS NULL)
    OR (c.id, l.sequence) IN (SELECT (claim, line) FROM denied WHERE line IS NOT NULL), FALSE) AS denied
FROM line l JOIN claim c USING (rid) LEFT JOIN rendered r ON r.rid = l.rid AND r.position = l.position
WHERE coalesce(c.use, 'claim') = 'claim' AND coalesce(c.frequency, '1') <> '8'
  AND (coalesce(c.status, 'active') = 'active' OR c.status = 'draft' AND c.current)
  AND l.rid NOT IN (SELECT rid FROM superseded) AND l.member IS NOT NULL AND l.service_from IS NOT NULL;

-- claims to be judged: not yet submitted ones are drafts
CREATE VIEW c AS SELECT * FROM claim
  WHERE current AND coalesce(use, 'claim') = 'claim' AND coalesce(status, 'active') IN ('active', 'draft');
CREATE VIEW l AS SELECT line.* EXCLUDE (current), c.npi AS biller FROM line JOIN c USING (rid) WHERE line.current;
CREATE VIEW b AS SELECT * FROM billed WHERE current;
-- the patient as one: of those that say something, the first
CREATE TABLE person AS
SELECT member, min(birth) AS birth, min(sex) AS sex, count(DISTINCT birth) > 1 OR count(DISTINCT sex) > 1 AS differs
FROM patients GROUP BY member;
-- names that the payer of a claim is known by
CREATE TABLE payer AS
SELECT DISTINCT rid, payer FROM (
  SELECT rid, unnest(insurers) AS payer FROM c
  UNION ALL SELECT rid, focal.coverage.display FROM c
  UNION ALL SELECT c.rid, unnest(v.payers) FROM c JOIN coverages v
    ON v.member = c.member AND v.coverage = typed_reference(c.focal.coverage.reference)
) WHERE payer IS NOT NULL
