"""Selections: a clinician whom the member designated, or a roster with the primary care provider of record.

The newest selection made up to the period's end wins and settles the member, whatever the claims say: a designated
clinician outside the contract is never replaced by claims (42 CFR 425.402(e)).
"""

from __future__ import annotations

from fhir_gateway.attribution.methods import Workspace, method


@method("selection")
def selection(workspace: Workspace) -> None:
    """Assign members with a selection to the selected competitor."""
    workspace.connection.execute(
        """
        INSERT INTO assigned BY NAME
        SELECT member, competitor, participant, 'selection' AS method, kind AS step, tin, npi, NULL AS amount,
          0 AS visits, made AS last_service
        FROM selections JOIN eligible USING (member)
        WHERE made <= $end AND member NOT IN (SELECT member FROM assigned)
        QUALIFY row_number() OVER (PARTITION BY member ORDER BY made DESC, competitor, npi) = 1
        """,
        {"end": workspace.period[1]},
    )
