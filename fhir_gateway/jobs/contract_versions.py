"""Versions of contracts, kept as they were first settled: what was settled under a version can be made again from it.

A version is a folder of its own: the terms as JSON, the attribution terms, and the tables that came with it.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from datetime import datetime
from importlib.resources import as_file, files
from pathlib import Path
from urllib.parse import quote

import orjson

from fhir_gateway.contracts import Contract
from fhir_gateway.errors import ConflictError, ContractError, NotFoundError
from fhir_gateway.factory import Gateway

_TERMS = "attribution.toml"


def register(gateway: Gateway, path: Path, contract: Contract, now: datetime) -> Path:
    """Keep a contract that was loaded from ``path``; the kept document.

    ConflictError when the version was settled with other terms before: an amendment is a new version. The copy is
    written whole before the version is known, and says the same (its digest is compared).
    """
    folder = _folder(gateway, contract.id, contract.version)
    kept = folder / "contract.json"
    known = {one["version"]: one["digest"] for one in gateway.settlements.versions(contract.id)}
    if known.get(contract.version, contract.digest) != contract.digest:
        raise ConflictError(
            f"version {contract.version} of contract {contract.id} was settled with other terms:"
            " an amendment is a new version"
        )
    if kept.exists() and Contract.load(kept).digest != contract.digest:
        shutil.rmtree(folder)  # of a registration that ended before the version was known
    if not kept.exists():
        _write(path, contract, folder)
    terms = orjson.loads(kept.read_bytes())
    gateway.settlements.register(contract.id, contract.version, contract.digest, contract.title, terms, now)
    return kept


def registered(gateway: Gateway, contract_id: str, version: str) -> Contract:
    """The contract of a version that was settled; NotFoundError."""
    return Contract.load(kept_document(gateway, contract_id, version))


def kept_document(gateway: Gateway, contract_id: str, version: str) -> Path:
    """The document of a version that was settled; NotFoundError."""
    kept = _folder(gateway, contract_id, version) / "contract.json"
    if not kept.exists():
        raise NotFoundError(f"version {version} of contract {contract_id} was never settled here")
    return kept


def _folder(gateway: Gateway, contract_id: str, version: str) -> Path:
    return gateway.data_folder / "contract-versions" / contract_id / quote(version, safe="").replace(".", "%2E")


def _write(path: Path, contract: Contract, folder: Path) -> None:
    """The folder of a version, whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    partial = Path(tempfile.mkdtemp(prefix=".registering-", dir=folder.parent))
    stated = contract.model_dump(
        mode="json", exclude_unset=True
    )  # defaults are the program's, what is stated is theirs
    name = contract.attribution.terms
    if name.endswith(".toml"):
        shutil.copyfile(path.parent / name, partial / _TERMS)
    else:
        with as_file(files("fhir_gateway.attribution") / "terms" / f"{name}.toml") as shipped:
            shutil.copyfile(shipped, partial / _TERMS)
    stated["attribution"]["terms"] = _TERMS
    for number, (table, reference) in enumerate(sorted(contract.tables.items())):
        if reference.path is None:
            continue
        shutil.copyfile(path.parent / reference.path, partial / f"table-{number}.csv")
        stated["tables"][table]["path"] = f"table-{number}.csv"
    (partial / "contract.json").write_bytes(orjson.dumps(stated, option=orjson.OPT_INDENT_2))
    if Contract.load(partial / "contract.json").digest != contract.digest:
        shutil.rmtree(partial)
        raise ContractError("the contract's files changed while it was read: settle again")
    try:
        os.rename(partial, folder)
    except OSError:  # somebody else registered it meanwhile; the caller compares
        shutil.rmtree(partial)
