"""A newcomer's way (``make newcomer``) without the installing: README begins with it, and it leads to a settlement."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from tests.e2e.newcomer import ROOT, at_the_prompt, clean_environment, first_commands, invited, open_settlement
from tests.support.browser import PROGRAM
from tests.support.serving import free_port


def test_readme_begins_with_verbs_of_the_makefile() -> None:
    commands = first_commands((ROOT / "README.md").read_text("utf-8"))
    verbs = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    assert commands == ["make demo", "make test"]
    assert {command.removeprefix("make ") for command in commands} <= set(verbs)


def test_a_newcomer_has_nothing_of_this_checkout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VIRTUAL_ENV", "here")
    monkeypatch.setenv("FHIR_GATEWAY_DATA_DIR", "here")
    found = clean_environment(1)
    assert str(Path(sys.executable).parent) not in found["PATH"].split(":")
    assert "here" not in found.values()


@pytest.mark.skipif(PROGRAM is None, reason="no browser is named: make test-browser")
def test_what_the_demo_prints_leads_to_a_settlement(tmp_path: Path) -> None:
    port = free_port()
    command = f"{sys.executable} -m fhir_gateway.demo --patients 150 --folder {tmp_path}/demo --port {port}"
    with at_the_prompt(command, ROOT, port) as lines:
        said = open_settlement(*invited(lines))
    assert re.match(r"Total .?\$[\d,]+\.\d\d", said)
