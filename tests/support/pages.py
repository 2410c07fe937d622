"""Parts of ``docs/`` that are made from the code: ``python -m tests.support.pages`` writes them anew.

Each part lies between ``<!-- NAME: generated -->`` and ``<!-- NAME: end -->``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import click
from pydantic import SecretStr
from typer.main import get_command

from bench.sizing import RAW, Figures, Plan, measured, size, sized
from fhir_gateway.claim_edits import edits
from fhir_gateway.claim_edits.specs import SPECS
from fhir_gateway.cli.app import app
from fhir_gateway.config import Settings

DOCS = Path(__file__).parents[2] / "docs"

_SECTIONS = {
    "use": "For those who use it",
    "operate": "For those who run it",
    "develop": "For those who change it",
    "adr": "Decisions: context, choice, what was given up, when to revisit",
}


def settings() -> str:
    """One row per setting: environment variable, default, description."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        default = "" if field.default is None else f"`{field.default}`"
        secret = " Secret." if SecretStr in (field.annotation, *getattr(field.annotation, "__args__", ())) else ""
        rows.append(f"| `FHIR_GATEWAY_{name.upper()}` | {default} | {field.description}{secret} |")
    return "\n".join(rows)


def commands() -> str:
    """One row per command with the first sentence of its help."""
    rows = ["| command | what it does |", "|---|---|"]
    for name, command in _commands("fhir-gateway", get_command(app)):
        sentence = (command.help or "").split("\n\n")[0].replace("\n", " ").strip()
        rows.append(f"| `{name}` | {sentence} |")
    return "\n".join(rows)


def _commands(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    inner = getattr(command, "commands", None)
    if inner is None:
        yield name, command
        return
    for one, below in inner.items():
        yield from _commands(f"{name} {one}", below)


def pages() -> str:
    """All pages by folder, each by its title."""
    lines: list[str] = []
    for folder, heading in _SECTIONS.items():
        lines += [f"## {heading}", ""]
        for page in sorted((DOCS / folder).glob("*.md")):
            title = page.read_text(encoding="utf-8").splitlines()[0].lstrip("# ")
            lines.append(f"* [{title}]({folder}/{page.name})")
        lines.append("")
    return "\n".join(lines).rstrip()


def claim_edits() -> str:
    """The edits by family, and the reference tables with their columns."""
    lines = ["## Edits", ""]
    for family in dict.fromkeys(edit.family for edit in edits().values()):
        lines += [f"### {family}", "", "| edit | severity | what is found | needs | source |", "|---|---|---|---|---|"]
        for edit in edits().values():
            if edit.family == family:
                needs = ", ".join(f"`{one}`" for one in edit.needs)
                lines.append(f"| `{edit.id}` | {edit.severity} | {edit.message} | {needs} | {edit.source} |")
        lines.append("")
    lines += ["## Tables", "", "| table | what | columns | published |", "|---|---|---|---|"]
    for spec in SPECS.values():
        columns = "; ".join(
            f"`{one.name}`{'' if one.required else ' (optional)'}: {one.documentation}" for one in spec.columns
        )
        lines.append(f"| `{spec.name}` | {spec.documentation} | {columns} | {spec.published} |")
    return "\n".join(lines)


def sizes() -> str:
    """What a member costs by the measured figures, and what ten million of them take."""
    figures, plan = Figures.read(RAW.read_text(encoding="utf-8")), Plan()
    return f"{measured(figures)}\n\n{sized(plan, size(figures, plan))}"


GENERATED: dict[str, tuple[str, Callable[[], str]]] = {
    "index.md": ("pages", pages),
    "operate/commands.md": ("commands", commands),
    "use/claims.md": ("edits", claim_edits),
    "operate/settings.md": ("settings", settings),
    "operate/sizing.md": ("sizes", sizes),
}


def current(name: str) -> str:
    """The page as it should be: as it is, with its generated part made anew."""
    part, make = GENERATED[name]
    begin, end = f"<!-- {part}: generated -->\n", f"<!-- {part}: end -->\n"
    before, rest = (DOCS / name).read_text(encoding="utf-8").split(begin)
    return before + begin + make() + "\n" + end + rest.split(end)[1]


if __name__ == "__main__":
    for written in GENERATED:
        (DOCS / written).write_text(current(written), encoding="utf-8")
