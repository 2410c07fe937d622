-- What queries over FHIR columns say in one word. Loaded before the queries of lake/claims.sql and claim_edits/*.sql.

CREATE MACRO npi_system() AS 'http://hl7.org/fhir/sid/us-npi';
CREATE MACRO tin_system() AS 'urn:oid:2.16.840.1.113883.4.4';
-- "Type/id" of a relative, absolute or versioned reference
CREATE MACRO typed_reference(r) AS
  nullif(regexp_extract(r, '([A-Z][A-Za-z]+/[A-Za-z0-9.\-]{1,64})(?:/_history/[^/]+)?$', 1), '');
-- the day as written; a partial date opens on its first and closes on its last day
CREATE MACRO first_day(t) AS
  try_cast(CASE length(t) WHEN 4 THEN t || '-01-01' WHEN 7 THEN t || '-01' ELSE t[1:10] END AS DATE);
CREATE MACRO final_day(t) AS
  CASE length(t)
    WHEN 4 THEN try_cast(t || '-12-31' AS DATE)
    WHEN 7 THEN last_day(try_cast(t || '-01' AS DATE))
    ELSE try_cast(t[1:10] AS DATE)
  END;
-- codes of a CodeableConcept; CMS Blue Button writes them as URLs whose last segment is the code
CREATE MACRO codes_of(c) AS list_transform(coalesce(c.coding, []), lambda x: regexp_extract(x.code, '[^/]+$'));
