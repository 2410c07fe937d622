"""Da Vinci Value-Based Performance Reporting (VBPR 1.1.0): contracts as Measures, settlements as MeasureReports.

One report group per settlement line that has a VBPR metric; ``group.id`` is the line's id, so a dollar in the report
leads back to its explanation. Money is always ``Money`` in the alternate-measurescore extension, never a Quantity.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Literal

from fhir_gateway.contracts.contract import Contract
from fhir_gateway.contracts.settlement import Settlement, SettlementLine, publish
from fhir_gateway.errors import ContractError

VBPR = "http://hl7.org/fhir/us/davinci-vbpr/"
_EXTENSION = f"{VBPR}StructureDefinition/"
_CODES = f"{VBPR}CodeSystem/"
CATEGORY = "http://hl7.org/fhir/StructureDefinition/measurereport-category"
CATEGORY_SYSTEM = "http://hl7.org/fhir/CodeSystem/measurereport-category"

#: Source of Payment Typology code and display by line of business (VBPR value set ``lob``).
_LINE_OF_BUSINESS = {
    "medicare": ("1", "MEDICARE"),
    "medicaid": ("2", "MEDICAID"),
    "private": ("5", "PRIVATE HEALTH INSURANCE"),
}
_STREAM_NAMES = {
    "ssq": "Shared savings gated on quality",
    "ssp": "Shared savings percentage",
    "p4p": "Pay for performance",
}
#: Digits of rates and scores in reports; money is published as the contract rounds it.
_RATE = Decimal("0.000001")


def _concept(system: str, code: str, display: str | None = None, text: str | None = None) -> dict[str, Any]:
    coding = {"system": system, "code": code} | ({"display": display} if display else {})
    return {"coding": [coding]} | ({"text": text} if text else {})


def _extension(name: str, **value: Any) -> dict[str, Any]:
    return {"url": _EXTENSION + name, **value}


def _stream(code: str) -> dict[str, Any]:
    concept = _concept(f"{_CODES}payment-stream", code, text=_STREAM_NAMES.get(code))
    return _extension("payment-stream", extension=[{"url": "type", "valueCodeableConcept": concept}])


def _metric(code: str, text: str | None = None) -> dict[str, Any]:
    return _concept(f"{_CODES}vbp-performance-metric", code, text=text)


def number(value: Decimal) -> int | float:
    """A decimal as a JSON number: an integer when it is one."""
    return int(value) if value == value.to_integral_value() else float(value)


def measure_canonical(contract: Contract) -> str:
    """Versioned canonical of the contract's Measure."""
    return f"{contract.url}|{contract.version}"


def measure(contract: Contract, canonicals: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The contract as a ``vbp-measure``: parties, term, streams, metrics, quality measures with weight and status.

    ``canonicals`` are those of measures by id, with the version that was used: the profile wants it, where the
    contract leaves it open.
    """
    lob, display = _LINE_OF_BUSINESS[contract.line_of_business]
    model = _concept("http://terminology.hl7.org/CodeSystem/hcp-lan-apm-framework", contract.hcp_lan)
    streams = sorted({terms.stream() for terms in contract.arrangements})
    metrics = dict.fromkeys(metric for terms in contract.arrangements for metric in terms.metrics)
    resource: dict[str, Any] = {
        "resourceType": "Measure",
        "id": contract.id,
        "meta": {"profile": [f"{_EXTENSION}vbp-measure"]},
        "extension": [
            _extension("lob", valueCodeableConcept=_concept("https://nahdo.org/sopt", lob, display)),
            _extension("program-model", extension=[{"url": "hcplan", "valueCodeableConcept": model}]),
            *map(_stream, streams),
        ],
        "url": contract.url,
        "identifier": [{"system": contract.identifier.system, "value": contract.identifier.value}],
        "version": contract.version,
        "name": "".join(part.capitalize() for part in contract.id.replace(".", "-").split("-")),
        "title": contract.title,
        "status": contract.status,
        "experimental": contract.status == "draft",
        "publisher": contract.payer.name,
        "description": contract.description or contract.title,
        "effectivePeriod": _period(*contract.dates),
        "group": [{"code": _metric(metric)} for metric in metrics],
    }
    if contract.measures:
        resource["relatedArtifact"] = [
            {
                "extension": [
                    _extension("weight", valueDecimal=number(terms.weight)),
                    _extension(
                        "contractual-status",
                        valueCodeableConcept=_concept(f"{_CODES}measure-contractual-status", terms.status),
                    ),
                ],
                "type": "composed-of",
                "display": terms.name,
                "resource": (canonicals or {}).get(terms.id, terms.canonical),
            }
            for terms in contract.measures
        ]
    return resource


def performance_report(
    settlement: Settlement,
    contract: Contract,
    *,
    report_id: str,
    issued: datetime,
    quality_reports: Mapping[str, str] | None = None,
    organizations: Mapping[str, str] | None = None,
    status: Literal["complete", "pending", "error"] = "complete",
) -> dict[str, Any]:
    """The settlement as a ``vbp-performance-measurereport``.

    ``issued`` must be aware. ``quality_reports`` are references of quality MeasureReports by measure id of the
    contract; each names the groups it feeds. ``organizations`` are served Organizations by TIN or NPI. Raises
    ContractError when the settlement is of another contract or other terms.
    """
    if (settlement.contract, settlement.contract_digest) != (contract.id, contract.digest):
        raise ContractError("the settlement was computed from other terms than this contract's")
    report = _header(contract, report_id, issued, settlement.period, organizations or {}, status)
    report["group"] = [_group(line, settlement, contract) for line in settlement.lines if line.metric]
    if evaluated := list(_evaluated(settlement, contract, quality_reports or {})):
        report["evaluatedResource"] = evaluated
    return report


def metrics_report(
    groups: Iterable[Mapping[str, Any]],
    contract: Contract,
    *,
    report_id: str,
    issued: datetime,
    period: tuple[date, date],
    paid_through: date,
    organizations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Metrics with a VBPR code as a ``vbp-performance-measurereport`` of the contract, beside any settlement."""
    report = _header(contract, report_id, issued, period, organizations or {}, "complete")
    known = [
        _extension("service-period", valuePeriod=_period(*period)),
        _extension("paid-through-date", valueDate=paid_through.isoformat()),
    ]
    report["group"] = [
        {"id": group["id"], "extension": known, **{name: part for name, part in group.items() if name != "id"}}
        for group in groups
    ]
    return report


def _header(
    contract: Contract,
    report_id: str,
    issued: datetime,
    period: tuple[date, date],
    organizations: Mapping[str, str],
    status: str,
) -> dict[str, Any]:
    """A performance report without groups. Raises ContractError when ``issued`` is not aware."""
    if issued.tzinfo is None:
        raise ContractError("the report's date needs an offset")
    return {
        "resourceType": "MeasureReport",
        "id": report_id,
        "meta": {"profile": [f"{_EXTENSION}vbp-performance-measurereport"]},
        "extension": [{"url": CATEGORY, "valueCodeableConcept": _concept(CATEGORY_SYSTEM, "vbp")}],
        "identifier": [{"system": contract.identifier.system, "value": f"{contract.identifier.value}/{report_id}"}],
        "status": status,
        "type": "summary",
        "measure": measure_canonical(contract),
        "subject": {
            "extension": [_extension("organization-subject", valueReference=contract.provider.refer(organizations))],
            "display": contract.provider.name,
        },
        "date": issued.isoformat(timespec="seconds"),
        "reporter": contract.payer.refer(organizations),
        "period": _period(*period),
    }


def quality_report(report: Mapping[str, Any], settlement: Settlement, measure_id: str) -> dict[str, Any]:
    """A DEQM summary MeasureReport as ``vbp-quality-measurereport``, with the points it earned as its score."""
    profile = f"{_EXTENSION}vbp-quality-measurereport"
    earned = next((x.value for x in settlement.lines if x.id == f"{x.arrangement}.{measure_id}.points"), None)
    profiles = [*report.get("meta", {}).get("profile", ())]
    copied = {**report, "meta": {**report.get("meta", {}), "profile": [*profiles, profile]}}
    if earned is not None:
        score = _extension("score", valueDecimal=number(earned.quantize(_RATE, ROUND_HALF_UP)))
        copied["extension"] = [*report.get("extension", ()), score]
    return copied


def _period(start: date, end: date) -> dict[str, str]:
    return {"start": start.isoformat(), "end": end.isoformat()}


def _group(line: SettlementLine, settlement: Settlement, contract: Contract) -> dict[str, Any]:
    extensions = [_stream(line.stream)] if line.stream else []
    extensions.append(_extension("service-period", valuePeriod=_period(*settlement.period)))
    extensions.append(_extension("paid-through-date", valueDate=settlement.paid_through.isoformat()))
    if baseline := _baseline(line, settlement, contract):
        extensions.append(baseline)
    group: dict[str, Any] = {
        "id": line.id,
        "extension": extensions,
        "code": _metric(line.metric or "", line.label),
    }
    value = line.value if line.amount is None else line.amount
    if value is None:
        return group
    if line.unit == settlement.currency:
        money = _money(value, contract)
        group["measureScore"] = {"extension": [_extension("alternate-measurescore", valueMoney=money)]}
    else:
        is_percentage = (line.metric or "").endswith("-percentage")
        group["measureScore"] = {
            "value": number((value * 100 if is_percentage else value).quantize(_RATE, ROUND_HALF_UP)),
            "system": "http://unitsofmeasure.org",
            "code": "%" if is_percentage else line.unit,
        }
    return group


def _money(value: Decimal, contract: Contract) -> dict[str, Any]:
    return {"value": number(publish(value, contract.rounding)), "currency": contract.currency}


def _baseline(line: SettlementLine, settlement: Settlement, contract: Contract) -> dict[str, Any] | None:
    """Last year's cost per member month beside this year's, where the target was made of it."""
    if line.metric != "med-cost-pmpm":
        return None
    for prior in settlement.lines:
        if prior.id == f"{line.arrangement}.prior-pmpm" and prior.value is not None:
            money = _money(prior.value, contract)
            return _extension("baseline", extension=[{"url": "baseline", "valueMoney": money}])
    return None


def _evaluated(settlement: Settlement, contract: Contract, reports: Mapping[str, str]) -> Iterable[dict[str, Any]]:
    """Quality reports with the groups that they feed: those whose explanation leads to the measure's score."""
    above: dict[str, set[str]] = {}
    for line in settlement.lines:
        above[line.id] = {line.id}.union(*(above[other] for other in line.because))
    for terms in contract.measures:
        if terms.id not in reports:
            continue
        scores = {x.id for x in settlement.lines if x.id == f"{x.arrangement}.{terms.id}.score"}
        fed = [x.id for x in settlement.lines if x.metric and x.unit == "1" and above[x.id] & scores]
        fed += [x.id for x in settlement.lines if x.id == f"{x.arrangement}.{terms.id}.earned"]
        links = [_extension("group-reference", valueString=group) for group in fed]
        yield {"extension": links, "reference": reports[terms.id]} if links else {"reference": reports[terms.id]}
