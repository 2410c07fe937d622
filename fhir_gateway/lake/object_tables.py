"""Tables on object storage, where nothing keeps two writers apart but the storage itself.

A commit goes by the Delta version that it made sure of first, and its own entry in the log must be the next one: the
storage takes an entry of a number once. So a writer that was thought dead, or that nothing knew of, can spoil the
commit of another, which then begins anew, but never add its files to it. For the same reason nothing is deleted when a
commit is undone: the other may be about to publish it. What nobody names is removed by retention, after a while.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from deltalake import CommitProperties, DeltaTable
from deltalake.exceptions import CommitFailedError, TableNotFoundError

from fhir_gateway.errors import ConflictError
from fhir_gateway.lake.columns import table_schema
from fhir_gateway.lake.folder_tables import FolderTable
from fhir_gateway.lake.places import ObjectPath, Place, failing_clearly, names
from fhir_gateway.lake.tables import BUCKET, ResourceTable, StoredFile

_ONCE = CommitProperties(max_commit_retries=0)


def open_table(root: Place, resource_type: str) -> ResourceTable:
    """The table of a resource type, wherever the lake is."""
    return ObjectTable(root, resource_type) if isinstance(root, ObjectPath) else FolderTable(root, resource_type)


class ObjectTable(ResourceTable):
    """The Delta table of one resource type on object storage."""

    #: The Delta version that has exactly the files of the lake version before; -1: there is no log. Said by roll_back.
    _sure = -1

    def change(self, added: Iterable[StoredFile], removed: Sequence[StoredFile] = ()) -> int:
        """As in a folder; ConflictError when the table is no longer as :meth:`roll_back` left it."""
        written = list(added)
        if self._sure < 0:
            self._found(written)
            self._sure = 0
            return 0
        with failing_clearly(self.path):
            table = self._delta if self._delta is not None and self._delta.version() == self._sure else None
            self._sure = self._write(table or self._opened(self._sure), written, removed)
        return self._sure

    def _write(self, table: DeltaTable, added: Sequence[StoredFile], removed: Sequence[StoredFile]) -> int:
        actions, schema = self._actions(added, removed), table_schema(self.resource_type)
        try:
            table.create_write_transaction(actions, "append", schema, [BUCKET.name], commit_properties=_ONCE)
        except CommitFailedError:
            raise ConflictError(
                f"the table {self.resource_type} was written by somebody else at the same time"
            ) from None
        version = int(table.version()) + 1
        self._delta = self._opened(version)
        self._files[version] = self._listed(self._delta)
        return version

    def roll_back(self, version: int | None) -> bool:
        """Have the newest Delta version mean the same as ``version`` (None: nothing); whether it did not."""
        # the log's entries are numbers; what follows the name of one is newer
        after = "" if version is None else f"{version:020d}.json"
        newer = [name for name in names(self.path / "_delta_log", after) if name.endswith(".json")]
        if not newer:
            self._sure = -1 if version is None else version
            return False
        with failing_clearly(self.path):
            try:
                table = self._opened()
            except TableNotFoundError:
                self._sure = -1
                return False
            found, wanted = self._listed(table), self.files(version) if version is not None else ()
            self._sure = int(table.version())
            if found == wanted:
                return False
            there = set(wanted)
            before = set(found)
            self._sure = self._write(
                table, [file for file in wanted if file not in before], [file for file in found if file not in there]
            )
        return True
