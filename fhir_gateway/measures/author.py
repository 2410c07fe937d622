"""Authoring command: compile the CQL of measure packages and write their Libraries, value sets and locks.

``python -m fhir_gateway.measures.author --modelinfo DIR --node-modules DIR measures/PACKAGE...``

For each package the CQL in its ``cql/`` and in ``../common/cql/`` is translated to ELM by
``measures/build/translate.mjs`` (Node with the npm packages ``@cqframework/cql`` and ``@lhncbc/ucum-lhc`` in
``--node-modules``); each library the measure includes becomes ``library-NAME.json`` with CQL, ELM and hashes, or
``library-NAME-VERSION.json`` where several versions are included. Value sets of ``../common`` that the criteria can
reach are copied. Running the gateway needs neither Node nor this command.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import GatewayError, MeasureError
from fhir_gateway.measures.canonicals import CANONICAL_BASE, CQL_SHA256
from fhir_gateway.measures.content import Resource
from fhir_gateway.measures.definition import read_measure
from fhir_gateway.measures.elm_references import Elm, LibraryId, identifier, include_closure, references, section
from fhir_gateway.measures.lock import write_lock
from fhir_gateway.measures.package import ELM_JSON, MeasurePackage
from fhir_gateway.terminology.canonical import split_canonical

_LIBRARY_LINE = re.compile(r"^library\s+(\w+)\s+version\s+'([^']+)'", re.MULTILINE)
_LOGIC_LIBRARY = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/library-type", "code": "logic-library"}]}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("packages", nargs="+", type=Path, metavar="PACKAGE")
    parser.add_argument("--modelinfo", required=True, type=Path, help="folder with System and FHIR model infos")
    parser.add_argument("--node-modules", required=True, type=Path, help="folder that holds node_modules")
    options = parser.parse_args(arguments)
    try:
        for package in options.packages:
            libraries = translate(package, options.modelinfo, options.node_modules)
            write_package(package, libraries)
            print(f"{package.name}: {MeasurePackage.load(package).package_hash}")  # noqa: T201 - a console command
    except GatewayError as error:
        print(error, file=sys.stderr)  # noqa: T201 - a console command
        return error.exit_code
    return 0


def cql_hash(text: str) -> str:
    """sha256 of a CQL text, as recorded in its Library."""
    return hashlib.sha256(text.encode()).hexdigest()


def translate(package: Path, modelinfo: Path, node_modules: Path) -> dict[LibraryId, tuple[str, Elm]]:
    """CQL text and ELM of every library in the package and the common folder."""
    folders = [package / "cql", package.parent / "common" / "cql"]
    script = (package.parent / "build" / "translate.mjs").resolve()
    texts = {}
    for file in (file for folder in folders for file in sorted(folder.glob("*.cql"))):
        text = file.read_text("utf-8")
        found = _LIBRARY_LINE.search(text)
        if found is None:
            raise MeasureError(f"{file.name} does not begin with its library's name and version")
        texts[found.group(1), found.group(2)] = text
    node = shutil.which("node")
    if node is None:
        raise MeasureError("authoring needs Node on the path")
    with tempfile.TemporaryDirectory() as out:
        command = [node, str(script), "--modelinfo", str(modelinfo.resolve()), "--out", out]
        command += [str(folder.resolve()) for folder in folders]
        done = subprocess.run(command, cwd=node_modules, capture_output=True, text=True, check=False)  # noqa: S603 - our own script
        if done.returncode:
            raise MeasureError(f"the CQL does not translate: {done.stderr.strip()}")
        return {
            (name, version): (text, orjson.loads((Path(out) / f"{name}-{version}.json").read_bytes())["library"])
            for (name, version), text in texts.items()
        }


def write_package(package: Path, libraries: dict[LibraryId, tuple[str, Elm]]) -> None:
    """Write Libraries, value sets and lock of one package, replacing those of an earlier run."""
    measure: Resource = orjson.loads((package / "measure.json").read_bytes())
    url, version = split_canonical(measure["library"][0])
    closure = include_closure(
        {key: ("cql", elm) for key, (_, elm) in libraries.items()}, (url.rpartition("/")[2], version)
    )
    for old in (*package.glob("library-*.json"), *package.glob("valueset-*.json")):
        old.unlink()
    names = [identifier(elm)[0] for elm in closure]
    for elm in closure:
        name, version = identifier(elm)
        label = name if names.count(name) == 1 else f"{name}-{version}"  # libraries may include different versions
        _write(package / f"library-{label}.json", library_resource(libraries[identifier(elm)][0], elm))
    needed = references(closure, identifier(closure[0]), read_measure(measure).expressions)
    for reference in sorted(needed.value_sets):
        name = split_canonical(reference)[0].rpartition("/")[2]
        shutil.copyfile(package.parent / "common" / f"valueset-{name}.json", package / f"valueset-{name}.json")
    write_lock(package)
    MeasurePackage.load(package)


def library_resource(text: str, elm: Elm) -> Resource:
    """The Library of a CQL text and its ELM, with the hash of the text it was compiled from."""
    name, version = identifier(elm)
    depends = [
        f"{CANONICAL_BASE}/Library/{include['path']}|{include['version']}" for include in section(elm, "includes")
    ]
    depends += [term["id"] for term in section(elm, "valueSets")]
    resource: Resource = {
        "resourceType": "Library",
        "id": f"{name}-{version}",
        "url": f"{CANONICAL_BASE}/Library/{name}",
        "version": version,
        "name": name,
        "status": "active",
        "experimental": False,
        "type": _LOGIC_LIBRARY,
        "date": "2026-11-01",
        "publisher": "FHIR Gateway",
    }
    if depends:
        resource["relatedArtifact"] = [{"type": "depends-on", "resource": target} for target in depends]
    source = [{"url": CQL_SHA256, "valueString": cql_hash(text)}]
    resource["content"] = [
        {"contentType": "text/cql", "data": base64.b64encode(text.encode()).decode()},
        {
            "extension": source,
            "contentType": ELM_JSON,
            "data": base64.b64encode(orjson.dumps({"library": elm})).decode(),
        },
    ]
    return resource


def _write(path: Path, content: Any) -> None:
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


if __name__ == "__main__":
    sys.exit(main())
