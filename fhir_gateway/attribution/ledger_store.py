"""Where member-month ledgers rest: a folder per contract, a file per posting, written whole and never touched again."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fhir_gateway.attribution import ledger
from fhir_gateway.errors import ConflictError, ContractError


class MonthLedger:
    """The ledger of one contract. Of two who post at once the second gets ConflictError and posts again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def postings(self) -> list[Path]:
        """Files of the postings, oldest first."""
        return sorted(one for one in self._folder.glob("*.parquet") if re.fullmatch(r"\d{6}", one.stem))

    def rows(self, through: int | None = None) -> pa.Table | None:
        """All rows posted, or those of the first ``through`` postings; None before there is one."""
        files = self.postings()[:through]
        return pa.concat_tables([pq.read_table(one) for one in files]) if files else None

    def post(
        self,
        current: pa.Table,
        cycle: date,
        window_months: int,
        *,
        original_from: date | None = None,
        span: tuple[date, date] | None = None,
        stamps: Mapping[str, str] | None = None,
    ) -> pa.Table:
        """Post a cycle (:func:`fhir_gateway.attribution.ledger.post`) and keep its rows; the rows that are new.

        ``stamps`` (lake version, terms ...) are kept with the posting. A cycle before the last one is refused:
        ContractError. A posting without rows leaves no file.
        """
        files = self.postings()
        previous = self.rows(len(files))
        last = None if previous is None else pc.max(previous["cycle"]).as_py()
        if last is not None and cycle < last:
            raise ContractError("cycle: a later one was posted before")
        new = ledger.post(previous, current, cycle, window_months, original_from=original_from, span=span)
        if new.num_rows:
            stamped = {**(new.schema.metadata or {}), **{k.encode(): v.encode() for k, v in (stamps or {}).items()}}
            self._keep(len(files) + 1, new.replace_schema_metadata(stamped))
        return new

    def _keep(self, number: int, rows: pa.Table) -> None:
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(prefix=".posting-", dir=self._folder)
        os.close(handle)
        try:
            pq.write_table(rows, name)
            os.link(name, self._folder / f"{number:06d}.parquet")  # unlike a rename it never replaces
        except FileExistsError:
            raise ConflictError("somebody else posted to this ledger at the same time: post again") from None
        finally:
            os.unlink(name)
