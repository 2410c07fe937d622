"""How clean the claims of the lake are, and what payers denied: computed as a job, kept for those who look at it.

What is kept is the newest check: the tables of :class:`~fhir_gateway.claim_edits.Checked` as columns, and what is made
of them of everybody as plain values. Of some members the same functions make it of their part of the columns.
"""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from fhir_gateway.claim_edits import Checked
from fhir_gateway.claim_edits.denials import BY
from fhir_gateway.claim_edits.rates import clean_rates, edit_rates, unchecked_edits
from fhir_gateway.factory import Gateway
from fhir_gateway.jobs.claim_checks import check_lake
from fhir_gateway.jobs.clock import instant
from fhir_gateway.jobs.denials import denials
from fhir_gateway.jobs.locks import hold

_TABLES = ("claims", "findings", "unchecked")


@dataclass(frozen=True, slots=True)
class KeptCheck:
    """The newest check of all claims: when, of which lake version, with which reference tables; its files."""

    folder: Path
    checked_at: datetime
    lake_version: int
    tables: tuple[str, ...]
    rates: Mapping[str, Any]
    denials: Mapping[str, Any]

    @property
    def findings(self) -> Path:
        """A row per finding: claim (key), member, provider, payer, edit, path, other."""
        return self.folder / "listed.parquet"

    def rates_of(self, members: Sequence[str]) -> dict[str, Any]:
        """Rates of the claims of some members."""
        with duckdb.connect() as connection:
            connection.register("wanted", pa.table({"member": pa.array(list(members), pa.string())}))
            mine = "SELECT * FROM read_parquet(?) WHERE member IN (SELECT member FROM wanted)"
            claims = connection.sql(mine, params=[str(self.folder / "claims.parquet")]).to_arrow_table()
            connection.register("mine", claims)
            below = "SELECT * FROM read_parquet(?) WHERE rid IN (SELECT rid FROM mine)"
            findings, unchecked = (
                connection.sql(below, params=[str(self.folder / f"{name}.parquet")]).to_arrow_table()
                for name in ("findings", "unchecked")
            )
        return _rates(Checked(claims, findings, unchecked, self.tables))


def check_and_keep(gateway: Gateway, now: datetime | None = None) -> KeptCheck:
    """Check every claim of the lake by all edits, and keep what is found in the place of an earlier check."""
    moment = instant(gateway, now)
    with hold(gateway, "claim-quality", wait=lambda: True):
        version = gateway.lake.version
        checked = check_lake(gateway)
        with denials(gateway) as found:
            told = {
                "overall": found.overall(),
                "avoidable": found.top_avoidable(),
                "by": {one: found.by(one) for one in BY},
            }
        former, parent = newest_check(gateway), _parent(gateway)
        parent.mkdir(mode=0o700, exist_ok=True)
        folder = parent / f"{version}-{secrets.token_hex(4)}"
        folder.mkdir(mode=0o700)
        for name in _TABLES:
            pq.write_table(getattr(checked, name), folder / f"{name}.parquet", compression="zstd")
        pq.write_table(_listed(checked), folder / "listed.parquet", compression="zstd")
        about = {
            "folder": folder.name,
            "checked_at": moment.isoformat(),
            "lake_version": version,
            "tables": list(checked.tables),
            "rates": _rates(checked),
            "denials": told,
        }
        partial = parent / ".newest.json"
        partial.write_bytes(orjson.dumps(about, default=_plain, option=orjson.OPT_INDENT_2))
        os.replace(partial, parent / "newest.json")
        for other in parent.iterdir():
            if other.is_dir() and other not in (folder, former and former.folder):  # somebody may be reading the former
                shutil.rmtree(other, ignore_errors=True)
    kept = newest_check(gateway)
    assert kept is not None  # just written  # noqa: S101
    return kept


def newest_check(gateway: Gateway) -> KeptCheck | None:
    """The check that was kept last; None when none was."""
    path = _parent(gateway) / "newest.json"
    if not path.is_file():
        return None
    about = orjson.loads(path.read_bytes())
    return KeptCheck(
        path.parent / about["folder"],
        datetime.fromisoformat(about["checked_at"]),
        about["lake_version"],
        tuple(about["tables"]),
        about["rates"],
        about["denials"],
    )


def _rates(checked: Checked) -> dict[str, Any]:
    return {
        "overall": clean_rates(checked),
        "by": {one: clean_rates(checked, one) for one in ("provider", "payer")},
        "edits": edit_rates(checked),
        "unchecked": unchecked_edits(checked),
    }


def _listed(checked: Checked) -> pa.Table:
    """Findings beside the claims that they are of."""
    with duckdb.connect() as connection:
        connection.register("claims", checked.claims)
        connection.register("findings", checked.findings)
        return connection.sql(
            "SELECT key, member, provider, payer, edit, path, other FROM findings JOIN claims USING (rid)"
            " ORDER BY rid, edit, path"
        ).to_arrow_table()


def _parent(gateway: Gateway) -> Path:
    return gateway.data_folder / "claim-quality"


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} is no part of a check")
