"""Race, ethnicity, sex, gender identity, language and age out of Patient rows (US Core extensions).

Of several Patient rows of a member the newest that says something known counts, in each dimension by itself; one that
was asked and declined, or asked without an answer, says more than one that says nothing.
"""

from __future__ import annotations

from datetime import date

import duckdb
import pyarrow as pa

#: What is read of Patient.
PATIENT_COLUMNS = (
    *("extension.url", "extension.valueCode", "extension.valueCodeableConcept.coding.code"),
    *("extension.extension.url", "extension.extension.valueCoding.code", "extension.extension.valueString"),
    "extension.extension.valueCodeableConcept.coding.code",
    *("birthDate", "gender", "communication.language.coding.code", "communication.preferred"),
)

_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"
#: Spoken of by number: detailed codes of CDC's race and ethnicity code set are ordered below their OMB category.
#: Middle Eastern or North African was a part of White there (2118 to 2129 but Israeli is MENA in OMB 2024).
_CATEGORY = """
CASE WHEN number BETWEEN 1002 AND 1999 THEN 'american-indian' WHEN number BETWEEN 2028 AND 2053 THEN 'asian'
  WHEN number BETWEEN 2054 AND 2075 THEN 'black'
  WHEN number BETWEEN 2076 AND 2105 OR number = 2500 THEN 'native-hawaiian'
  WHEN number BETWEEN 2118 AND 2130 THEN 'mena' WHEN number BETWEEN 2106 AND 2117 THEN 'white'
  WHEN number = 2131 THEN 'other' END
"""
_ASKED = """
CASE WHEN code = 'ASKU' OR code = 'asked-unknown' THEN 'asked-unknown'
  WHEN code IN ('asked-declined', 'declined') OR regexp_matches(lower(text), '(declin|refus|prefer(s|red)? not)')
    THEN 'declined' END
"""

_PEOPLE = f"""
CREATE TEMP TABLE rows AS
  SELECT _member AS member, row_number() OVER (ORDER BY _last_updated NULLS FIRST, _source, id) AS age, *
  FROM patients WHERE _member IS NOT NULL;
CREATE TEMP TABLE outer_extensions AS SELECT member, age, unnest(extension) AS e FROM rows;
CREATE TEMP TABLE stated AS
  SELECT member, age, split_part(e.url, 'us-core-', 2) AS kind, i.url AS part,
    coalesce(i.valueCoding.code, i.valueCodeableConcept.coding[1].code) AS code, i.valueString AS text
  FROM (SELECT member, age, e, unnest(e.extension) AS i FROM outer_extensions
        WHERE e.url IN ('{_CORE}race', '{_CORE}ethnicity'));
CREATE TEMP TABLE coded AS
  SELECT *, {_ASKED} AS asked, try_cast(split_part(code, '-', 1) AS INTEGER) AS number FROM stated;
-- two-question races of each row; a detailed code counts as its category
CREATE TEMP TABLE races AS
  SELECT member, age, list_sort(list(DISTINCT c) FILTER (c IS NOT NULL)) AS found,
    max(asked) FILTER (part <> 'text' OR c IS NULL) AS asked
  FROM (SELECT *, {_CATEGORY} AS c FROM coded WHERE kind = 'race') GROUP BY ALL;
CREATE TEMP TABLE ethnicities AS
  SELECT member, age, bool_or(number BETWEEN 2135 AND 2185) AS hispanic, bool_or(number = 2186) AS others,
    max(asked) AS asked
  FROM coded WHERE kind = 'ethnicity' GROUP BY ALL;
CREATE TEMP TABLE race AS
  SELECT member, arg_max(found, age) FILTER (len(found) > 0) AS found,
    arg_max(asked, age) FILTER (asked IS NOT NULL) AS asked
  FROM races GROUP BY member;
CREATE TEMP TABLE ethnicity AS
  SELECT member, arg_max(hispanic, age) FILTER (hispanic OR others) AS hispanic,
    arg_max(asked, age) FILTER (asked IS NOT NULL) AS asked
  FROM ethnicities GROUP BY member;
CREATE TEMP TABLE sexes AS
  SELECT member, arg_max(sex, (rank, age)) FILTER (sex IN ('female', 'male', 'other')) AS sex,
    arg_max(sex, age) FILTER (sex IN ('asked-unknown', 'declined')) AS asked
  FROM (
    SELECT member, age, CASE WHEN e.url LIKE '%birthsex' THEN 3 ELSE 2 END AS rank,
      CASE coalesce(e.valueCode, e.valueCodeableConcept.coding[1].code)
        WHEN 'F' THEN 'female' WHEN 'M' THEN 'male' WHEN 'OTH' THEN 'other' WHEN 'ASKU' THEN 'asked-unknown'
        WHEN '248152002' THEN 'female' WHEN '248153007' THEN 'male' WHEN 'female' THEN 'female' WHEN 'male' THEN 'male'
        WHEN 'asked-declined' THEN 'declined' WHEN 'asked-unknown' THEN 'asked-unknown' END AS sex
    FROM outer_extensions WHERE e.url IN ('{_CORE}birthsex', '{_CORE}sex')
    UNION ALL
    SELECT member, age, 1, CASE WHEN gender <> 'unknown' THEN gender END FROM rows
  ) GROUP BY member;
CREATE TEMP TABLE identities AS
  SELECT member, arg_max(identity, age) FILTER (identity NOT IN ('asked-unknown', 'declined')) AS identity,
    arg_max(identity, age) FILTER (identity IN ('asked-unknown', 'declined')) AS asked
  FROM (
    SELECT member, age, CASE e.valueCodeableConcept.coding[1].code
        WHEN '446141000124107' THEN 'woman' WHEN '446151000124109' THEN 'man' WHEN 'female' THEN 'woman'
        WHEN 'male' THEN 'man' WHEN '407376001' THEN 'transgender-man' WHEN '407377005' THEN 'transgender-woman'
        WHEN 'transgender-male' THEN 'transgender-man' WHEN 'transgender-female' THEN 'transgender-woman'
        WHEN '446131000124102' THEN 'non-binary' WHEN '33791000087105' THEN 'non-binary'
        WHEN 'non-binary' THEN 'non-binary'
        WHEN 'OTH' THEN 'other' WHEN 'other' THEN 'other' WHEN 'ASKU' THEN 'asked-unknown'
        WHEN 'asked-declined' THEN 'declined' WHEN 'non-disclose' THEN 'declined' END AS identity
    FROM outer_extensions WHERE e.url IN ('{_CORE}genderIdentity',
      'http://hl7.org/fhir/StructureDefinition/patient-genderIdentity')
  ) GROUP BY member;
CREATE TEMP TABLE languages AS
  SELECT member, arg_max(lower(split_part(code, '-', 1)), (preferred, age, -place)) AS language
  FROM (
    SELECT member, age, c.language.coding[1].code AS code, coalesce(c.preferred, false) AS preferred, place
    FROM (SELECT member, age, unnest(communication) AS c, generate_subscripts(communication, 1) AS place FROM rows)
  ) WHERE code IS NOT NULL AND lower(code) NOT IN ('und', 'unk', 'mis', 'zxx') GROUP BY member;
CREATE TEMP TABLE births AS
  SELECT member, arg_max(try_cast(CASE length(birthDate) WHEN 4 THEN birthDate || '-01-01'
    WHEN 7 THEN birthDate || '-01' ELSE birthDate END AS DATE), age) FILTER (birthDate IS NOT NULL) AS born
  FROM rows GROUP BY member;
"""  # noqa: S608 the words spliced in are ours

_DIMENSIONS = """
WITH each AS (
  SELECT m.member, r.found, r.asked AS race_asked, e.hispanic, e.asked AS ethnicity_asked,
    coalesce(s.sex, s.asked) AS sex, coalesce(i.identity, i.asked) AS identity, l.language,
    date_diff('year', b.born, $on::DATE)
      - CASE WHEN strftime($on::DATE, '%m%d') < strftime(b.born, '%m%d') THEN 1 ELSE 0 END AS years
  FROM births m LEFT JOIN race r USING (member) LEFT JOIN ethnicity e USING (member) LEFT JOIN sexes s USING (member)
    LEFT JOIN identities i USING (member) LEFT JOIN languages l USING (member) LEFT JOIN births b USING (member)
), two AS (
  -- of the two questions of 1997 Middle Eastern is White
  SELECT *, list_distinct(list_transform(found, lambda x: CASE x WHEN 'mena' THEN 'white' ELSE x END)) AS of_1997
  FROM each
)
SELECT member,
  CASE WHEN len(of_1997) > 1 THEN 'multiple' WHEN len(of_1997) = 1 THEN of_1997[1] ELSE race_asked END AS race,
  CASE WHEN hispanic THEN 'hispanic' WHEN NOT hispanic THEN 'not-hispanic' ELSE ethnicity_asked END AS ethnicity,
  -- CDC codes put Egyptian below White: who says both is Middle Eastern
  CASE WHEN len(combined) > 1 THEN 'multiple' WHEN hispanic THEN 'hispanic' WHEN len(combined) = 1 THEN combined[1]
    ELSE coalesce(race_asked, ethnicity_asked) END AS "race-ethnicity",
  sex, identity AS "gender-identity", language,
  CASE WHEN years < 0 OR years IS NULL THEN NULL WHEN years < 18 THEN '0-17' WHEN years < 45 THEN '18-44'
    WHEN years < 65 THEN '45-64' WHEN years < 75 THEN '65-74' WHEN years < 85 THEN '75-84' ELSE '85+' END AS age,
  years
FROM (SELECT *, CASE WHEN list_contains(found, 'mena') THEN list_filter(found, lambda x: x <> 'white') ELSE found END
  AS combined FROM two)
ORDER BY member
"""


def people(patients: pa.Table, on: date) -> pa.Table:
    """A row per member, sorted: member and the codes of each dimension (null: not recorded), ``years`` on a day."""
    with duckdb.connect() as connection:
        connection.register("patients", patients)
        connection.execute(_PEOPLE)
        return connection.sql(_DIMENSIONS, params={"on": on}).to_arrow_table()
