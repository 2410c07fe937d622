"""Code in the documentation: its blocks, and each page's commands as one script that can be run.

A block is fenced, or indented by four spaces. What is indented is a request when it begins with a method of HTTP, and
otherwise commands. Stage directions (``tests/e2e/documented.toml``) say what a page's words stand for, what has to be
there first, and which commands cannot be run, with the reason.
"""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if "adr" not in path.relative_to(ROOT / "docs").parts),
]
DIRECTIONS = ROOT / "tests" / "e2e" / "documented.toml"
_METHOD = re.compile(r"(GET|POST|PUT|PATCH|DELETE) (/\S+)$")
_COMMANDS = ("sh", "shell", "")

T = TypeVar("T")


@dataclass(frozen=True)
class Block:
    """One block of code: language as fenced, or ``indented``; the line of the page that it begins on."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def kind(self) -> str:
        """``commands``, ``request``, or the language: ``python``, ``toml``, ``yaml``, ``json``, ``text``."""
        if self.language == "indented":
            if directions(self.page).prose:
                return "text"
            return "request" if _METHOD.match(self.text.splitlines()[0]) else "commands"
        return "commands" if self.language in _COMMANDS else self.language

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


@dataclass
class Directions:
    """What the runner of one page must know."""

    words: dict[str, str] = field(default_factory=dict)
    """What stands in the page -> what a shell is given instead; whole words, the longest first."""

    first: str = ""
    """Commands before the first."""

    files: dict[str, str] = field(default_factory=dict)
    """Files that commands name, with their content."""

    serve: bool = False
    """Whether a gateway serves this page's data while the commands run ($GATEWAY)."""

    empty: bool = False
    """Whether the page begins with a gateway that holds nothing."""

    settings: dict[str, str] = field(default_factory=dict)
    """Settings of the gateway and of the commands."""

    exits: dict[str, int] = field(default_factory=dict)
    """Beginning of a command -> the exit code it has by what it found."""

    not_run: dict[str, str] = field(default_factory=dict)
    """Beginning of a command, or of a block -> why it is not run here."""

    prose: bool = False
    """Whether what is indented are signatures for people, nothing to run."""


def blocks(page: Path) -> Iterator[Block]:
    """All blocks of a page, from the top."""
    lines = page.read_text("utf-8").splitlines()
    at = 0
    while at < len(lines):
        if fence := re.match(r"( *)```(\w*)", lines[at]):
            end = next(n for n in range(at + 1, len(lines)) if lines[n].strip() == "```")
            yield Block(page, at + 2, fence[2], _dedented(lines[at + 1 : end]))
            at = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()) and lines[at].strip():
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            text = _dedented(lines[at:end]).rstrip("\n")
            if not _continues_list(lines, at, len(lines[at]) - len(lines[at].lstrip())):
                yield Block(page, at + 1, "indented", text)
            at = end
        else:
            at += 1


def _continues_list(lines: list[str], at: int, indent: int) -> bool:
    """Whether an indented paragraph belongs to a list's item above it: four spaces are prose there, seven are code."""
    for line in reversed(lines[:at]):
        if line and not line.startswith(" "):
            return bool(re.match(r"([-*]|\d+\.) ", line)) and indent < 6
    return False


def _dedented(lines: list[str]) -> str:
    indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return "\n".join(line[indent:] for line in lines) + "\n"


@cache
def directions(page: Path) -> Directions:
    """The stage directions of a page."""
    stated: dict[str, Any] = tomllib.loads(DIRECTIONS.read_text("utf-8"))
    return Directions(**stated.get(page.relative_to(ROOT).as_posix(), {}))


def script(page: Path) -> str:
    """The page as a script for bash: commands and requests in order; the last line on stderr is where it stopped."""
    stage = directions(page)
    parts = ["set -euo pipefail", _REQUEST, *([stage.first] if stage.first else [])]
    for block in blocks(page):
        if _stated(stage.not_run, block.text):
            continue
        if block.kind == "commands":
            for line, command in _commands(block):
                if not _stated(stage.not_run, command):
                    parts += [f"echo {block.page.name}:{line} >&2", _worded(command, stage.words)]
                    if code := _stated(stage.exits, command):
                        parts[-1] = f"code=0; {parts[-1].split(' # ')[0].rstrip()} || code=$?; [ $code = {code} ]"
        elif block.kind == "request":
            parts += [f"echo {block.place} >&2", *(_worded(one, stage.words) for one in _requests(block))]
    return "\n".join(parts) + "\n"


def _commands(block: Block) -> Iterator[tuple[int, str]]:
    """Logical lines: what ends in a backslash, and what is within quotes, goes on."""
    held: list[str] = []
    start = block.line
    for number, line in enumerate(block.text.splitlines(), block.line):
        if not held:
            start = number
        held.append(line)
        text = "\n".join(held)
        if line.endswith("\\") or not _whole(text):
            continue
        held = []
        if text.strip():
            yield start, text
    assert not held, f"{block.place}: a quotation does not end"


def _whole(text: str) -> bool:
    try:
        shlex.split(text, comments=True)
    except ValueError:
        return False
    return True


def _requests(block: Block) -> Iterator[str]:
    """Each request as a call of the shell function ``request METHOD PATH BODY HEADER...``."""
    for part in re.split(r"\n(?=(?:GET|POST|PUT|PATCH|DELETE) /)", block.text):
        head, *rest = part.strip().split("\n\n")[0].splitlines()
        matched = _METHOD.match(head)
        assert matched, f"{block.place}: not a request: {head}"
        headers = [line for line in rest if re.match(r"[A-Z][\w-]+: ", line) and not line.startswith("Authorization")]
        body = "\n".join(line for line in rest if not re.match(r"[A-Z][\w-]+: ", line))
        if body:
            json.loads(body)
        yield " ".join(["request", matched[1], shlex.quote(matched[2]), shlex.quote(body), *map(shlex.quote, headers)])


_REQUEST = r"""
known_as() {  # a contract of the demo, under another name, with its list
    mkdir -p "$FHIR_GATEWAY_DATA_DIR/contracts"
    sed "s/$1/$2/g" "fhir_gateway/demo/contracts/${1#demo-}.toml" > "$FHIR_GATEWAY_DATA_DIR/contracts/$2.toml"
    fhir-gateway attribute "$2"
}
token() {  # a token of a new client with these scopes
    fhir-gateway client add reader --scope "$1" --new-key reader.jwk >&2
    fhir-gateway client token reader --key reader.jwk --scope "$1"
}
request() {
    local method=$1 path=$2 body=$3 header; shift 3
    local -a options=(-sS -o answer.json -w '%{http_code}' -X "$method" -H "Authorization: Bearer $TOKEN")
    for header in "$@"; do options+=(-H "$header"); done
    if [ -n "$body" ]; then options+=(-H 'Content-Type: application/fhir+json' --data-binary "$body"); fi
    local code; code=$(curl --globoff "${options[@]}" "$GATEWAY$path")
    if [ "$code" -ge 400 ]; then cat answer.json >&2; return 1; fi
}
"""


def _worded(text: str, words: dict[str, str]) -> str:
    for word in sorted(words, key=len, reverse=True):
        meant = words[word].replace("\\", r"\\")
        text = re.sub(rf"(?<![\w.-]){re.escape(word)}(?![\w-])", meant, text)
    return text


def _stated(by_beginning: dict[str, T], text: str) -> T | None:
    return next((stated for start, stated in by_beginning.items() if text.strip().startswith(start)), None)
