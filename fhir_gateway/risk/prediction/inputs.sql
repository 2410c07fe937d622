-- What scores are computed from; tables: conditions, encounters, observations, procedures (as the lake gives them),
-- lines (claim lines), claim_stays and claim_visits (risk.utilization), events (which Encounters stand for an event).

-- section: macros
CREATE TEMP MACRO day_of(text) AS try_cast(text[1:10] AS DATE);
CREATE TEMP MACRO plain(code) AS upper(replace(code, '.', ''));
-- ICD-10 begins with a letter; codes of a claim have no system in our lines
CREATE TEMP MACRO icd10(code) AS regexp_full_match(code, '[A-TV-Z][0-9][0-9A-Z]{1,5}');

-- section: counted lines
CREATE TEMP TABLE counted AS SELECT * FROM lines
WHERE counts AND NOT coalesce(denied, FALSE) AND _member IS NOT NULL;

-- section: conditions
CREATE TEMP TABLE condition_codes AS
SELECT c._member AS member, c._source || '/' || c.id AS condition,
    coalesce(day_of(c.onsetDateTime), day_of(c.onsetPeriod.start), day_of(c.recordedDate)) AS day,
    plain(coding.code) AS code, coding.system LIKE '%/icd-10%' AS is_icd,
    c.abatementDateTime IS NULL AND list_has_any(coalesce(list_transform(c.clinicalStatus.coding, lambda x: x.code), []),
        ['active', 'recurrence', 'relapse']) AS lasting
FROM conditions c, unnest(coalesce(c.code.coding, [])) AS codings(coding)
WHERE c._member IS NOT NULL AND coding.code IS NOT NULL
    AND NOT list_has_any(coalesce(list_transform(c.verificationStatus.coding, lambda x: x.code), []),
        ['refuted', 'entered-in-error']);

-- section: diagnoses
CREATE TEMP TABLE said_diagnoses AS
SELECT member, code, day, bool_or(lasting) AS lasting FROM (
SELECT member, code, day, lasting FROM condition_codes WHERE is_icd
UNION ALL
SELECT member, code, day, FALSE FROM (
    SELECT _member AS member, plain(unnest(list_append(coalesce(diagnoses, []), diagnosis))) AS code,
        coalesce(service_from, claim_from) AS day
    FROM counted)
WHERE icd10(code)) GROUP BY ALL;

-- section: uncoded
CREATE TEMP TABLE said_uncoded AS
SELECT member, count(*) AS conditions FROM (
    SELECT member, condition FROM condition_codes GROUP BY ALL HAVING NOT bool_or(is_icd)
) GROUP BY member;

-- section: encounters
CREATE TEMP TABLE visit AS
SELECT e._member AS member, e._source || '/' || e.id AS id, e.class.code AS class, day_of(e.period.start) AS first,
    day_of(e.period.end) AS last,
    coalesce(list_transform(e.priority.coding, lambda x: x.code), []) AS priority,
    coalesce(list_transform(e.hospitalization.admitSource.coding, lambda x: x.code), []) AS admit_source,
    coalesce(list_transform(e.hospitalization.dischargeDisposition.coding, lambda x: x.code), []) AS disposition
FROM encounters e JOIN events v USING (_source, id)
WHERE v.stands AND e._member IS NOT NULL AND e.status NOT IN ('entered-in-error', 'cancelled', 'planned')
    AND length(e.period.start) >= 10;

-- section: emergency
CREATE TEMP TABLE said_emergency AS
SELECT DISTINCT member, first AS day FROM visit WHERE class = 'EMER'
UNION
SELECT DISTINCT member, day FROM claim_visits WHERE kind = 'ed';

-- section: office
CREATE TEMP TABLE said_office AS
SELECT DISTINCT member, first AS day FROM visit WHERE class IN ('AMB', 'VR', 'HH')
UNION
SELECT DISTINCT member, day FROM claim_visits WHERE kind IN ('office', 'transitional');

-- section: stays of Encounters
CREATE TEMP TABLE clinical_stay AS
SELECT member, id, first AS admitted, last AS discharged,
    CASE WHEN list_has_any(priority, ['EM', 'UR']) OR list_contains(admit_source, 'emd') THEN TRUE
        WHEN list_has_any(priority, ['EL', 'R']) THEN FALSE END AS emergent,
    list_has_any(disposition, ['exp', '20']) AS died
FROM visit WHERE class IN ('IMP', 'ACUTE', 'NONAC') AND last IS NOT NULL;

-- section: stays of claims
CREATE TEMP TABLE claim_stay AS
SELECT * FROM claim_stays WHERE kind IN ('acute', 'psychiatric') AND NOT unfinished;

-- section: stays of each source
-- clinical systems know the days; a claim adds what it alone knows, and stays that no Encounter is of
CREATE TEMP TABLE stay AS
SELECT e.member, e.id, e.admitted, e.discharged, coalesce(e.emergent, bool_or(c.emergent)) AS emergent,
    e.died OR coalesce(bool_or(c.died), FALSE) AS died
FROM clinical_stay e LEFT JOIN claim_stay c ON c.member = e.member AND abs(c.admitted - e.admitted) <= 1
GROUP BY e.member, e.id, e.admitted, e.discharged, e.emergent, e.died
UNION ALL
SELECT member, 'claim/' || member || '/' || admitted, admitted, discharged, emergent, died
FROM claim_stay c WHERE NOT EXISTS (FROM clinical_stay e
    WHERE e.member = c.member AND e.admitted <= c.discharged AND c.admitted <= e.discharged);

-- section: stays
-- what overlaps or follows on the day of discharge is one stay: copies of it, and transfers
CREATE TEMP TABLE said_stays AS
WITH placed AS (
    SELECT *, max(discharged) OVER (PARTITION BY member ORDER BY admitted, discharged, id
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS until
    FROM stay),
numbered AS (
    SELECT *, count(*) FILTER (until IS NULL OR admitted > until) OVER (PARTITION BY member
        ORDER BY admitted, discharged, id ROWS UNBOUNDED PRECEDING) AS number
    FROM placed),
merged AS (
    SELECT min(id) AS stay, member, min(admitted) AS admitted, max(discharged) AS discharged,
        bool_or(emergent) AS emergent, coalesce(bool_or(died), FALSE) AS died
    FROM numbered GROUP BY member, number),
coded AS (
    SELECT m.stay, bool_or(d.code[1] = 'C') AS oncology FROM merged m JOIN said_diagnoses d
        ON d.member = m.member AND d.day BETWEEN m.discharged - 365 AND m.discharged GROUP BY m.stay),
by_emergency AS (
    SELECT DISTINCT m.stay FROM merged m JOIN said_emergency v ON v.member = m.member
        AND v.day BETWEEN m.admitted - 1 AND m.admitted)
SELECT m.stay, m.member, m.admitted, m.discharged, coalesce(m.emergent, CASE WHEN b.stay IS NOT NULL THEN TRUE END)
    AS emergent, c.oncology, m.died
FROM merged m LEFT JOIN coded c USING (stay) LEFT JOIN by_emergency b USING (stay);

-- section: labs
CREATE TEMP TABLE said_labs AS
SELECT DISTINCT o._member AS member,
    CASE WHEN list_contains(codes, '718-7') THEN 'haemoglobin' ELSE 'sodium' END AS analyte,
    coalesce(o.effectiveDateTime, o.effectivePeriod.start, o.effectiveInstant) AS at,
    CASE WHEN list_contains(codes, '718-7') THEN
            CASE lower(coalesce(o.valueQuantity.code, o.valueQuantity.unit))
                WHEN 'g/dl' THEN o.valueQuantity.value WHEN 'g/l' THEN o.valueQuantity.value / 10 END
        WHEN lower(coalesce(o.valueQuantity.code, o.valueQuantity.unit)) IN ('mmol/l', 'meq/l')
            THEN o.valueQuantity.value END::DOUBLE AS value
FROM (SELECT *, list_transform(list_filter(coalesce(code.coding, []), lambda x: x.system = 'http://loinc.org'),
    lambda x: x.code) AS codes FROM observations) o
WHERE o._member IS NOT NULL AND list_has_any(codes, ['718-7', '2951-2'])
    AND o.status IN ('final', 'amended', 'corrected');

-- section: procedures
CREATE TEMP TABLE said_procedures AS
SELECT DISTINCT _member AS member, coalesce(day_of(performedDateTime), day_of(performedPeriod.start)) AS day
FROM procedures WHERE _member IS NOT NULL AND status = 'completed'
    AND coalesce(performedDateTime, performedPeriod.start) IS NOT NULL
UNION
SELECT DISTINCT _member, coalesce(service_from, claim_from) FROM counted WHERE len(procedures) > 0;
