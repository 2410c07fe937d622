"""Settings of the gateway: read once at the edge and passed in.

Every setting may be given as an environment variable with the prefix ``FHIR_GATEWAY_`` or as a line of the file that
``FHIR_GATEWAY_ENV_FILE`` names; variables win. Unknown keys of the file are refused. Unknown variables are not:
platforms set some with this prefix themselves (Kubernetes gives each container ``{SERVICE}_PORT`` of every service).
"""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from fhir_gateway.errors import ConfigurationError, Location

_PREFIX = "FHIR_GATEWAY_"
#: Names the file with settings; itself no setting.
ENV_FILE = f"{_PREFIX}ENV_FILE"


#: Signature algorithms that a token of an outside issuer may have.
Signature = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]


class Issuer(BaseModel):
    """An outside issuer of access tokens (JWTs as in RFC 9068), and how its tokens name our clients."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    url: str = Field(description="What `iss` says, exactly.")
    jwks_url: str = Field(description="Where its public keys are.")
    token_url: str = Field(description="Where clients get tokens; told by discovery when we issue none.")
    audience: str = Field(description="What `aud` must name.")
    client_claim: str = Field(default="client_id", description="Claim that names the registered client.")
    algorithms: tuple[Signature, ...] = Field(default=("RS256", "ES256", "RS384", "ES384", "PS256"), min_length=1)
    typ: Literal["at+jwt", "jwt"] = Field(
        default="at+jwt", description="Type in the header; `jwt` for issuers that say no better."
    )


#: What somebody at the console may be.
ConsoleRole = Literal["admin", "it", "quality", "contracts", "outreach", "viewer"]


class OpenIdProvider(BaseModel):
    """Who says who people of the console are (OpenID Connect), and what its claims mean here."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    issuer: str = Field(description="What `iss` says, exactly; `/.well-known/openid-configuration` lies below it.")
    client_id: str = Field(description="What the provider calls the console.")
    client_secret: SecretStr | None = Field(
        default=None, description="Of a confidential client; a public one has none."
    )
    title: str = Field(default="your organization", description="How the sign-in page calls the provider.")
    scopes: str = Field(default="openid profile email", description="Scopes that are asked for.")
    name_claim: str = Field(default="preferred_username", description="Claim with the name shown and audited.")
    roles_claim: str = Field(default="roles", description="Claim with a person's groups or roles; dots lead inwards.")
    roles: dict[str, ConsoleRole] = Field(min_length=1, description="Value of that claim to a role here.")
    practices_claim: str | None = Field(
        default=None,
        description="Claim with practices; who has none is refused. Without it people see everybody's data.",
    )
    practices: dict[str, str] = Field(
        default_factory=dict,
        description="Value of that claim to a practice's tax number, or `*` for everybody's data; empty: the values "
        "are tax numbers.",
    )
    algorithms: tuple[Signature, ...] = Field(
        default=("RS256", "ES256", "RS384", "ES384", "PS256"), min_length=1, description="Signatures of ID tokens."
    )

    @field_validator("scopes")
    @classmethod
    def _openid(cls, value: str) -> str:
        if "openid" not in value.split():
            raise ValueError("scopes need openid")
        return value


class Threshold(BaseModel):
    """A line of a contract's settlements, and the value on whose other side somebody is told."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    contract: str = Field(description="Id of the contract.")
    line: str = Field(description="Id of the line of its settlement.")
    value: Decimal = Field(description="The threshold: a line is below it, or not.")


class Schedule(BaseModel):
    """A job that workers begin at given moments, each of them once, however many workers there are."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$", description="What its jobs' ids begin with.")
    cron: str = Field(description="Five fields of cron (minute, hour, day, month, weekday), in `time_zone`.")
    job: Literal["pull", "evaluate", "attribute", "settle", "claims", "compact", "rebucket", "retain"] = Field(
        description="What is done. A pull brings what changed since the last one."
    )
    source: str | None = Field(default=None, description="Endpoint of a pull.")
    contract: str | None = Field(default=None, description="Contract of an attribution or settlement.")
    packages: tuple[str, ...] = Field(default=(), description="Measure packages of an evaluation; empty: all.")
    files: int = Field(default=8, ge=1, description="Most files of a bucket that a compaction leaves.")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        from croniter import croniter

        if len(self.cron.split()) != 5 or not croniter.is_valid(self.cron):
            raise ValueError(f"schedule {self.name}: cron takes five fields, as in 30 2 * * 1-5")
        needs = {"pull": "source", "attribute": "contract", "settle": "contract"}.get(self.job)
        if needs is not None and getattr(self, needs) is None:
            raise ValueError(f"schedule {self.name}: {self.job} needs {needs}")
        return self


class Settings(BaseSettings):
    """All settings, with the embedded defaults (SQLite and a local folder)."""

    model_config = SettingsConfigDict(env_prefix=_PREFIX, extra="forbid", frozen=True, hide_input_in_errors=True)

    data_dir: Path = Field(default=Path(".fhir-gateway"), description="Folder of everything the gateway keeps.")
    database_url: SecretStr | None = Field(
        default=None,
        description="Control plane: SQLAlchemy URL, which may hold a password; default SQLite in the data folder.",
    )
    lake_url: str | None = Field(
        default=None,
        description="Data plane: folder, or s3://, abfss:// or gs:// URL; default `lake` in the data folder.",
    )
    lake_buckets: int | None = Field(
        default=None,
        ge=1,
        le=4096,
        description="Member buckets of a new lake (not set: by the first pull's patients); more by `lake rebucket`.",
    )
    processes: int | None = Field(
        default=None,
        ge=1,
        le=1024,
        description="Processes of an evaluation; default: one per core, none for less than a full batch.",
    )
    profiles: Literal["declared", "content"] = Field(
        default="declared",
        description="Which resources a profiled retrieve means: those that declare the profile, and of resources that "
        "declare none of QI-Core those that hold what it asks for; `content`: always what they hold.",
    )
    encounter_copies: Literal["once", "all"] = Field(
        default="once",
        description="Whether measures count copies of one visit by several sources once, or everything that was sent.",
    )
    link_persons: bool = Field(
        default=False,
        description="Whether patients are linked by likeness (`persons link`) after every pull that brought patients.",
    )
    public_url: str = Field(
        default="http://127.0.0.1:8000", description="Base URL that clients use; never taken from the Host header."
    )
    encryption_key: SecretStr | None = Field(
        default=None,
        description="Fernet key for secrets at rest; default: a key file (mode 600) in the data folder, "
        "made on first use.",
    )
    time_zone: str = Field(default="UTC", description="IANA zone of evaluations whose request names none.")
    token_lifetime_seconds: int = Field(default=300, ge=30, le=300, description="Life of access tokens we issue.")
    issue_tokens: bool = Field(
        default=True, description="Whether we issue access tokens ourselves; without, `issuers` has to name who does."
    )
    issuers: tuple[Issuer, ...] = Field(
        default=(), description="Outside issuers whose access tokens are taken: a JSON list (see authorization.md)."
    )
    openid: OpenIdProvider | None = Field(
        default=None, description="Provider that people of the console may sign in at: a JSON object (see console.md)."
    )
    registration: Literal["off", "invited", "open"] = Field(
        default="off",
        description="Whether clients may register themselves (RFC 7591), for an operator to approve: not at all, with "
        "an initial access token, or anyone.",
    )
    registration_private_jwks: bool = Field(
        default=False, description="Whether the JWKS URL of a self-registered client may be at a private address."
    )
    audit_keep_years: int | None = Field(
        default=None,
        ge=6,
        description="Years after which audit entries are deleted, at least 6 (45 CFR 164.316); default: never.",
    )
    pull_overlap_minutes: int = Field(
        default=10, ge=0, le=10_080, description="How far before its watermark an incremental pull asks again."
    )
    reconcile_days: int = Field(
        default=30, ge=0, description="Days after which `--since last` pulls everything once more; 0: never."
    )
    missing_rows: Literal["report", "delete"] = Field(
        default="report", description="What becomes of rows that a full pull no longer brings."
    )
    jobs_in_server: bool = Field(
        default=True, description="Whether `serve` works on jobs and goes on with those that were interrupted."
    )
    retain_days: int | None = Field(
        default=None,
        ge=1,
        description="Days until `lake retain` removes evaluations and attributions that nothing names; not set: never.",
    )
    jobs_at_once: int = Field(default=2, ge=1, description="Jobs that one worker carries out at the same time.")
    schedules: tuple[Schedule, ...] = Field(
        default=(), description="Jobs that workers begin by themselves: a JSON list (see jobs.md)."
    )
    async_at_once: int = Field(
        default=2, ge=1, description="Asynchronous requests of clients that one worker carries out at the same time."
    )
    async_per_client: int = Field(
        default=3, ge=1, description="Asynchronous requests that one client may have under way; more are a 429."
    )
    async_kept_per_client: int = Field(
        default=50, ge=1, description="Asynchronous requests of one client, answered ones too, that are kept."
    )
    async_keep_hours: int = Field(
        default=24, ge=1, le=720, description="Hours after which the answer to an asynchronous request is deleted."
    )
    export_file_resources: int = Field(
        default=100_000, ge=1, description="Most resources in one file of a bulk export."
    )
    import_max_bytes: int = Field(
        default=2**30, ge=1024, description="Largest body of `$import` in bytes, after decompression."
    )
    validate_pushed: Literal["off", "record", "refuse"] = Field(
        default="off",
        description="What `$import` does about resources that break profiles they declare: nothing, tell and record "
        "it, or refuse the whole body when a rule of severity error is broken. Each takes some milliseconds.",
    )
    deqm_family: Literal["us", "uv"] = Field(
        default="us",
        description="Family of DEQM shapes for operations whose parameters do not tell: US 5.0.0 or UV 1.0.0.",
    )
    operation_members: int = Field(
        default=1000,
        ge=1,
        description="Members that an operation evaluates while its client waits; for more it answers 202 and goes on.",
    )
    subscription_endpoints: Literal["public", "any"] = Field(
        default="public",
        description="Where notifications may go: https in the public Internet, or anywhere (private networks, http).",
    )
    subscriptions_per_client: int = Field(default=20, ge=1, description="Subscriptions that one client may have.")
    alert_days: int = Field(
        default=7,
        ge=1,
        le=90,
        description="Days after which an admission or visit is no alert any more.",
    )
    alert_thresholds: tuple[Threshold, ...] = Field(
        default=(), description="Lines of settlements whose value is watched: a JSON list (see alerts.md)."
    )
    smtp_url: SecretStr | None = Field(
        default=None,
        description="Mail server of alerts: `smtp://`, `smtp+starttls://` or `smtps://`, host, port, user, password.",
    )
    smtp_from: str = Field(default="fhir-gateway@localhost", description="Sender of alerts by mail.")
    client_requests_per_minute: int = Field(
        default=6000, ge=0, description="Requests of one client in a minute; more are a 429. 0: no limit."
    )
    token_requests_per_minute: int = Field(
        default=600,
        ge=0,
        description="Requests of one address to the authorization server in a minute. 0: no limit.",
    )
    tls_certificate: Path | None = Field(
        default=None,
        description="PEM file of the certificate (and those up to the authority) that `serve` shows: then it speaks "
        "https, TLS 1.2 or newer. Without it a proxy in front has to.",
    )
    tls_key: Path | None = Field(
        default=None, description="PEM file of the certificate's key; default: it is in the same file."
    )
    api_processes: int = Field(
        default=1,
        ge=1,
        description="API processes behind one balancer: each allows its share of the requests per minute.",
    )
    metrics_token: SecretStr | None = Field(
        default=None, description="Bearer token for `/metrics`; without it only this machine may read them."
    )
    metrics_port: int | None = Field(
        default=None,
        ge=0,
        le=65_535,
        description="Port at which `worker` answers `/metrics` and `/health`: to this machine, with `metrics_token` to "
        "anybody who has it. Default: none. 0: a free one.",
    )
    log_format: Literal["text", "json"] = Field(default="text", description="How `serve` and `worker` log.")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="info", description="The least severe events that are logged."
    )
    reporter_name: str = Field(default="FHIR Gateway", description="Name of the organization that reports.")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # unknown, no such kind of name, or a folder of zones
            raise ValueError("not an IANA time zone that this machine knows") from None
        return value

    @model_validator(mode="after")
    def _schedules_have_names(self) -> Self:
        if len({one.name for one in self.schedules}) != len(self.schedules):
            raise ValueError("schedules names one twice")
        return self

    @model_validator(mode="after")
    def _someone_issues_tokens(self) -> Self:
        if not self.issue_tokens and not self.issuers:
            raise ValueError("issue_tokens is off and issuers names nobody: no client could get a token")
        if len({one.url for one in self.issuers}) != len(self.issuers):
            raise ValueError("issuers names one issuer twice")
        return self

    @classmethod
    def read(cls, **given: Any) -> Self:
        """Settings of the environment, its file, and those given here, which win.

        ConfigurationError names each wrong setting, never its value.
        """
        file = os.environ.get(ENV_FILE)
        if file is not None and not Path(file).is_file():
            raise ConfigurationError("no such file of settings", location=Location(file=file, rule=ENV_FILE))
        try:
            return cls(**{"_env_file": file, **given})
        except ValidationError as error:
            wrong = "; ".join(f"{_named(one['loc'])}: {one['msg']}" for one in error.errors(include_input=False))
            raise ConfigurationError(f"settings: {wrong}") from None
        except UnicodeDecodeError:
            raise ConfigurationError("is not a text of settings", location=Location(file=file)) from None

    @property
    def resolved_database_url(self) -> str:
        """The control plane's URL, with its password: for the one who connects, nobody else."""
        if self.database_url is not None:
            return self.database_url.get_secret_value()
        return f"sqlite:///{self.data_dir.resolve() / 'control.db'}"

    @property
    def resolved_lake_url(self) -> str:
        """The data plane's URL or folder."""
        return self.lake_url or str(self.data_dir.resolve() / "lake")


def _named(location: tuple[int | str, ...]) -> str:
    """The variable of a wrong setting; an unknown key of the file already comes with its prefix."""
    name = "_".join(str(part) for part in location).upper()
    return name if name.startswith(_PREFIX) else _PREFIX + name
