"""LACE and HOSPITAL: how likely somebody who leaves hospital comes back within 30 days.

LACE: van Walraven C, et al. CMAJ 2010;182:551-7. HOSPITAL: Donzé J, et al. JAMA Intern Med 2013;173:632-8, simplified
admissions as in Donzé J, et al. JAMA Intern Med 2016;176:496-502. An input that nobody gave counts no points, is named
in ``missing``, and the score is ``partial``: the least that it can be.
"""

from __future__ import annotations

from typing import Literal

import duckdb
import pyarrow as pa

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.risk.prediction.code_lists import code_list
from fhir_gateway.risk.prediction.comorbidity import SUM_OF_COMPONENTS, comorbidities, weighted
from fhir_gateway.risk.prediction.models import SCORES

#: Days before discharge in which diagnoses count for LACE, the stay among them.
LOOKBACK_DAYS = 365
#: Earlier admissions: from which number on how many points (Donzé 2016; 2013 gave the two points from the first on).
_ADMISSIONS = {"2016": 2, "2013": 1}

_LACE = f"""
WITH visits AS (
    SELECT s.stay, count(DISTINCT v.day) AS visits FROM stays s JOIN emergency v ON v.member = s.member
        AND v.day >= s.admitted - INTERVAL 6 MONTH AND v.day < s.admitted
    GROUP BY s.stay),
parts AS (
    SELECT s.*, date_diff('day', s.admitted, s.discharged) AS days, coalesce(v.visits, 0) AS visits,
        c.value AS charlson
    FROM stays s LEFT JOIN visits v USING (stay) JOIN charlson c ON c.key = s.stay),
scored AS (
    SELECT *, list_filter([
        {{'name': 'length_of_stay', 'points': CASE WHEN days < 4 THEN days WHEN days < 7 THEN 4 WHEN days < 14 THEN 5
            ELSE 7 END::INT}},
        {{'name': 'acute_admission', 'points': CASE WHEN emergent THEN 3 ELSE 0 END::INT}},
        {{'name': 'comorbidity', 'points': CASE WHEN charlson > 3 THEN 5 ELSE charlson END::INT}},
        {{'name': 'emergency_visits', 'points': least(visits, 4)::INT}}], lambda x: x.points <> 0) AS components
    FROM parts),
summed AS (SELECT *, {SUM_OF_COMPONENTS} AS value FROM scored)
SELECT 'lace' AS score, stay AS key, member, discharged AS day, value,
    CASE WHEN value >= 10 THEN 'high' WHEN emergent IS NULL AND value + 3 >= 10 THEN NULL ELSE 'low' END AS band,
    emergent IS NULL AS partial, CASE WHEN emergent IS NULL THEN ['acute_admission'] ELSE [] END AS missing, components
FROM summed ORDER BY stay
"""  # noqa: S608  # our own words

_HOSPITAL = f"""
WITH last_labs AS (
    SELECT s.stay, l.analyte, arg_max(l.value, l.at) AS value FROM stays s JOIN labs l ON l.member = s.member
        AND try_cast(l.at[1:10] AS DATE) BETWEEN s.admitted AND s.discharged AND l.value IS NOT NULL
    GROUP BY ALL),
earlier AS (
    SELECT s.stay, count(DISTINCT e.admitted) AS admissions FROM stays s JOIN stays e ON e.member = s.member
        AND e.admitted >= s.admitted - INTERVAL 12 MONTH AND e.admitted < s.admitted
    GROUP BY s.stay),
operated AS (
    SELECT DISTINCT s.stay FROM stays s JOIN procedures p ON p.member = s.member
        AND p.day BETWEEN s.admitted AND s.discharged),
parts AS (
    SELECT s.*, h.value AS haemoglobin, n.value AS sodium, coalesce(e.admissions, 0) AS admissions,
        o.stay IS NOT NULL AS operated, date_diff('day', s.admitted, s.discharged) AS days
    FROM stays s
    LEFT JOIN last_labs h ON h.stay = s.stay AND h.analyte = 'haemoglobin'
    LEFT JOIN last_labs n ON n.stay = s.stay AND n.analyte = 'sodium'
    LEFT JOIN earlier e ON e.stay = s.stay LEFT JOIN operated o ON o.stay = s.stay),
scored AS (
    SELECT *, list_filter([
        {{'name': 'haemoglobin', 'points': CASE WHEN haemoglobin < 12 THEN 1 ELSE 0 END::INT}},
        {{'name': 'oncology', 'points': CASE WHEN oncology THEN 2 ELSE 0 END::INT}},
        {{'name': 'sodium', 'points': CASE WHEN sodium < 135 THEN 1 ELSE 0 END::INT}},
        {{'name': 'procedure', 'points': CASE WHEN operated THEN 1 ELSE 0 END::INT}},
        {{'name': 'index_type', 'points': CASE WHEN emergent THEN 1 ELSE 0 END::INT}},
        {{'name': 'admissions', 'points': CASE WHEN admissions > 5 THEN 5 WHEN admissions >= $two THEN 2
            ELSE 0 END::INT}},
        {{'name': 'length_of_stay', 'points': CASE WHEN days >= 5 THEN 2 ELSE 0 END::INT}}],
        lambda x: x.points <> 0) AS components,
        list_filter([CASE WHEN haemoglobin IS NULL THEN 'haemoglobin' END, CASE WHEN sodium IS NULL THEN 'sodium' END,
            CASE WHEN emergent IS NULL THEN 'index_type' END, CASE WHEN oncology IS NULL THEN 'oncology' END],
            lambda x: x IS NOT NULL) AS missing
    FROM parts),
summed AS (
    SELECT *, {SUM_OF_COMPONENTS} AS value,
        coalesce(list_sum(list_transform(missing, lambda x: CASE WHEN x = 'oncology' THEN 2 ELSE 1 END)), 0) AS unknown
    FROM scored),
banded AS (
    SELECT *, CASE WHEN value >= 7 THEN 'high' WHEN value >= 5 THEN 'medium' ELSE 'low' END AS least,
        CASE WHEN value + unknown >= 7 THEN 'high' WHEN value + unknown >= 5 THEN 'medium' ELSE 'low' END AS most
    FROM summed)
SELECT 'hospital' AS score, stay AS key, member, discharged AS day, value,
    CASE WHEN least = most THEN least END AS band, len(missing) > 0 AS partial, missing, components
FROM banded ORDER BY stay
"""  # noqa: S608  # our own words


def lace(stays: pa.Table, emergency: pa.Table, diagnoses: pa.Table) -> pa.Table:
    """LACE of every stay (``STAYS``), as rows of ``SCORES``; those who died there leave nothing to be foreseen.

    ``emergency`` (``VISITS``) are emergency visits; the one on the day of admission led to it and does not count. The
    band is ``high`` from 10 on; null where what is missing could make the difference.
    """
    alive = _alive(stays)
    codes = code_list("lace")
    with duckdb.connect() as work:
        work.register("stays", alive)
        anchors = work.sql(
            f"SELECT stay AS key, member, (discharged - INTERVAL {LOOKBACK_DAYS} DAY)::DATE AS since, "  # noqa: S608
            "discharged AS until FROM stays"
        ).to_arrow_table()
        work.register("emergency", emergency)
        work.register("charlson", weighted(codes, "lace", comorbidities(codes, diagnoses, anchors), "lace"))
        return work.sql(_LACE).to_arrow_table().cast(SCORES)


def hospital(
    stays: pa.Table, labs: pa.Table, procedures: pa.Table, *, version: Literal["2016", "2013"] = "2016"
) -> pa.Table:
    """HOSPITAL of every stay (``STAYS``), as rows of ``SCORES``.

    ``labs`` (``LABS``): the last haemoglobin and sodium of the stay; ``procedures`` (``VISITS``): days of procedures.
    Earlier admissions are counted among ``stays``. The band is null where what is missing could make the difference.
    """
    if version not in _ADMISSIONS:
        raise ConfigurationError("versions of HOSPITAL are 2016 and 2013")
    with duckdb.connect() as work:
        work.register("stays", stays)
        work.register("labs", labs)
        work.register("procedures", procedures)
        found = work.sql(_HOSPITAL, params={"two": _ADMISSIONS[version]}).to_arrow_table().cast(SCORES)
        work.register("found", found)
        return (
            work.sql("""
            SELECT f.* FROM found f JOIN stays s ON s.stay = f.key WHERE s.died IS NOT TRUE ORDER BY f.key
        """)
            .to_arrow_table()
            .cast(SCORES)
        )


def _alive(stays: pa.Table) -> pa.Table:
    with duckdb.connect() as work:
        work.register("stays", stays)
        return work.sql("SELECT * FROM stays WHERE died IS NOT TRUE ORDER BY stay").to_arrow_table()
