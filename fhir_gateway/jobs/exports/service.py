"""The work of an export: rows of one moment into files of NDJSON, so that a kill loses little.

What is stored, and what will be read later, is written down in the moment of the export; a process that takes over
begins with the part that was not finished. A kill within the moment itself begins it anew, at a later moment.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.exports import clinical
from fhir_gateway.jobs.exports.models import Block, Export, Json, Wanted
from fhir_gateway.jobs.exports.organized import ANCHOR, organize
from fhir_gateway.jobs.exports.sources import sources_of
from fhir_gateway.jobs.exports.stored import gone
from fhir_gateway.jobs.requests import Answer, AnswerFile, Task

_PLAN = "plan.json"
_MEGABYTE = 1_000_000


def export(task: Task) -> Answer:
    """Write the files of an export and say which they are."""
    wanted = Wanted.of(task.payload)
    made = Export.of(task.gateway, wanted, task.audience, task.folder)
    files = _Files(task, made)
    plan = _read(task.folder / _PLAN)
    if plan is None:
        plan = _moment(task, made, files)
        _write(task.folder / _PLAN, plan)
    output = [AnswerFile(**one) for one in plan["output"]]
    issues = [_issue(*note) for note in wanted.notes]
    for number, part in enumerate(plan["parts"]):
        done = task.folder / f"part-{number}.json"
        finished = _read(done)
        if finished is None:
            finished = _part(made, files, part, number)
            _write(done, finished)
        output += [AnswerFile(**one) for one in finished["files"]]
        issues += finished["issues"]
    more = {}
    if wanted.organized:
        done = task.folder / "organized.json"
        organized = _read(done)
        if organized is None:
            organized = [asdict(one) for one in organize(task.folder, output, files.limit)]
            _write(done, organized)
        for one in output:
            (task.folder / one.name).unlink(missing_ok=True)
        output, more = [AnswerFile(**one) for one in organized], {"outputOrganizedBy": ANCHOR}
    errors = files.write("OperationOutcome", "problems", _outcomes(issues))
    deleted = tuple(AnswerFile(**one) for one in plan["deleted"])
    return Answer(plan["transaction_time"], tuple(output), tuple(errors), deleted, more)


def _moment(task: Task, made: Export, files: _Files) -> Json:
    """Everything that is read in the moment, and the plan of what is read later."""
    for left in task.folder.glob("*.ndjson"):
        left.unlink()
    wanted = made.wanted
    output: list[AnswerFile] = []
    deleted: list[AnswerFile] = []
    parts: list[Json] = []
    with made.everything.frozen() as moment:
        for resource_type in wanted.types:
            for source in sources_of(resource_type, wanted.level):
                if source.now is not None:
                    output += files.write(resource_type, "0", source.now(made, moment))
                if source.plan is not None:
                    parts += [{"type": resource_type, "plan": one} for one in source.plan(made, moment)]
        ids = (
            (kind, some)
            for kind in wanted.types
            for some in chain(gone(made, moment, kind), clinical.gone(made, moment, kind))
        )
        deleted += files.write("Bundle", "deleted", _deletions(ids))
        instant = moment.instant
    return {
        "transaction_time": instant,
        "output": [asdict(one) for one in output],
        "deleted": [asdict(one) for one in deleted],
        "parts": parts,
    }


def _part(made: Export, files: _Files, part: Json, number: int) -> Json:
    """The files of one part, and what could not be read."""
    (source,) = [one for one in sources_of(part["type"], made.wanted.level) if one.later is not None]
    if source.later is None:
        raise RuntimeError("a source that plans reads later")
    try:
        written = files.write(part["type"], str(number + 1), source.later(made, part["plan"]))
    except NotFoundError:
        text = f"rows of {part['type']} that were there when the export began are gone"
        return {"files": [], "issues": [_issue("error", "incomplete", text)]}
    return {"files": [asdict(one) for one in written], "issues": []}


class _Files:
    """Writes rows into files of at most so many; none is empty."""

    def __init__(self, task: Task, made: Export) -> None:
        self._task = task
        self.limit = made.gateway.settings.export_file_resources
        self._rows = self._bytes = 0

    def write(self, resource_type: str, part: str, blocks: Iterable[Block]) -> list[AnswerFile]:
        """Write the rows of a part of a type."""
        found: list[AnswerFile] = []
        out = None
        try:
            for block in blocks:
                if out is None or found[-1].count + block.count > self.limit:
                    if out is not None:
                        out.close()
                    name = f"{resource_type}.{part}.{len(found) + 1}.ndjson"
                    found.append(AnswerFile(resource_type, name, 0))
                    out = (self._task.folder / name).open("wb")
                out.write(block.lines)
                found[-1] = AnswerFile(resource_type, found[-1].name, found[-1].count + block.count)
                self._rows += block.count
                self._bytes += len(block.lines)
                self._task.tell(f"{self._rows} resources, {self._bytes // _MEGABYTE} MB")
        finally:
            if out is not None:
                out.close()
        return found


def _deletions(ids: Iterable[tuple[str, list[str]]]) -> Iterator[Block]:
    """A transaction of deletions for each bunch of ids."""
    for resource_type, some in ids:
        entries = [{"request": {"method": "DELETE", "url": f"{resource_type}/{one}"}} for one in some]
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
        yield Block(orjson.dumps(bundle) + b"\n", 1)


def _outcomes(issues: list[Json]) -> Iterator[Block]:
    """One OperationOutcome for each issue."""
    if issues:
        lines = [orjson.dumps({"resourceType": "OperationOutcome", "issue": [one]}) + b"\n" for one in issues]
        yield Block(b"".join(lines), len(lines))


def _issue(severity: str, code: str, text: str) -> Json:
    return {"severity": severity, "code": code, "diagnostics": text}


def _read(path: Path) -> Any:
    return orjson.loads(path.read_bytes()) if path.exists() else None


def _write(path: Path, content: Json | list[Json]) -> None:
    """All or nothing, even when the process is killed."""
    draft = path.with_suffix(".draft")
    draft.write_bytes(orjson.dumps(content))
    os.replace(draft, path)
