"""The one factory: every service of the gateway, built on first use from one frozen :class:`Settings`.

API, jobs, command line, demo and tests all take a :class:`Gateway`; nothing else reads settings or opens stores.
Imports are made where a service is built, so that a command loads only what it needs.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError, Location

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from fhir_gateway.alerts.store import AlertStore
    from fhir_gateway.attribution.selection_store import SelectionStore
    from fhir_gateway.attribution.store import DecisionStore
    from fhir_gateway.auth.service import AuthorizationServer
    from fhir_gateway.conformance.definitions import Definitions
    from fhir_gateway.conformance.validator import Validator
    from fhir_gateway.contracts.store import SettlementStore
    from fhir_gateway.db.resources import ResourceStore
    from fhir_gateway.db.secrets import SecretBox
    from fhir_gateway.identity.crosswalk import Crosswalk
    from fhir_gateway.lake.store import Lake
    from fhir_gateway.measures.catalog import MeasureCatalog
    from fhir_gateway.measures.store import ResultStore
    from fhir_gateway.outreach.store import OutreachStore
    from fhir_gateway.risk import CodingGapSource
    from fhir_gateway.risk.store import RiskStore
    from fhir_gateway.sources.pulls import PullLog
    from fhir_gateway.sources.store import EndpointStore
    from fhir_gateway.subscriptions.store import SubscriptionStore
    from fhir_gateway.terminology.store import TerminologyStore


@dataclass(frozen=True)
class Gateway:
    """The services of one gateway. Safe to share between threads."""

    settings: Settings

    @cached_property
    def engine(self) -> Engine:
        """The control plane, brought to the present schema; ConfigurationError when it does not open."""
        from sqlalchemy.exc import DBAPIError

        from fhir_gateway.db.engine import create_engine, snapshot
        from fhir_gateway.db.migrate import upgrade

        if self.settings.database_url is None:
            _ = self.data_folder
        engine = create_engine(self.settings.resolved_database_url)
        try:
            with snapshot(engine):
                pass
        except DBAPIError:  # the driver's own words may name the user and the host
            raise ConfigurationError(
                "the control plane does not open: no database answers at database_url, or it refuses us"
                if self.settings.database_url is not None
                else "the control plane does not open: control.db in the data folder is not a database"
            ) from None
        upgrade(engine)
        return engine

    @cached_property
    def secrets(self) -> SecretBox:
        """Encryption of what must not lie in clear."""
        from fhir_gateway.db.secrets import open_secret_box

        return open_secret_box(self.settings)

    @cached_property
    def endpoints(self) -> EndpointStore:
        """Registered sources and our keys for them."""
        from fhir_gateway.sources.store import EndpointStore

        return EndpointStore(self.engine, self.secrets, self.settings.public_url)

    @cached_property
    def pulls(self) -> PullLog:
        """Pulls made and under way."""
        from fhir_gateway.sources.pulls import PullLog

        return PullLog(self.engine, self.secrets)

    @cached_property
    def lake(self) -> Lake:
        """The data plane."""
        from fhir_gateway.lake.store import Lake

        url = self.settings.resolved_lake_url
        if "://" not in url:
            return Lake.open(url, self.settings.lake_buckets)
        from fhir_gateway.db.locks import hold

        def waiting(name: str) -> AbstractContextManager[None]:
            return hold(self.engine, self.data_folder, f"lake-{name}", wait=lambda: True)

        scratch = self.data_folder / "lake-scratch"
        return Lake.open(url, self.settings.lake_buckets, scratch=scratch, guard=waiting)

    @cached_property
    def persons(self) -> Crosswalk:
        """Who is behind which patient id."""
        from fhir_gateway.identity.crosswalk import Crosswalk

        return Crosswalk(self.engine)

    @cached_property
    def terminology(self) -> TerminologyStore:
        """Imported value sets, code systems and concept maps."""
        from fhir_gateway.terminology.store import TerminologyStore

        return TerminologyStore(self.engine)

    @cached_property
    def definitions(self) -> Definitions:
        """Definitions that we ship, and those of the installed guides."""
        from fhir_gateway.conformance.definitions import Definitions

        return Definitions.of(self.profiles_folder, self.guides_folder)

    @cached_property
    def validator(self) -> Validator:
        """Checks resources by base R4 and by profiles."""
        from fhir_gateway.conformance.validator import Validator

        return Validator(self.definitions)

    @cached_property
    def resources(self) -> ResourceStore:
        """The FHIR resources we serve."""
        from fhir_gateway.db.resources import ResourceStore

        return ResourceStore(self.engine, f"{self.settings.public_url.rstrip('/')}/fhir")

    @cached_property
    def decisions(self) -> DecisionStore:
        """What people decided about attribution lists."""
        from fhir_gateway.attribution.store import DecisionStore

        return DecisionStore(self.engine)

    @cached_property
    def selections(self) -> SelectionStore:
        """Selections of clinicians that somebody loaded."""
        from fhir_gateway.attribution.selection_store import SelectionStore

        return SelectionStore(self.engine)

    @cached_property
    def settlements(self) -> SettlementStore:
        """Contract versions, settlement runs, what they posted, and disputes."""
        from fhir_gateway.contracts.store import SettlementStore

        return SettlementStore(self.engine)

    @cached_property
    def subscriptions(self) -> SubscriptionStore:
        """Who wants to be told of what, and how far that went."""
        from fhir_gateway.subscriptions.store import SubscriptionStore

        return SubscriptionStore(self.engine, self.secrets)

    @cached_property
    def risk(self) -> RiskStore:
        """Risk scores and coding gaps that were computed or imported, as columns."""
        from fhir_gateway.risk.store import RiskStore

        return RiskStore(self.settings.data_dir.resolve() / "risk")

    @cached_property
    def coding_gaps(self) -> Sequence[CodingGapSource]:
        """Who computes coding gaps of risk adjustment models."""
        from fhir_gateway.risk.kept_gaps import KeptGaps

        return (KeptGaps(self.risk),)

    @cached_property
    def outreach(self) -> OutreachStore:
        """Whom to call for what, and what came of it."""
        from fhir_gateway.outreach.store import OutreachStore

        return OutreachStore(self.engine)

    @cached_property
    def alerts(self) -> AlertStore:
        """What happened, and who is told of it."""
        from fhir_gateway.alerts.store import AlertStore

        return AlertStore(self.engine, self.secrets)

    @cached_property
    def authorization(self) -> AuthorizationServer:
        """Issues and verifies access tokens for clients of ours."""
        from fhir_gateway.auth.service import AuthorizationServer

        return AuthorizationServer.from_settings(self.engine, self.settings, supported_interactions="cruds")

    @cached_property
    def results(self) -> ResultStore:
        """Results of measure evaluations, as columns."""
        from fhir_gateway.measures.store import ResultStore

        return ResultStore(self.data_folder / "results")

    @cached_property
    def measures(self) -> MeasureCatalog:
        """The installed measures, compiled when they are asked for."""
        from fhir_gateway.measures.catalog import MeasureCatalog

        return MeasureCatalog(self.measure_packages, lambda: self.terminology, self.settings.profiles)

    @cached_property
    def data_folder(self) -> Path:
        """The folder of everything that is kept, made when absent (mode 700: it holds patients)."""
        folder = self.settings.data_dir.resolve()
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(
                f"the data folder cannot be made ({reason})", location=Location(file=str(folder))
            ) from None
        return folder

    @property
    def staging_folder(self) -> Path:
        """Where pulls lie until they are committed."""
        return self.data_folder / "staging"

    def measure_package(self, name: str) -> Path:
        """A measure package by path, or by its name in the measures folder."""
        return _content(name, self.measures_folder, "measure package")

    def contract(self, name: str) -> Path:
        """A contract by path, or by its name in the contracts folder (with or without its suffix)."""
        return _content(name, self.contracts_folder, "contract")

    @cached_property
    def measures_folder(self) -> Path:
        """``measures`` in the data folder when there is one, else the packages that come with the checkout."""
        return self._content_folder("measures")

    @property
    def guides_folder(self) -> Path:
        """Where installed implementation guides lie; absent until one is."""
        return self.settings.data_dir.resolve() / "guides"

    @cached_property
    def profiles_folder(self) -> Path:
        """The definitions that we ship: inside the installed package, or those of the checkout."""
        package = Path(__file__).resolve().parent
        shipped = package / "profiles"
        return shipped if shipped.is_dir() else package.parent / "profiles"

    @cached_property
    def contracts_folder(self) -> Path:
        """``contracts`` in the data folder when there is one, else those that come with the checkout."""
        return self._content_folder("contracts")

    def measure_packages(self) -> list[Path]:
        """All packages of the measures folder, by name."""
        found = (
            path for pattern in ("measure*.json", "bundle*.json*") for path in self.measures_folder.glob(f"*/{pattern}")
        )
        return sorted({path.parent for path in found})

    def public_jwks(self) -> dict[str, Any]:
        """The JWK Set of the keys we sign with towards sources."""
        return self.endpoints.public_jwks()

    def _content_folder(self, name: str) -> Path:
        own = self.settings.data_dir.resolve() / name
        return own if own.is_dir() else Path(__file__).resolve().parents[1] / name


def _content(name: str, folder: Path, what: str) -> Path:
    suffixes = ("", ".toml", ".yaml", ".yml", ".json")
    for path in (Path(name), *(folder / f"{name}{suffix}" for suffix in suffixes)) if name else ():
        if path.exists() and (path.is_file() or what == "measure package"):
            return path
    known = (
        ", ".join(sorted(path.stem for path in folder.iterdir() if not path.name.startswith(".")))
        if folder.is_dir()
        else ""
    )
    raise ConfigurationError(f"no {what} {name}; in {folder} there are: {known or 'none'}")
