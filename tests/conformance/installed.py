"""The guides of the reference data, installed for the tests; and which profiles an example is about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fhir_gateway.conformance.definitions import Definitions
from fhir_gateway.conformance.guides import add_guide
from fhir_gateway.conformance.validator import Validator

PROFILES = Path(__file__).parents[2] / "profiles"
US = "http://hl7.org/fhir/us/davinci-deqm/StructureDefinition/"
UV = "http://hl7.org/fhir/uv/deqm/StructureDefinition/"
ATR = "http://hl7.org/fhir/us/davinci-atr/StructureDefinition/"
VBPR = "http://hl7.org/fhir/us/davinci-vbpr/StructureDefinition/"

#: Folder of a guide's examples -> its definitions below it, and the package they are of.
GUIDES = {
    "atr": ("conformance", "hl7.fhir.us.davinci-atr#2.1.0"),
    "deqm-us-5.0.0": ("conformance", "hl7.fhir.us.davinci-deqm#5.0.0"),
    "deqm-uv-1.0.0": ("conformance", "hl7.fhir.uv.deqm#1.0.0"),
    "vbpr": (".", "hl7.fhir.us.davinci-vbpr#1.1.0"),
    "ra": ("conformance-3.0.0-ballot", "hl7.fhir.us.davinci-ra#3.0.0-ballot"),
    "cqm-2.0.0": ("conformance", "hl7.fhir.uv.cqm#2.0.0"),
}
_REPORTS = {
    "deqm-us-5.0.0": {
        "individual": f"{US}indv-measurereport-deqm",
        "summary": f"{US}summary-measurereport-deqm",
        "subject-list": f"{US}subjectlist-measurereport-deqm",
        "data-collection": f"{US}datax-measurereport-deqm",
    },
    "deqm-uv-1.0.0": {
        "individual": f"{UV}deqm-individualmeasurereport",
        "summary": f"{UV}deqm-summarymeasurereport",
        "subject-list": f"{UV}deqm-subjectlistmeasurereport",
        "data-collection": f"{UV}deqm-dataexchangemeasurereport",
    },
}


def install(data: Path, folder: Path) -> Validator:
    """A validator over the guides of the reference data, and what we define ourselves."""
    for name, (below, package) in GUIDES.items():
        add_guide(data / "ig-examples" / name / below, folder, package)
    for name in ("us_core_610.tgz", "us_core_700.tgz", "carin4bb-200.tgz"):
        add_guide(data / "ig-packages" / name, folder)
    return Validator(Definitions.of(PROFILES, folder))


def meant(folder: str, resource: Mapping[str, Any]) -> Iterator[str]:
    """Profiles that an example is about though it does not declare them: reports of DEQM, lists of ATR."""
    kind = resource.get("resourceType")
    if resource.get("meta", {}).get("profile"):
        return
    if kind == "MeasureReport" and folder in _REPORTS and (named := _REPORTS[folder].get(resource.get("type", ""))):
        yield named
    if kind == "Group" and folder == "atr":
        full = any(one["url"] == f"{ATR}ext-attributionListStatus" for one in resource.get("extension", ()))
        yield f"{ATR}atr-group" if full else f"{ATR}davinci-patient-list"


def judged(validator: Validator, folder: str, resource: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Broken rules as (severity, path, rule): of the example, and of resources in it by the profiles they are about."""
    for found in validator.validate(resource, meant(folder, resource)).findings:
        yield found.severity, found.path, found.rule
    for path, inner in _inside(resource):
        for profile in meant(folder, inner):
            for found in validator.validate(inner, [profile], declared=False).findings:
                if found.profile is not None:
                    yield found.severity, f"{path}{found.path.removeprefix(str(inner['resourceType']))}", found.rule


def _inside(resource: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    kind = resource.get("resourceType")
    name = {"Bundle": "entry", "Parameters": "parameter"}.get(str(kind))
    for index, entry in enumerate(resource.get(name, ()) if name else ()):
        inner = entry.get("resource")
        if isinstance(inner, Mapping):
            path = f"{kind}.{name}[{index}].resource"
            yield path, inner
            for below, one in _inside(inner):
                yield f"{path}{below.removeprefix(str(inner['resourceType']))}", one
