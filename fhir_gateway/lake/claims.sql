-- Set-based queries of fhir_gateway.lake.claims, in the order they run. Sections are split at "-- section:".

-- section: macros
CREATE MACRO is_denied(adjudications) AS
  len(list_filter(coalesce(adjudications, []), lambda x: list_contains(codes_of(x.reason), 'denied'))) > 0;
CREATE MACRO number_in(identifiers, wanted, tag) AS
  list_filter(identifiers, lambda x: x.value IS NOT NULL AND (x.system = wanted OR
    list_contains(list_transform(coalesce(x.type.coding, []), lambda y: y.code), tag)))[1].value;
-- number a reference itself carries: by identifier, or conditional (Practitioner?identifier=system|1234567893)
CREATE MACRO number_of(r, wanted) AS coalesce(
  CASE WHEN r.identifier.system = wanted THEN r.identifier.value END,
  nullif(regexp_extract(r.reference, '\?identifier=' || regexp_escape(wanted) || '\|([0-9A-Za-z\-]+)$', 1), ''));
CREATE MACRO digits(n) AS nullif(replace(n, '-', ''), '');
CREATE MACRO first_coding(concepts) AS
  list_filter(flatten(list_transform(coalesce(concepts, []), lambda x: coalesce(x.coding, []))),
    lambda x: x.code IS NOT NULL)[1];

-- section: providers
WITH orgs AS (
  SELECT _source, 'Organization/' || id AS reference, number_in(identifier, npi_system(), 'NPI') AS npi,
    digits(number_in(identifier, tin_system(), 'TAX')) AS tin, name,
    identifier[1].system AS system, identifier[1].value AS value
  FROM organizations
), people AS (
  SELECT _source, 'Practitioner/' || id AS reference, number_in(identifier, npi_system(), 'NPI') AS npi,
    first_coding(list_transform(qualification, lambda x: x.code)) AS specialty, name[1].family AS name
  FROM practitioners
), by_npi AS (
  SELECT _source, npi, min(reference) AS reference FROM people WHERE npi IS NOT NULL GROUP BY ALL
), by_identifier AS (
  SELECT _source, system, value, min(reference) AS reference FROM orgs WHERE value IS NOT NULL GROUP BY ALL
), linked AS (
  SELECT r._source, 'PractitionerRole/' || r.id AS reference,
    coalesce(typed_reference(r.practitioner.reference), n.reference) AS person,
    coalesce(number_of(r.practitioner, npi_system()), number_in(r.identifier, npi_system(), 'NPI')) AS npi,
    coalesce(typed_reference(r.organization.reference), o.reference) AS organization,
    coalesce(first_coding(r.specialty), first_coding(r.code)) AS specialty
  FROM roles r
  LEFT JOIN by_npi n ON n._source = r._source AND n.npi = number_of(r.practitioner, npi_system())
  LEFT JOIN by_identifier o ON o._source = r._source AND o.system = r.organization.identifier.system
    AND o.value = r.organization.identifier.value
), first_role AS (
  SELECT _source, person, arg_min(organization, reference) AS organization, arg_min(specialty, reference) AS specialty
  FROM linked WHERE person IS NOT NULL GROUP BY ALL
), entries AS (
  SELECT p._source, p.reference, p.npi, f.organization, coalesce(f.specialty, p.specialty) AS specialty, p.name
  FROM people p LEFT JOIN first_role f ON f._source = p._source AND f.person = p.reference
  UNION ALL
  SELECT l._source, l.reference, coalesce(l.npi, p.npi), l.organization, coalesce(l.specialty, p.specialty), p.name
  FROM linked l LEFT JOIN people p ON p._source = l._source AND p.reference = l.person
  UNION ALL
  SELECT _source, reference, npi, reference, NULL, name FROM orgs
)
SELECT e._source AS source, e.reference, e.npi, o.tin, e.organization, e.specialty.code AS specialty,
  e.specialty.system AS specialty_system, e.name
FROM entries e LEFT JOIN orgs o ON o._source = e._source AND o.reference = e.organization
ORDER BY source, reference

-- section: naming
WITH others AS (
  SELECT DISTINCT source, reference
  FROM ((FROM now EXCEPT FROM before) UNION ALL (FROM before EXCEPT FROM now))
), named AS (
  SELECT _member, _source, unnest(
    [typed_reference(provider.reference), typed_reference(insurer.reference)]
    || list_transform(coalesce(careTeam, []), lambda x: typed_reference(x.provider.reference))) AS reference
  FROM eobs
  UNION ALL
  SELECT _member, _source, typed_reference(provider.reference) FROM claim_rows
)
SELECT DISTINCT _member FROM named n JOIN others o ON o.source = n._source AND o.reference = n.reference
WHERE _member IS NOT NULL ORDER BY _member

-- section: submitters
CREATE TABLE submitters AS
SELECT _source, _member, 'Claim/' || id AS claim,
  CASE WHEN provider.reference LIKE '%Organization/%' THEN typed_reference(provider.reference) END AS organization,
  list_distinct(list_transform(flatten(list_transform(coalesce(item, []), lambda x: coalesce(x.encounter, []))),
    lambda x: typed_reference(x.reference))) AS encounters
FROM claim_rows;

-- section: lines
CREATE TABLE lines AS
WITH items AS (
  SELECT rid, unnest(CASE WHEN len(item) > 0 THEN item ELSE [NULL] END) AS i,
    generate_subscripts(CASE WHEN len(item) > 0 THEN item ELSE [NULL] END, 1) AS position
  FROM eobs
)
SELECT rid, position, coalesce(i.sequence, position) AS line, i.careTeamSequence AS team,
  first_day(coalesce(i.servicedDate, i.servicedPeriod.start)) AS service_from,
  final_day(coalesce(i.servicedDate, i.servicedPeriod.end, i.servicedPeriod.start)) AS service_thru,
  i.productOrService.coding[1].system AS procedure_system, i.productOrService.coding[1].code AS procedure,
  i.locationCodeableConcept.coding[1].code AS place_of_service, i.revenue.coding[1].code AS revenue_code,
  i.quantity.value AS units, coalesce(i.adjudication, []) AS adjudication, is_denied(i.adjudication) AS denied,
  list_transform(coalesce(i.encounter, []), lambda x: typed_reference(x.reference)) AS encounters
FROM items;

-- level: 0 line, 100 total, 200 header adjudication, 300 payment; the lowest level and rank that states an amount wins
CREATE TABLE amounts AS
WITH stated AS (
  SELECT rid, position, a.category AS category, a.amount.value AS value, 0 AS level
  FROM (SELECT rid, position, unnest(adjudication) AS a FROM lines)
  UNION ALL
  SELECT rid, 1, t.category, t.amount.value, 100 FROM (SELECT rid, unnest(total) AS t FROM eobs)
  UNION ALL
  SELECT rid, 1, a.category, a.amount.value, 200 FROM (SELECT rid, unnest(adjudication) AS a FROM eobs)
), coded AS (
  SELECT rid, position, unnest(codes_of(category)) AS code, value, level FROM stated WHERE value IS NOT NULL
), ranked AS (
  SELECT rid, position, c.amount, level + c.rank AS rank, sum(value) AS value
  FROM coded JOIN categories c USING (code) GROUP BY ALL
  UNION ALL
  SELECT rid, 1, 'paid', 300, payment.amount.value FROM eobs WHERE payment.amount.value IS NOT NULL
), chosen AS (
  SELECT rid, position, amount, arg_min(value, rank) AS value, min(rank) >= 100 AS is_header,
    min(min(rank)) OVER (PARTITION BY rid, amount) AS best
  FROM ranked GROUP BY rid, position, amount
)
SELECT rid, position,
  any_value(value) FILTER (amount = 'submitted') AS submitted,
  any_value(value) FILTER (amount = 'allowed') AS allowed,
  any_value(value) FILTER (amount = 'paid') AS paid,
  any_value(value) FILTER (amount = 'patient') AS patient,
  coalesce(bool_or(is_header) FILTER (amount IN ('paid', 'allowed')), FALSE) AS is_header
FROM chosen
WHERE NOT is_header OR best >= 100 -- a header amount only where no line of the claim states that amount
GROUP BY rid, position;

-- who rendered the line: the care team members it names (all of them when it names none), best role first
CREATE TABLE rendering AS
WITH team AS (
  SELECT rid, t.sequence AS sequence, typed_reference(t.provider.reference) AS reference,
    number_of(t.provider, npi_system()) AS npi,
    coalesce(list_filter(t.qualification.coding, lambda x: x.system LIKE '%prvdr_spclty')[1].code,
      t.qualification.coding[1].code) AS specialty, -- the CMS specialty of the line, else whatever is there first
    CASE WHEN len(codes_of(t.role)) = 0 THEN 6
      ELSE list_min(list_transform(codes_of(t.role), lambda x: CASE x
        WHEN 'rendering' THEN 1 WHEN 'performing' THEN 1 WHEN 'primary' THEN 2 WHEN 'attending' THEN 3
        WHEN 'operating' THEN 4 WHEN 'otheroperating' THEN 5 ELSE 9 END)) END AS rank
  FROM (SELECT rid, unnest(careTeam) AS t FROM eobs)
)
SELECT l.rid, l.position,
  arg_min({'reference': t.reference, 'npi': t.npi, 'specialty': t.specialty},
    t.rank * 100000 + coalesce(t.sequence, 0)) AS who
FROM lines l
JOIN team t ON t.rid = l.rid AND (coalesce(len(l.team), 0) = 0 OR list_contains(l.team, t.sequence))
WHERE t.rank < 9
GROUP BY l.rid, l.position

-- section: links
CREATE TABLE all_identifiers AS
SELECT rid, _source, _member, system, value, list_contains(codes, 'uc') OR system LIKE '%/clm_id' AS is_claim,
  regexp_matches(system, '(claim-group|clm_grp_id)$') AS is_group, len(codes) = 0 AS is_untyped
FROM (
  SELECT rid, _source, _member, i.system AS system, i.value AS value, codes_of(i.type) AS codes
  FROM (SELECT rid, _source, _member, unnest(identifier) AS i FROM eobs)
)
WHERE value IS NOT NULL
  AND NOT regexp_matches(value, '^(9+|0+)$'); -- only nines or zeros: a filler of claim systems, not a claim

CREATE TABLE identifiers AS
SELECT rid, _source, _member, system, value, is_claim FROM all_identifiers WHERE is_claim OR is_group;

CREATE TABLE named AS
SELECT rid, _source, _member, typed_reference(r.claim.reference) AS reference, r.reference.value AS value,
  list_contains(codes_of(r.relationship), 'replacedby') AS is_successor
FROM (SELECT rid, _source, _member, unnest(related) AS r FROM eobs)
WHERE NOT list_contains(codes_of(r.relationship), 'associated');

-- a is a later version of b
CREATE TABLE supersedes AS
SELECT DISTINCT CASE WHEN is_successor THEN other ELSE rid END AS a, CASE WHEN is_successor THEN rid ELSE other END AS b
FROM (
  SELECT n.rid, i.rid AS other, n.is_successor FROM named n
  JOIN identifiers i ON i._source = n._source AND i._member = n._member AND i.value = n.value AND i.is_claim
  UNION ALL
  SELECT n.rid, e.rid, n.is_successor FROM named n
  JOIN eobs e ON e._source = n._source AND e._member = n._member AND n.reference = 'ExplanationOfBenefit/' || e.id
  UNION ALL
  SELECT n.rid, e.rid, n.is_successor FROM named n
  JOIN eobs e ON e._source = n._source AND e._member = n._member AND n.reference = typed_reference(e.claim.reference)
)
WHERE rid <> other;

CREATE TABLE links AS
SELECT a, b FROM supersedes
UNION ALL
SELECT rid, min(rid) OVER (PARTITION BY _source, _member, is_claim, system, value) FROM identifiers

-- section: copies
CREATE TABLE adjudicated AS
WITH net AS (
  SELECT rid, coalesce(nullif(sum(paid), 0), nullif(sum(allowed), 0), sum(submitted), 0) AS net
  FROM amounts GROUP BY rid
)
SELECT *, status IN ('active', 'cancelled') AS is_judged
FROM (
  SELECT e.rid, e._source, e._member, e.id, e.created, e._last_updated, coalesce(n.net, 0) AS net,
    CASE WHEN coalesce(e.use, 'claim') <> 'claim' THEN 'not-a-claim'
      WHEN coalesce(e.outcome, 'complete') IN ('error', 'queued') THEN 'not-adjudicated'
      ELSE e.status END AS status
  FROM eobs e LEFT JOIN net n USING (rid)
);

-- a and b are what two sources say of one claim
CREATE TABLE same_claim AS
WITH named AS (
  SELECT i.* FROM identifiers i JOIN adjudicated k USING (rid) WHERE k.is_judged AND k._member IS NOT NULL
), insurers AS (
  SELECT rid, unnest([
    CASE e.insurer.identifier.system WHEN npi_system() THEN 'npi' WHEN tin_system() THEN 'tin'
      ELSE e.insurer.identifier.system END || '|' || e.insurer.identifier.value,
    'npi|' || d.npi, 'tin|' || d.tin]) AS insurer, first_day(e.billablePeriod.start) AS day
  FROM eobs e LEFT JOIN directory d ON d.source = e._source AND d.reference = typed_reference(e.insurer.reference)
), untyped AS ( -- of no kind that is said: with the insurer and the day it is the claim's all the same
  SELECT i.rid, i._source, i._member, i.system, i.value, s.insurer, s.day FROM all_identifiers i
  JOIN adjudicated k USING (rid) JOIN insurers s USING (rid) WHERE i.is_untyped AND k.is_judged AND k._member IS NOT NULL
), numbered AS (
  SELECT n.rid, n._source, n._member, n.value, s.insurer, s.day FROM named n JOIN insurers s USING (rid) WHERE n.is_claim
)
SELECT a.rid AS a, b.rid AS b FROM named a JOIN named b ON a._member = b._member AND a._source < b._source
  AND a.system = b.system AND a.value = b.value AND a.is_claim = b.is_claim
UNION
SELECT a.rid, b.rid FROM numbered a JOIN numbered b ON a._member = b._member AND a._source < b._source
  AND a.insurer = b.insurer AND a.value = b.value AND (a.day = b.day) IS NOT FALSE
UNION
SELECT a.rid, b.rid FROM untyped a JOIN untyped b ON a._member = b._member AND a._source < b._source
  AND a.insurer = b.insurer AND a.system = b.system AND a.value = b.value AND a.day = b.day

-- section: versions
CREATE TABLE standing AS -- whose words count of a claim that several sources sent
WITH senders AS (
  SELECT g.claim, k._source, max(first_day(k.created)) AS newest, count(*) AS versions
  FROM adjudicated k JOIN grouping g USING (rid) WHERE k.is_judged GROUP BY ALL
)
SELECT claim, _source AS source, count(*) OVER (PARTITION BY claim) - 1 AS copies
FROM senders LEFT JOIN precedence p ON p.source = _source
QUALIFY row_number() OVER (PARTITION BY claim
  ORDER BY coalesce(p.rank, 1000000), newest DESC NULLS LAST, versions DESC, _source) = 1;

CREATE TABLE versions AS
WITH placed AS (
  SELECT k.*, g.component, g.claim, s.copies, k.is_judged AND k._source <> s.source AS is_copy
  FROM adjudicated k JOIN grouping g USING (rid) LEFT JOIN standing s USING (claim)
), base AS (
  SELECT * FROM placed WHERE is_copy IS NOT TRUE
), known AS (
  SELECT * FROM base WHERE is_judged
), explicit AS ( -- reversals that name what they reverse
  SELECT r.rid AS reversal, min(v.rid) AS original
  FROM known r JOIN supersedes s ON s.a = r.rid JOIN known v ON v.rid = s.b
  WHERE r.net < 0 AND v.net = -r.net
  GROUP BY r.rid
), unpaired AS ( -- the n-th reversal of an amount cancels the n-th version of that amount
  SELECT rid, component, net, row_number() OVER (PARTITION BY component, net ORDER BY created, _last_updated, id) AS n
  FROM known
  WHERE net <> 0 AND rid NOT IN (SELECT reversal FROM explicit UNION ALL SELECT original FROM explicit)
), paired AS (
  SELECT reversal, original FROM explicit
  UNION ALL
  SELECT r.rid, v.rid FROM unpaired r
  JOIN unpaired v ON v.component = r.component AND r.net < 0 AND v.net = -r.net AND v.n = r.n
), roles AS (
  SELECT DISTINCT unnest([reversal, original]) AS rid, unnest(['reversal', 'reversed']) AS role FROM paired
), succeeded AS (
  SELECT DISTINCT s.b AS rid FROM supersedes s JOIN known k ON k.rid = s.a WHERE k.net >= 0
), ordered AS (
  SELECT b.*, r.role,
    row_number() OVER (PARTITION BY component ORDER BY s.rid IS NULL, created, _last_updated, id) AS version,
    first_value(b._source || '/' || b.id)
      OVER (PARTITION BY component ORDER BY created, _last_updated, id) AS claim_group,
    b.is_judged AND b.net >= 0 AS decides
  FROM base b LEFT JOIN roles r USING (rid) LEFT JOIN succeeded s USING (rid)
), judged AS (
  SELECT *, max(version) FILTER (decides) OVER (PARTITION BY component) AS decider FROM ordered
)
SELECT rid, claim_group, version, CASE
    WHEN status <> 'active' THEN status
    WHEN role IS NOT NULL THEN role
    WHEN net < 0 THEN 'adjustment'
    WHEN version = decider THEN 'active'
    ELSE 'superseded' END AS version_status, CASE WHEN is_judged THEN coalesce(copies, 0) ELSE 0 END AS copies
FROM judged
UNION ALL
SELECT c.rid, o.claim_group, row_number() OVER (PARTITION BY c.component ORDER BY created, _last_updated, id), 'copy', 0
FROM placed c JOIN (SELECT claim, min(claim_group) AS claim_group FROM judged WHERE is_judged GROUP BY claim) o USING (claim)
WHERE c.is_copy

-- section: output
WITH info AS (
  SELECT rid, list_contains(codes_of(s.category), 'typeofbill') AS is_bill_type,
    list_contains(codes_of(s.category), 'drg') AS is_drg, s.code.coding[1].code AS code,
    list_contains(codes_of(s.category), 'admissionperiod') AS is_admission,
    list_has_any(codes_of(s.category), ['discharge-status', 'ptnt_dschrg_stus_cd']) AS is_status,
    list_has_any(codes_of(s.category), ['admtype', 'clm_ip_admsn_type_cd']) AS is_admission_type,
    list_contains(codes_of(s.category), 'nch_bene_dschrg_dt') AS is_discharge,
    first_day(s.timingPeriod.start) AS opened, final_day(coalesce(s.timingPeriod.end, s.timingDate)) AS closed
  FROM (SELECT rid, unnest(supportingInfo) AS s FROM eobs)
), claim_info AS (
  SELECT rid, any_value(ltrim(code, '0')) FILTER (is_bill_type) AS bill_type, any_value(code) FILTER (is_drg) AS drg,
    bool_or(is_admission) AS admitted, min(opened) FILTER (is_admission) AS admitted_on,
    max(closed) FILTER (is_admission OR is_discharge) AS discharged_on,
    any_value(lpad(code, 2, '0')) FILTER (is_status) AS discharge_status,
    any_value(code) FILTER (is_admission_type) AS admission_type
  FROM info GROUP BY rid
), diagnoses AS (
  SELECT rid, d.packageCode.coding[1].code AS drg, d.diagnosisCodeableConcept.coding[1].code AS code,
    (CASE WHEN list_contains(flatten(list_transform(coalesce(d.type, []), lambda x: codes_of(x))), 'principal')
      THEN 0 ELSE 1000 END) + d.sequence AS rank
  FROM (SELECT rid, unnest(diagnosis) AS d FROM eobs)
), principal AS (
  SELECT rid, any_value(drg) AS drg, arg_min(code, rank) FILTER (rank < 1000 OR rank = 1001) AS diagnosis,
    list(code ORDER BY rank) FILTER (code IS NOT NULL) AS diagnoses
  FROM diagnoses GROUP BY rid
), done AS (
  SELECT rid, list(p.procedureCodeableConcept.coding[1].code ORDER BY p.sequence)
    FILTER (p.procedureCodeableConcept.coding[1].code IS NOT NULL) AS procedures
  FROM (SELECT rid, unnest(procedure) AS p FROM eobs) GROUP BY rid
), visited AS ( -- encounters that lines of the claim name, else those of the claim that it answers
  SELECT rid, unnest(CASE WHEN len(own) > 0 THEN own ELSE theirs END) AS reference
  FROM (SELECT rid, list_distinct(flatten(list(encounters))) AS own FROM lines GROUP BY rid) l
  JOIN (SELECT rid, _source, _member, typed_reference(claim.reference) AS claim FROM eobs) e USING (rid)
  LEFT JOIN (SELECT _source, _member, claim, encounters AS theirs FROM submitters) s USING (_source, _member, claim)
), stayed AS ( -- when the inpatient ones took place, else when any did
  SELECT v.rid, coalesce(min(opened) FILTER (inpatient), min(opened)) AS opened,
    coalesce(max(closed) FILTER (inpatient), CASE WHEN NOT bool_or(inpatient) THEN max(closed) END) AS closed
  FROM visited v JOIN eobs e USING (rid) JOIN (
    SELECT _source, _member, 'Encounter/' || id AS reference, first_day(period.start) AS opened,
      final_day(period.end) AS closed, coalesce(class.code IN ('IMP', 'ACUTE', 'NONAC'), FALSE) AS inpatient
    FROM encounters WHERE coalesce(status NOT IN ('cancelled', 'entered-in-error', 'planned'), TRUE)
  ) n ON n._source = e._source AND n._member = e._member AND n.reference = v.reference
  GROUP BY v.rid
), header AS (
  SELECT e.rid, e._member, e._source, e.id, first_day(billablePeriod.start) AS claim_from,
    final_day(coalesce(billablePeriod.end, billablePeriod.start)) AS claim_thru,
    first_day(coalesce(payment.date, created)) AS payment_date, i.bill_type,
    lower(coalesce(subType.coding[1].code, '')) AS sub_type,
    list_transform(codes_of(e.type), lambda x: lower(x)) AS types, coalesce(i.admitted, FALSE) AS says_admitted,
    coalesce(i.drg, p.drg) AS drg, p.diagnosis, typed_reference(e.provider.reference) AS billing,
    number_of(e.provider, npi_system()) AS billing_npi, digits(number_of(e.provider, tin_system())) AS billing_tin,
    typed_reference(e.claim.reference) AS claim,
    coalesce(list_filter(e.insurance, lambda x: x.focal)[1], e.insurance[1]).coverage.reference AS coverage,
    coalesce(e.insurer.reference, e.insurer.display) AS insurer, is_denied(adjudication) AS denied, i.admitted_on,
    i.discharged_on, n.opened AS stay_opened, n.closed AS stay_closed, i.discharge_status, i.admission_type, p.diagnoses, d.procedures
  FROM eobs e LEFT JOIN claim_info i USING (rid) LEFT JOIN principal p USING (rid) LEFT JOIN done d USING (rid)
  LEFT JOIN stayed n USING (rid)
), billed AS ( -- b: the billing provider; d: the billing organization, taken from the submitted claim if need be
  SELECT h.*, coalesce(d.tin, b.tin, h.billing_tin) AS tin,
    coalesce(d.organization, s.organization, b.organization) AS organization,
    CASE WHEN h.billing LIKE 'Practitioner%' THEN coalesce(b.npi, h.billing_npi) ELSE h.billing_npi END AS person_npi,
    CASE WHEN h.billing LIKE 'Practitioner%' THEN b.specialty END AS person_specialty
  FROM header h
  LEFT JOIN directory b ON b.source = h._source AND b.reference = h.billing
  LEFT JOIN submitters s ON s._source = h._source AND s._member = h._member AND s.claim = h.claim
  LEFT JOIN directory d ON d.source = h._source
    AND d.reference = CASE WHEN h.billing LIKE 'Organization/%' THEN h.billing ELSE s.organization END
)
SELECT h._member, h._source AS source, h.id AS eob, v.claim_group, v.version, v.version_status,
  v.version_status IN ('active', 'adjustment') AS counts, v.copies, l.line,
  coalesce(l.service_from, h.claim_from) AS service_from,
  coalesce(l.service_thru, l.service_from, h.claim_thru) AS service_thru, h.claim_from, h.claim_thru,
  CASE WHEN list_has_any(h.types, ['pharmacy', 'pde']) THEN 'pharmacy'
    WHEN list_has_any(h.types, ['professional', 'carrier', 'dme']) THEN 'professional'
    WHEN list_has_any(h.types, ['oral', 'vision']) THEN list_filter(h.types, lambda x: x IN ('oral', 'vision'))[1]
    WHEN h.sub_type IN ('inpatient', 'outpatient') THEN h.sub_type
    WHEN list_has_any(h.types, ['inpatient', 'snf']) THEN 'inpatient'
    WHEN list_has_any(h.types, ['outpatient', 'hha', 'hospice']) THEN 'outpatient'
    -- NUBC type of bill: hospital, skilled nursing and residential inpatient facilities
    WHEN h.bill_type[1:2] IN ('11', '12', '18', '21', '22', '28', '41') THEN 'inpatient'
    WHEN h.bill_type IS NOT NULL THEN 'outpatient'
    WHEN h.says_admitted OR h.drg IS NOT NULL OR bool_or(l.place_of_service = '21') OVER (PARTITION BY l.rid)
      THEN 'inpatient'
    ELSE 'outpatient' END AS claim_type,
  h.bill_type, coalesce(r.who.npi, p.npi, h.person_npi) AS npi, coalesce(h.tin, p.tin) AS tin,
  coalesce(h.organization, p.organization) AS organization,
  coalesce(r.who.specialty, p.specialty, h.person_specialty) AS specialty, l.procedure_system, l.procedure,
  l.place_of_service, l.revenue_code, h.diagnosis, h.drg, a.submitted,
  coalesce(a.allowed, a.paid + a.patient) AS allowed, a.paid, a.patient,
  CASE WHEN a.rid IS NULL THEN NULL WHEN a.is_header THEN 'header' ELSE 'line' END AS amount_level,
  l.denied OR h.denied AS denied, h.payment_date, h.coverage, h.insurer, l.units,
  coalesce(h.admitted_on, CASE WHEN claim_type = 'inpatient' THEN h.stay_opened END) AS admitted,
  coalesce(h.discharged_on, CASE WHEN claim_type = 'inpatient' THEN h.stay_closed END) AS discharged,
  h.discharge_status, h.admission_type, h.diagnoses, h.procedures
FROM lines l
JOIN billed h USING (rid)
JOIN versions v USING (rid)
LEFT JOIN amounts a ON a.rid = l.rid AND a.position = l.position
LEFT JOIN rendering r ON r.rid = l.rid AND r.position = l.position
LEFT JOIN directory p ON p.source = h._source AND p.reference = r.who.reference
ORDER BY h._member, source, eob, l.line, l.position
