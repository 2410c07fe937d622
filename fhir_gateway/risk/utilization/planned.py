"""Which acute stays would be planned readmissions, for those who look at stays by other means."""

from __future__ import annotations

import pyarrow as pa

from fhir_gateway.risk.utilization.lines import connect
from fhir_gateway.risk.utilization.readmissions import find_value_sets
from fhir_gateway.risk.utilization.rules import Rules
from fhir_gateway.risk.utilization.stays import find_stays
from fhir_gateway.risk.utilization.tables import Tables


def planned_stays(lines: pa.Table, tables: Tables | None = None) -> pa.Table:
    """``member`` and ``admitted`` of acute stays that CMS's planned readmission algorithm judges to be planned.

    ``lines`` are claim lines (:data:`.lines.LINE_COLUMNS`); ``tables`` the value sets (default: those shipped).
    """
    with connect(lines) as connection:
        (tables or Tables.shipped()).register(connection)
        find_stays(connection, Rules.load())
        find_value_sets(connection)
        return connection.sql(
            "SELECT member, admitted FROM acute WHERE planned IS NOT NULL ORDER BY ALL"
        ).to_arrow_table()
