"""Episodes of care out of claim lines: what opens them, what belongs to them, what they cost and what they may cost.

``definition``: an episode as data. ``codes``: which lines a rule is about. ``construct``: triggers, anchors, windows.
``costs``: grouping and proration. ``service``: the table of episodes. ``caps``, ``targets``: what counts against which
price. ``reconciliation``: differences, quality, limits. ``models/``: public programmes as data.
"""

from fhir_gateway.contracts.episodes.construct import ELIGIBILITY_SCHEMA, LINE_COLUMNS, REASONS, Sources
from fhir_gateway.contracts.episodes.costs import GMLOS_SCHEMA, SERVICE_SCHEMA, STANDARDISATION_SCHEMA, CostTables
from fhir_gateway.contracts.episodes.definition import Definition, Initiator, shipped_definition
from fhir_gateway.contracts.episodes.service import EPISODE_SCHEMA, digest, episodes, services, standing

__all__ = [
    "ELIGIBILITY_SCHEMA",
    "EPISODE_SCHEMA",
    "GMLOS_SCHEMA",
    "LINE_COLUMNS",
    "REASONS",
    "SERVICE_SCHEMA",
    "STANDARDISATION_SCHEMA",
    "CostTables",
    "Definition",
    "Initiator",
    "Sources",
    "digest",
    "episodes",
    "services",
    "shipped_definition",
    "standing",
]
