"""Geography: members belong to the entity in whose area they live, by county or ZIP code of their latest address.

Counties of ZIP codes come with the residence (:func:`fhir_gateway.attribution.residence.residences`). Who lives in
the areas of several entities stays unattributed (``tie``).
"""

from __future__ import annotations

from fhir_gateway.attribution.methods import Workspace, method


@method("geography")
def geography(workspace: Workspace) -> None:
    """Assign the members who live in the area of one participant."""
    workspace.connection.execute(
        """
        CREATE TABLE living AS
        WITH home AS (
          SELECT member, since, county, postal_code[1:5] AS postal_code FROM residence JOIN eligible USING (member)
          WHERE (since IS NULL OR since <= $end) AND member NOT IN (SELECT member FROM assigned)
          QUALIFY row_number() OVER (PARTITION BY member ORDER BY since DESC NULLS LAST, county, postal_code) = 1
        )
        SELECT member, min(since) AS since, min(entity) AS entity, count(DISTINCT entity) AS entities FROM (
          SELECT h.member, h.since, a.entity FROM home h JOIN areas a ON a.code = h.county
          UNION ALL SELECT h.member, h.since, a.entity FROM home h JOIN areas a ON a.code = h.postal_code
        ) GROUP BY member
        """,
        {"end": workspace.period[1]},
    )
    workspace.connection.execute(
        """
        INSERT INTO assigned BY NAME
        SELECT member, entity AS competitor, TRUE AS participant, 'geography' AS method, 'geography' AS step,
          0 AS visits, since AS window_start, NULL::DATE AS window_end
        FROM living WHERE entities = 1;
        INSERT INTO unattributed BY NAME SELECT member, 'tie' AS reason FROM living WHERE entities > 1;
        """
    )
