"""Write ``elm_schema.json`` from the ELM r1 schema as the CQL translator publishes it.

An authoring tool, run by hand when the schema changes: ``python -m fhir_gateway.cql.schema_generate elm.jar``, where
the jar is ``info.cqframework:elm`` 2.11.0 from Maven Central: classes that JAXB made of the schemas
``expression.xsd``, ``clinicalexpression.xsd`` and ``library.xsd``, with cardinalities. Needs ``javap`` of a JDK.

Output: ``{"types": {TYPE: {"abstract": .., "extends": .., "fields": {name: [type, list, required]}}}, "enums": {..}}``.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

_PACKAGE = "org/hl7/elm/r1/"
_CLASS = re.compile(
    r"^public (?P<modifiers>(?:abstract |final )*)class org\.hl7\.elm\.r1\.(?P<name>\w+)"
    r"(?: extends (?P<parent>[\w.<>]+))?"
)
_FIELD = re.compile(r"^  protected (?P<type>[\w.<>]+) (?P<field>\w+);")
_CONSTANT = re.compile(r"^  public static final org\.hl7\.elm\.r1\.(?P<enum>\w+) (?P<constant>\w+);")
_VALUE = re.compile(r'^ +value="(?P<value>[^"]+)"')


def _disassembled(jar: Path) -> list[str]:
    """Lines of ``javap`` over all classes of the schema."""
    with TemporaryDirectory() as folder, zipfile.ZipFile(jar) as archive:
        names = [n for n in archive.namelist() if re.fullmatch(rf"{_PACKAGE}[A-Za-z]+\.class", n)]
        archive.extractall(folder, names)
        command = ["javap", "-p", "-v", *(str(Path(folder) / name) for name in sorted(names))]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()  # noqa: S603


def schema(lines: list[str]) -> dict[str, Any]:
    """Types and enumerations from the lines of ``javap``."""
    types: dict[str, Any] = {}
    enums: dict[str, list[str]] = {}
    fields: dict[str, list[Any]] = {}
    field: list[Any] | None = None
    constant: tuple[str, str] | None = None
    for line in lines:
        if found := _CLASS.match(line):
            field = constant = None
            fields = {}
            parent = (found["parent"] or "").rsplit(".", 1)[-1].rstrip(">")
            if "java.lang.Enum" not in (found["parent"] or ""):
                entry = {"abstract": "abstract" in found["modifiers"], "extends": parent, "fields": fields}
                types[found["name"]] = entry
        elif found := _FIELD.match(line):
            kind = found["type"]
            field = [kind.rsplit(".", 1)[-1].rstrip(">"), kind.startswith("java.util.List"), False]
            fields[found["field"].removeprefix("_")] = field
        elif found := _CONSTANT.match(line):
            field, constant = None, (found["enum"], found["constant"])
            enums.setdefault(found["enum"], []).append(found["constant"])
        elif field is not None and line.strip() == "required=true":
            field[2] = True
        elif constant is not None and (found := _VALUE.match(line)):
            enums[constant[0]][-1] = found["value"]
            constant = None
    for entry in types.values():
        if entry["extends"] not in types:
            entry["extends"] = None
    return {"types": types, "enums": enums}


def main() -> None:
    """Write the file beside this module."""
    found = schema(_disassembled(Path(sys.argv[1])))
    rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(entry)}" for name, entry in sorted(found["types"].items()))
    text = f'{{\n "enums": {json.dumps(found["enums"])},\n "types": {{\n{rows}\n }}\n}}\n'
    Path(__file__).with_name("elm_schema.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
