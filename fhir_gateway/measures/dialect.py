"""The two families of DEQM profiles a report can be written in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["us", "uv"]

_US = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/"
_UV = "http://hl7.org/fhir/uv/deqm/StructureDefinition/"


@dataclass(frozen=True, slots=True)
class Dialect:
    """Profiles, extensions and code systems of one family.

    ``link_ids`` says whether every group and population needs one.
    """

    summary: str
    individual: str
    subject_list: str
    individual_list: str
    scoring: str
    improvement_notation: str
    link_ids: bool
    data_exchange: str
    update_type: str
    location: str
    gaps_bundle: str
    gaps_composition: str
    gaps_issue: str
    gaps_guidance: str
    gap_status: str
    gap_statuses: str
    reasons: str
    reason_detail: str


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
        data_exchange=f"{_US}datax-measurereport-deqm",
        update_type=f"{_US}extension-submitDataUpdateType",
        location=f"{_US}extension-dataLocation",
        gaps_bundle=f"{_US}gaps-bundle-deqm",
        gaps_composition=f"{_US}gaps-composition-deqm",
        gaps_issue=f"{_US}gaps-detectedissue-deqm",
        gaps_guidance=f"{_US}gaps-guidanceresponse-detailedcaregap",
        gap_status=f"{_US}extension-gapStatus",
        gap_statuses="http://hl7.org/fhir/us/davinci-deqm/CodeSystem/gaps-status",
        reasons="http://hl7.org/fhir/us/davinci-deqm/CodeSystem/care-gap-reason",
        reason_detail=f"{_US}reasonDetail",
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
        data_exchange=f"{_UV}deqm-dataexchangemeasurereport",
        update_type=f"{_UV}deqm-submitDataUpdateType",
        location=f"{_UV}deqm-dataLocation",
        gaps_bundle=f"{_UV}deqm-gapsincarebundle",
        gaps_composition=f"{_UV}deqm-gapsincarecomposition",
        gaps_issue=f"{_UV}deqm-gapsincaredetectedissue",
        gaps_guidance=f"{_UV}deqm-detailedcaregapguidanceresponse",
        gap_status=f"{_UV}deqm-gapStatus",
        gap_statuses="http://hl7.org/fhir/uv/deqm/CodeSystem/deqm-gaps-status",
        reasons="http://hl7.org/fhir/uv/deqm/CodeSystem/deqm-care-gap-reason",
        reason_detail=f"{_UV}deqm-reasonDetail",
    ),
}
