"""The two families of DEQM profiles a report can be written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["us", "uv"]

_US = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/"
_UV = "http://hl7.org/fhir/uv/deqm/StructureDefinition/"


@dataclass(frozen=True, slots=True)
class Dialect:
    """Profile and extension urls of one family; ``link_ids`` says whether every group and population needs one."""

    summary: str
    individual: str
    subject_list: str
    individual_list: str
    scoring: str
    improvement_notation: str
    link_ids: bool


DIALECTS: dict[Family, Dialect] = {
    # DEQM 5.0.0 (US realm): what most deployed systems and VBPR 1.1 refer to
    "us": Dialect(
        summary=f"{_US}summary-measurereport-deqm",
        individual=f"{_US}indv-measurereport-deqm",
        subject_list=f"{_US}subjectlist-measurereport-deqm",
        individual_list=f"{_US}indv-measurereport-list",
        scoring=f"{_US}extension-measureScoring",
        improvement_notation=f"{_US}extension-groupImprovementNotation",
        link_ids=False,
    ),
    # DEQM 1.0.0 (universal realm), the newest
    "uv": Dialect(
        summary=f"{_UV}deqm-summarymeasurereport",
        individual=f"{_UV}deqm-individualmeasurereport",
        subject_list=f"{_UV}deqm-subjectlistmeasurereport",
        individual_list=f"{_UV}deqm-individualmeasurereportlist",
        scoring=f"{_UV}deqm-measureScoring",
        improvement_notation=f"{_UV}deqm-groupImprovementNotation",
        link_ids=True,
    ),
}
