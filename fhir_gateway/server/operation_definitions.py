"""What an operation is to the server, and the operations on lists, coding gaps and subscriptions."""

from __future__ import annotations

from dataclasses import dataclass

RA = "http://hl7.org/fhir/us/davinci-ra/"
SUBSCRIPTIONS = "http://hl7.org/fhir/uv/subscriptions-backport/"


@dataclass(frozen=True, slots=True)
class Operation:
    """A FHIR operation: its code, the canonical of its definition, and its parameters."""

    code: str
    definition: str
    parameters: tuple[tuple[str, str], ...]  # name, description
    documentation: str
    returns: str = "MeasureReport"
    also: tuple[str, ...] = ()  # definitions by other guides that it follows as well
    update_types: tuple[str, ...] = ()  # of data exchange (DEQM): snapshot, incremental


_ATR_OPERATIONS = "http://hl7.org/fhir/us/davinci-atr/OperationDefinition/"
MEMBER_ADD = Operation(
    "member-add",
    _ATR_OPERATIONS + "member-add",
    (
        ("memberId", "member number; with providerNpi"),
        ("providerNpi", "NPI of the provider that the member is attributed to"),
        ("patientReference", "reference to the member; with providerReference"),
        ("providerReference", "reference to a Practitioner, PractitionerRole or Organization"),
        ("attributionPeriod", "from when to when; without it the contract's period"),
    ),
    "Puts a member on a list that is draft or open; kept as a decision that outlives the next attribution.",
    "OperationOutcome",
)
MEMBER_REMOVE = Operation(
    "member-remove",
    _ATR_OPERATIONS + "member-remove",
    (
        ("memberId", "member number; alone or with providerNpi"),
        ("providerNpi", "only the entry with this provider"),
        ("patientReference", "reference to the member; alone or with providerReference"),
        ("providerReference", "only the entry with this provider"),
        ("coverageReference", "only the entry by this coverage; with patientReference and providerReference"),
    ),
    "Takes a member off a list that is draft or open; kept as a decision that outlives the next attribution.",
    "OperationOutcome",
)
CONFIRM_ATTRIBUTION_LIST = Operation(
    "confirm-attribution-list",
    _ATR_OPERATIONS + "confirm-attribution-list",
    (),
    "Makes a list final: its inactive entries leave it, and it changes no more.",
    "OperationOutcome",
)
ATTRIBUTION_STATUS = Operation(
    "attribution-status",
    _ATR_OPERATIONS + "attribution-status",
    (("memberId", "member number, or"), ("patientReference", "reference to the member")),
    "What a list says of one member: his entries, Patient, Coverage and providers in a collection.",
    "Bundle",
)
RECONCILE = Operation(
    "reconcile",
    "https://fhir-gateway.example/fhir/OperationDefinition/reconcile",
    (
        ("roster", "the payer's roster as a Group resource, members by reference or by identifier, or"),
        ("csv", "the roster as CSV text, or"),
        ("source", "the source that sent it as a Group"),
        ("group", "id of the Group at the source, where it sent several"),
    ),
    "Compares a list with the payer's roster: who is on both, on one, with another provider or period.",
    "Parameters",
)
STRATIFY = Operation(
    "stratify",
    "https://fhir-gateway.example/fhir/OperationDefinition/stratify",
    (
        ("periodStart", "first day, month or year of the measurement period"),
        ("periodEnd", "last day, month or year of the measurement period"),
        ("measureId", "id of a Measure; repeatable; on the type level only; without a measure all that have results"),
        ("measureUrl", "canonical of a Measure, url or url|version; repeatable; on the type level only"),
        ("dimension", "race, language, adi-quintile and more; repeatable; default: all but single social needs"),
        ("subject", "Group/id: only its members; everybody that the client sees without it"),
    ),
    "Kept results of measures by who the members are: strata with intervals, small numbers hidden with what would "
    "tell them.",
    "Parameters",
)
ATTRIBUTION_OPERATIONS = (MEMBER_ADD, MEMBER_REMOVE, CONFIRM_ATTRIBUTION_LIST, ATTRIBUTION_STATUS, RECONCILE)
PAYMENT_ROWS = Operation(
    "payment-rows",
    "https://fhir-gateway.example/fhir/OperationDefinition/payment-rows",
    (
        ("arrangement", "id of the arrangement, where several of the contract have rows"),
        ("member", "only the rows of this Patient"),
        ("rule", "only the rows of this rule, such as base"),
        ("status", "only rows that are paid, adjustment, outside_window or unpaid"),
        ("_count", "how many rows at most, 10000 without it"),
        ("_offset", "how many rows to leave out first"),
        ("_outputFormat", "csv (the default) or ndjson"),
    ),
    "The rows that the payments by member month of a settlement are the sums of, as CSV or NDJSON; X-Total-Count says "
    "how many there are.",
    "Binary",
)

_RA_PARAMETERS = (
    ("periodStart", "first day, month or year of the clinical evaluation period"),
    ("periodEnd", "last day, month or year of the clinical evaluation period"),
    ("subject", "Patient/id or Group/id"),
    ("measureId", "id of the model's Measure; repeatable, like the other names of models"),
    ("measureIdentifier", "identifier of the model, value or system|value"),
    ("measureUrl", "canonical of the model's Measure, url or url|version"),
)
RA_REPORT = Operation(
    "report",
    RA + "OperationDefinition/report",
    _RA_PARAMETERS,
    "Coding gap reports of risk adjustment models (Da Vinci RA): a Bundle for each member. What was not computed is "
    "refused, never reported as no gaps.",
    "Parameters",
)
RA_EVALUATE_MEASURE = Operation(
    "ra.evaluate-measure",
    RA + "OperationDefinition/ra.evaluate-measure",
    _RA_PARAMETERS,
    "The same for one model, as RA 2.1.0 calls it.",
    "Parameters",
)
SUBMIT_REMARK_DATA = Operation(
    "submit-remark-data",
    RA + "OperationDefinition/submit-remark-data",
    (("bundle", "a Bundle of reports with remarks and what the remarks refer to; repeatable"),),
    "Remarks on coding gap and care gap reports that refer to resources of the sender, with these (Da Vinci RA "
    "3.0.0-ballot): the remarks are kept beside the reports, the rest goes into the lake.",
    "OperationOutcome",
)
CHECK_CLAIMS = Operation(
    "check",
    "https://fhir-gateway.example/fhir/OperationDefinition/check",
    (
        ("submitted", "day of submission; without it the day on which each claim says that it was created"),
        ("edit", "id or family of an edit; repeatable; all of them without it"),
    ),
    "Checks a Claim, a Bundle of Claims or NDJSON of Claims before they are submitted: an OperationOutcome for each, "
    "with what could not be checked.",
    "Parameters",
)
DENIALS = Operation(
    "denials",
    "https://fhir-gateway.example/fhir/OperationDefinition/denials",
    (
        ("by", "reason (default), payer, provider, code or month"),
        ("start", "claims that were first answered on or after this day"),
        ("end", "claims that were first answered on or before this day"),
    ),
    "What payers denied of the patients that the client sees: lines and amounts, first-pass denials, what was "
    "overturned, and what an edit would have found.",
    "Parameters",
)
SUBSCRIPTION_STATUS = Operation(
    "status",
    SUBSCRIPTIONS + "OperationDefinition/backport-subscription-status",
    (("id", "ids of Subscriptions; on the type level only"), ("status", "only those of this status; likewise")),
    "How Subscriptions stand: status, number of the last event, error.",
    "Bundle",
)
SUBSCRIPTION_EVENTS = Operation(
    "events",
    SUBSCRIPTIONS + "OperationDefinition/backport-subscription-events",
    (
        ("eventsSinceNumber", "first event number"),
        ("eventsUntilNumber", "last event number"),
        ("content", "empty, id-only or full-resource; no more than the Subscription asks for"),
    ),
    "Past events of a Subscription, as a notification.",
    "Bundle",
)
