"""Files on object storage as a source: ``s3://bucket/exports/2025``, read by pyarrow's file systems.

Credentials, region and endpoint come from the platform's environment (``AWS_ACCESS_KEY_ID``, ``AWS_REGION``,
``AWS_ENDPOINT_URL``, instance roles), never from the URL: URLs are logged and kept.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from fhir_gateway.errors import ConfigurationError, InputError, Location, SourceError

if TYPE_CHECKING:
    from pyarrow import fs

SCHEMES = ("s3", "gs", "abfs", "abfss")
_CHUNK = 1 << 22


def is_remote(path: Path | str) -> bool:
    """Whether this names something on object storage."""
    return isinstance(path, str) and urlsplit(path).scheme in SCHEMES


def fetch(url: str, folder: Path, suffixes: tuple[str, ...]) -> Path:
    """Copy the object, or all objects below a prefix with one of these suffixes, into ``folder``; gives the folder.

    InputError when there is nothing there, SourceError when the storage refuses or fails.
    """
    from pyarrow import fs  # here, so that commands without remote files do not load it

    system, root = _opened(url)
    shown = urlsplit(url)._replace(query="", fragment="").geturl()
    try:
        found = system.get_file_info(root)
        selector = fs.FileSelector(root, recursive=True, allow_not_found=True)
        below = [found] if found.is_file else system.get_file_info(selector)
        objects = [one for one in below if one.is_file and (found.is_file or one.base_name.lower().endswith(suffixes))]
        for one in sorted(objects, key=lambda one: str(one.path)):
            name = one.base_name if found.is_file else str(one.path).removeprefix(root).lstrip("/")
            _copy(system, one, folder / name, folder)
    except OSError as error:  # what Arrow raises for any refusal; its text may hold signed URLs
        raise SourceError(f"{shown}: the object storage refuses or fails ({type(error).__name__})") from None
    if not objects:
        raise InputError("no such object, or no files below this prefix", location=Location(shown))
    return folder


def _copy(system: fs.FileSystem, one: fs.FileInfo, target: Path, folder: Path) -> None:
    if not target.resolve().is_relative_to(folder.resolve()):
        raise InputError("an object's name leads out of its prefix", location=Location(one.base_name))
    target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with system.open_input_stream(one.path, compression=None) as stream, target.open("wb") as out:
        while chunk := stream.read(_CHUNK):
            out.write(chunk)
    if target.stat().st_size != one.size:
        raise SourceError(f"{one.base_name}: the object storage sent another number of bytes than it said")


def _opened(url: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import ArrowInvalid, fs

    parts = urlsplit(url)
    if parts.username or parts.query:
        raise ConfigurationError("a storage URL holds no credentials or options: they come from the environment")
    try:
        if parts.scheme == "s3":
            endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
            region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
            system = fs.S3FileSystem(endpoint_override=endpoint, region=region, request_timeout=60)
            return system, (parts.netloc + parts.path).rstrip("/")
        system, root = fs.FileSystem.from_uri(url)
    except (ArrowInvalid, OSError, NotImplementedError):
        raise ConfigurationError(f"{parts.scheme}://{parts.netloc} cannot be opened as object storage") from None
    return system, root.rstrip("/")
