"""Installing implementation guides, and the lock of what we build on.

A guide comes as a FHIR package (``.tgz``) or as a folder of FHIR JSON files. Its definitions are copied into the folder
of guides, unchanged; examples are left out.
The lock (``profiles/guides.lock.json``) names each definition that we build on, with a digest of what it demands: so
two copies of a guide agree whatever tool wrote their texts and dates.
"""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.conformance.definitions import INDEX, KINDS, Definition, Definitions, described, load
from fhir_gateway.errors import ConfigurationError, Location

_LARGEST = 2**26  # bytes of one file; the largest definition of the guides we know has 2 MB

#: What each kind of definition demands: the members that count, everything else is text and dates.
_DEMANDS: Mapping[str, tuple[str, ...]] = {
    "CodeSystem": ("content", "concept"),
    "OperationDefinition": ("code", "system", "type", "instance", "resource", "parameter"),
    "SearchParameter": ("code", "base", "type", "expression", "target"),
    "StructureDefinition": ("type", "kind", "derivation", "baseDefinition", "context", "differential"),
    "ValueSet": ("compose",),
}
_TEXTS = frozenset(
    "alias comment definition designation display documentation example extension human id isModifierReason mapping "
    "meaningWhenMissing orderMeaning property requirements short source xpath".split()
)


@dataclass(frozen=True, slots=True)
class Guide:
    """An installed guide."""

    name: str
    version: str
    definitions: int

    def __str__(self) -> str:
        return f"{self.name}#{self.version}"


def add_guide(source: Path, folder: Path, package: str | None = None) -> Guide:
    """Install a package or folder into the folder of guides; the same guide is replaced.

    ``package`` is ``name#version``, needed for a folder without ``package.json``. Raises ConfigurationError.
    """
    if not source.exists():
        raise ConfigurationError("no such file or folder", location=Location(file=str(source)))
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / f".{source.stem}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir()
    try:
        _unpack(source, draft) if source.is_file() else _copy(source, draft)
        name, version = _named(draft, source, package)
        rows = sorted(
            (one.kind, one.url, one.version, one.file.name)
            for file in draft.glob("*.json")
            if file.name not in ("package.json", INDEX) and (one := described(file, None)) is not None
        )
        if not rows:
            raise ConfigurationError("holds no definitions", location=Location(file=str(source)))
        (draft / INDEX).write_bytes(orjson.dumps({"package": f"{name}#{version}", "definitions": rows}))
        target = folder / f"{name}#{version}"
        shutil.rmtree(target, ignore_errors=True)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return Guide(name, version, len(rows))


def guides(folder: Path) -> list[Guide]:
    """The guides that are installed."""
    found = []
    for index in sorted(folder.glob(f"*/{INDEX}")):
        told = load(index)
        name, _, version = told["package"].partition("#")
        found.append(Guide(name, version, len(told["definitions"])))
    return found


def _unpack(source: Path, draft: Path) -> None:
    try:
        with tarfile.open(source) as archive:
            for one in archive:
                parts = Path(one.name).parts
                if not one.isfile() or len(parts) != 2 or parts[0] != "package" or one.size > _LARGEST:
                    continue  # examples, schemas and the like lie deeper
                content = archive.extractfile(one)
                if content is not None and _wanted(parts[1]):
                    (draft / parts[1]).write_bytes(content.read())
    except (tarfile.TarError, EOFError, OSError):
        raise ConfigurationError("is not a FHIR package (.tgz)", location=Location(file=str(source))) from None


def _copy(source: Path, draft: Path) -> None:
    for file in sorted(source.rglob("*.json")):
        if file.is_file() and file.stat().st_size <= _LARGEST and (_wanted(file.name) or _defines(file)):
            target = draft / file.name
            if target.exists():
                target = draft / f"{file.parent.name}-{file.name}"
            shutil.copyfile(file, target)


def _wanted(name: str) -> bool:
    return name == "package.json" or (name.endswith(".json") and name.partition("-")[0] in KINDS)


def _defines(file: Path) -> bool:
    """True for definitions under a name of their own (sources of guides are not named as packages are)."""
    try:
        return described(file) is not None
    except ConfigurationError:
        return False


def _named(draft: Path, source: Path, package: str | None) -> tuple[str, str]:
    if package is not None:
        name, _, version = package.partition("#")
    else:
        told = load(draft / "package.json") if (draft / "package.json").is_file() else {}
        name, version = str(told.get("name", "")), str(told.get("version", ""))
    if not name or not version or any(sign in f"{name}{version}" for sign in "/\\"):
        raise ConfigurationError(
            "has no package.json that names it; give name#version", location=Location(file=str(source))
        )
    return name, version


def digest(resource: Mapping[str, Any]) -> str:
    """SHA-256 of what a definition demands: its rules in canonical JSON, without texts and dates."""
    members = _DEMANDS[str(resource["resourceType"])]
    demands = {name: _bare(resource[name]) for name in members if name in resource}
    demands["url"] = resource["url"]
    return hashlib.sha256(orjson.dumps(demands, option=orjson.OPT_SORT_KEYS)).hexdigest()


def _bare(node: Any) -> Any:
    if isinstance(node, dict):
        return {name: _bare(one) for name, one in node.items() if name not in _TEXTS}
    return [_bare(one) for one in node] if isinstance(node, list) else node


def built_on(definitions: Definitions, roots: Iterable[str]) -> dict[str, Definition]:
    """Definitions reached from the roots: bases, profiles of types, extensions, value sets and their code systems."""
    found: dict[str, Definition] = {}
    left = list(roots)
    while left:
        canonical = left.pop()
        one = definitions.find(canonical)
        if one is None or one.url in found:
            continue
        found[one.url] = one
        left += _canonicals(definitions.read(one))
    return dict(sorted(found.items()))


def _canonicals(resource: Mapping[str, Any]) -> Iterator[str]:
    yield str(resource.get("baseDefinition", ""))
    for element in resource.get("differential", {}).get("element", ()):
        yield str(element.get("binding", {}).get("valueSet", ""))
        for one in element.get("type", ()):
            yield from (*one.get("profile", ()), *one.get("targetProfile", ()))
    for include in resource.get("compose", {}).get("include", ()):
        yield from (str(include.get("system", "")), *include.get("valueSet", ()))


def locked(lock: Mapping[str, Any], definitions: Definitions) -> dict[str, Any]:
    """The lock with the digests of its guides' definitions, as far as they are installed; others stay as they are.

    Of guides marked ``whole`` every definition is locked, of others what those build on.
    """
    by_package: dict[str, list[Definition]] = {}
    for one in definitions:
        if one.package is not None:
            by_package.setdefault(one.package, []).append(one)
    whole = [f"{guide['package']}#{guide['version']}" for guide in lock["guides"] if guide.get("whole")]
    reached = built_on(definitions, [one.url for name in whole for one in by_package.get(name, ())])
    written = []
    for guide in lock["guides"]:
        name = f"{guide['package']}#{guide['version']}"
        chosen = by_package.get(name, []) if guide.get("whole") else [o for o in reached.values() if o.package == name]
        if name in by_package:
            rows = {one.url: digest(definitions.read(one)) for one in chosen}
            guide = {**guide, "definitions": dict(sorted(rows.items()))}
        written.append(guide)
    return {**lock, "guides": written}


def differences(lock: Mapping[str, Any], definitions: Definitions) -> list[str]:
    """Canonicals whose installed definition demands something else than the lock, or that their guide lacks."""
    found = []
    for guide in lock["guides"]:
        name = f"{guide['package']}#{guide['version']}"
        for url, expected in guide.get("definitions", {}).items():
            one = definitions.find(f"{url}|{guide['version']}")
            if one is not None and one.package == name and digest(definitions.read(one)) != expected:
                found.append(f"{url}|{guide['version']}")
    return found
