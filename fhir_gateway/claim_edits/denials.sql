-- What payers denied. Input: lines (claims.LINE_SCHEMA of all versions), eobs (ExplanationOfBenefit columns), submitted
-- (source, claim, created of Claims). Sections are split at "-- section:".

-- section: macros
-- adjudications that say why nothing is paid (CARIN BB: category denialreason), and reasons that are called denied
CREATE MACRO denying(adjudications) AS list_filter(coalesce(adjudications, []),
  lambda x: list_contains(codes_of(x.category), 'denialreason') OR list_contains(codes_of(x.reason), 'denied'));

-- section: tables
CREATE TABLE head AS
SELECT _source AS source, id AS eob, typed_reference(claim.reference) AS claim, first_day(created) AS answered,
  denying(adjudication) AS denials, coalesce(outcome, 'complete') = 'error' AS refused
FROM eobs;

CREATE TABLE item AS
SELECT source, eob, coalesce(i.sequence, position) AS line, denying(i.adjudication) AS denials
FROM (
  SELECT _source AS source, id AS eob, unnest(item) AS i, generate_subscripts(item, 1) AS position FROM eobs
);

-- every line of every version, whether it was denied and why; a denial of the whole claim is one of each line
CREATE TABLE answered AS
SELECT l._member AS member, l.source, l.eob, l.claim_group, l.version, l.version_status, l.line,
  coalesce(l.insurer, 'unknown') AS payer, coalesce(l.npi, 'unknown') AS provider, coalesce(l.procedure, l.revenue_code, 'unknown') AS code,
  coalesce(h.answered, l.payment_date) AS answered, l.payment_date, l.service_from, coalesce(l.submitted, 0) AS submitted,
  coalesce(l.paid, 0) AS paid,
  len(coalesce(i.denials, [])) > 0 OR len(h.denials) > 0 OR h.refused OR l.denied AS denied,
  list_distinct(flatten(list_transform(
    CASE WHEN len(coalesce(i.denials, [])) > 0 THEN i.denials ELSE h.denials END, lambda x: codes_of(x.reason)))) AS reasons,
  first_value(l.eob) OVER (PARTITION BY l.claim_group ORDER BY coalesce(h.answered, l.payment_date), l.version, l.eob) = l.eob
    AS is_first,
  last_value(l.eob) OVER (PARTITION BY l.claim_group ORDER BY coalesce(h.answered, l.payment_date), l.version, l.eob
    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) = l.eob AS is_last,
  s.created AS sent
FROM lines l JOIN head h ON h.source = l.source AND h.eob = l.eob
LEFT JOIN item i ON i.source = l.source AND i.eob = l.eob AND i.line = l.line
LEFT JOIN submitted s ON s.source = l.source AND s.claim = h.claim
WHERE l.version_status <> 'copy';

-- of each claim whether its first answer denied something, and what became of that
CREATE TABLE story AS
SELECT claim_group, any_value(member) AS member, any_value(payer) AS payer, any_value(provider) AS provider,
  min(answered) AS answered, bool_or(denied) FILTER (is_first) AS denied_first,
  bool_or(denied) FILTER (is_first) AND NOT bool_or(denied) FILTER (is_last) AND count(DISTINCT eob) > 1
    AND coalesce(sum(paid) FILTER (is_last), 0) > 0 AS overturned,
  coalesce(sum(submitted) FILTER (is_first AND denied), 0) AS denied_amount,
  coalesce(sum(paid) FILTER (is_last), 0) AS paid,
  date_diff('day', min(sent), min(payment_date) FILTER (paid > 0)) AS days
FROM answered GROUP BY claim_group;

-- section: by
CREATE MACRO kind_of(r) AS CASE WHEN regexp_matches(r, '^(M|MA|N)[0-9]+$') THEN 'RARC' WHEN regexp_matches(r, '^[A-Z]?[0-9]+$') THEN 'CARC' ELSE 'other' END;
CREATE TABLE denied_line AS
SELECT * EXCLUDE (reasons), unnest(CASE WHEN len(reasons) > 0 THEN reasons ELSE ['none given'] END) AS reason,
  strftime(answered, '%Y-%m') AS month
FROM answered WHERE denied

-- section: denied lines
WITH answer AS (
  SELECT _source AS source, id, typed_reference(claim.reference) AS claim, first_day(created) AS day, _last_updated,
    outcome, adjudication,
    list_transform(coalesce(item, []), lambda i: {'line': i.sequence, 'said': i.adjudication}) AS items
  FROM eobs WHERE coalesce(status, 'active') = 'active' AND coalesce(use, 'claim') = 'claim'
  UNION ALL
  SELECT _source, id, typed_reference(request.reference), first_day(created), _last_updated, outcome, adjudication,
    list_transform(coalesce(item, []), lambda i: {'line': i.itemSequence, 'said': i.adjudication})
  FROM responses WHERE coalesce(status, 'active') = 'active' AND coalesce(use, 'claim') = 'claim'
), newest AS (
  SELECT * FROM answer WHERE claim LIKE 'Claim/%' AND coalesce(outcome, 'complete') <> 'queued'
  QUALIFY row_number() OVER (PARTITION BY source, claim ORDER BY day DESC NULLS LAST, _last_updated DESC NULLS LAST, id) = 1
)
SELECT source, claim[7:] AS claim, NULL::BIGINT AS line FROM newest WHERE outcome = 'error' OR len(denying(adjudication)) > 0
UNION ALL
SELECT source, claim[7:], i.line::BIGINT FROM (SELECT source, claim, unnest(items) AS i FROM newest)
WHERE len(denying(i.said)) > 0
