"""Files as a source, on disk or object storage: NDJSON as it is, single resources and Bundles split into NDJSON.

What a file holds is told by its content. Lines of NDJSON may be of any type, mixed. A Bundle of resources
(collection, searchset, transaction, batch) becomes its entries' resources, with their text as it was, not written
anew: ``1.00`` stays ``1.00``. Only references to a ``fullUrl`` of the Bundle become references to what it names.
"""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from fhir_gateway.errors import InputError, Location
from fhir_gateway.sources.download import opened
from fhir_gateway.sources.models import StagedFile, StagedPull
from fhir_gateway.sources.push import bundled
from fhir_gateway.sources.remote import fetch, is_remote

#: Names taken from a folder; a file that is named itself is taken whatever its name.
SUFFIXES = (".ndjson", ".jsonl", ".json", ".ndjson.gz", ".jsonl.gz", ".json.gz")
_ARCHIVE = ".zip"
_LARGEST_MEMBER = 64 * 2**30
"""Bytes of one file in an archive, unpacked."""
_BYTE_ORDER_MARK = "\ufeff"


def stage_files(paths: Sequence[Path | str], source: str, folder: Path) -> StagedPull:
    """Make a pull of files, zip archives and folders (searched through and through), and of URLs of object storage.

    ``folder`` receives what has to be fetched, unpacked or split. The pull's id comes from the source and the files'
    bytes: the same files are the same pull. InputError when a path does not exist, cannot be read or holds no file.
    """
    local = [_local(path, folder / f"fetched-{number}") for number, path in enumerate(paths)]
    unpacked = (folder / f"unpacked-{number}" for number in itertools.count())
    found = [(path, name) for path in local for path, name in _found(path, unpacked)]
    if not found:
        raise InputError(f"no files named {', '.join('*' + suffix for suffix in SUFFIXES)} were found")
    digest = hashlib.sha256(source.encode())
    staged = []
    for number, (path, name) in enumerate(found):
        try:
            with path.open("rb") as file:
                digest.update(b"\0" + name.encode() + b"\0" + hashlib.file_digest(file, "sha256").digest())
            staged.append(_staged(path, name, folder / f"{number:06d}.ndjson"))
        except (EOFError, zlib.error) as error:
            raise InputError("the gzip file is truncated or damaged", location=Location(name)) from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise InputError(f"the file cannot be read ({reason})", location=Location(name)) from error
    return StagedPull(f"files-{digest.hexdigest()[:24]}", source, "files", None, tuple(staged))


def _local(path: Path | str, folder: Path) -> Path:
    if isinstance(path, str) and is_remote(path):
        return fetch(path, folder, (*SUFFIXES, _ARCHIVE))
    return Path(path)


def _found(path: Path, unpacked: Iterator[Path]) -> Iterator[tuple[Path, str]]:
    """Files under a path, with the names to show."""
    if path.is_file() and path.name.lower().endswith(_ARCHIVE):
        for file, name in _found(_unpack(path, next(unpacked)), unpacked):
            yield file, f"{path.name}/{name}"
    elif path.is_file():
        yield path, path.name
    elif path.is_dir():
        for file in sorted(path.rglob("*")):
            below = file.relative_to(path)
            if not file.is_file() or any(part.startswith(".") for part in below.parts):
                continue
            if file.name.lower().endswith(_ARCHIVE):
                for inner, shown in _found(file, unpacked):
                    yield inner, (below.parent / shown).as_posix()
            elif file.name.lower().endswith(SUFFIXES):
                yield file, below.as_posix()
    else:
        raise InputError("no such file or folder", location=Location(path.name))


def _unpack(path: Path, folder: Path) -> Path:
    """The files of an archive that we read, in ``folder``; InputError when it is damaged, or a file too large."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.is_dir() or not member.filename.lower().endswith(SUFFIXES):
                    continue
                if member.file_size > _LARGEST_MEMBER:
                    raise InputError("a file in the archive is too large", location=Location(path.name))
                archive.extract(member, folder)  # leaves out what would lead out of the folder
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise InputError("the archive is damaged or encrypted", location=Location(path.name)) from error
    return folder


def _staged(path: Path, name: str, target: Path) -> StagedFile:
    first = _first_line(path)
    if first is None:
        return StagedFile(path, name)  # empty, or not to be decompressed: reading it will say where
    try:
        head = json.loads(first)
    except (ValueError, RecursionError):
        # not a resource per line: one resource or Bundle over many lines, or nothing of the kind
        if not name.lower().removesuffix(".gz").endswith(".json"):
            return StagedFile(path, name)
        lines: Iterable[str] = bundled(_text(path))
    else:
        if not isinstance(head, dict) or head.get("resourceType") != "Bundle":
            return StagedFile(path, name)
        lines = (text for line in _text(path).split("\n") if line.strip() for text in bundled(line))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("w", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
        for line in lines:
            file.write(line + "\n")
    return StagedFile(target, name)


def _first_line(path: Path) -> str | None:
    """First line that is not blank; None when there is none or the file is damaged."""
    try:
        with opened(path) as lines:
            line = next((line for line in lines if line.strip()), None)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return None
    return None if line is None else line.decode("utf-8", "replace").lstrip(_BYTE_ORDER_MARK)


def _text(path: Path) -> str:
    with opened(path) as file:
        content = file.read()
    return content.decode("utf-8", "surrogateescape").lstrip(_BYTE_ORDER_MARK)
