"""Tables in a local folder: whoever writes holds the lake's only writer's place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from fhir_gateway.lake.columns import table_schema
from fhir_gateway.lake.tables import BUCKET, ResourceTable, StoredFile


class FolderTable(ResourceTable):
    """The Delta table of one resource type in a folder."""

    def __init__(self, root: Path, resource_type: str) -> None:
        super().__init__(root, resource_type)
        self._folder = root / resource_type

    def change(self, added: Iterable[StoredFile], removed: Sequence[StoredFile] = ()) -> int:
        """Make written files part of the table, in the place of others; returns the new Delta version."""
        written = list(added)
        for file in written:
            _sync(self._folder / self.path_of(file))
        if self._logged() < 0:
            self._found(written)
            return 0
        table = self._newest()
        if table is None:
            raise TableNotFoundError(self.resource_type)
        table.create_write_transaction(
            self._actions(written, removed), "append", table_schema(self.resource_type), [BUCKET.name]
        )
        table.update_incremental()
        version = int(table.version())
        self._delta = table
        self._files[version] = self._listed(table)
        _sync(self._folder / "_delta_log" / f"{version:020d}.json")
        return version

    def _newest(self) -> DeltaTable | None:
        """The table as it is now; None when there is none. Reading its log anew would cost more than a small commit."""
        if self._delta is not None:
            self._delta.update_incremental()
            return self._delta
        try:
            self._delta = self._opened()
        except TableNotFoundError:
            return None
        return self._delta

    def roll_back(self, version: int | None) -> bool:
        """Undo what came after ``version`` (None: the table must not exist); says whether there was anything."""
        if version is not None and self._logged() == version:
            return False
        table = self._newest()
        if table is None:
            if version is not None:
                raise TableNotFoundError(self.resource_type)
            shutil.rmtree(self._folder, ignore_errors=True)  # files of a commit that never got as far as its table
            return False
        if version is None:
            shutil.rmtree(self._folder)
            return True
        if self._listed(table) == self.files(version):
            return False
        table.restore(version)
        return True

    def _logged(self) -> int:
        """Newest version that the table's log has; -1 for none."""
        found = (path.stem for path in (self._folder / "_delta_log").glob("*.json"))
        return max((int(name) for name in found if name.isdecimal()), default=-1)


def _sync(path: Path) -> None:
    """Have a file on the disk before a manifest names it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
