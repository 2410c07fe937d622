"""Settings of the gateway: read once at the edge and passed in.

Every setting may be given as an environment variable with the prefix ``FHIR_GATEWAY_`` or in the file named by
``FHIR_GATEWAY_ENV_FILE``. Unknown keys are refused.
"""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """All settings, with the embedded defaults (SQLite and a local folder)."""

    model_config = SettingsConfigDict(env_prefix="FHIR_GATEWAY_", extra="forbid", frozen=True)

    data_dir: Path = Field(default=Path(".fhir-gateway"), description="Folder of everything the gateway keeps.")
    database_url: str | None = Field(
        default=None, description="Control plane: SQLAlchemy URL; default SQLite in the data folder."
    )
    lake_url: str | None = Field(
        default=None, description="Data plane: folder or object storage URL; default `lake` in the data folder."
    )
    lake_buckets: int = Field(default=8, ge=1, le=4096, description="Member buckets; fixed once the lake exists.")
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
    reporter_name: str = Field(default="FHIR Gateway", description="Name of the organization that reports.")

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        ZoneInfo(value)
        return value

    @property
    def resolved_database_url(self) -> str:
        """The control plane's URL."""
        return self.database_url or f"sqlite:///{self.data_dir.resolve() / 'control.db'}"

    @property
    def resolved_lake_url(self) -> str:
        """The data plane's URL or folder."""
        return self.lake_url or str(self.data_dir.resolve() / "lake")
