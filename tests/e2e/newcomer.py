"""A newcomer: ``make newcomer`` clones the repository, does what README says, and opens a settlement in a browser.

Nothing is taken from this checkout but its commits and, for the browser, its driver: the clone makes an environment of
its own. Prints how long each step took. What is asserted is that it works; the time is a measurement.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import expect

from tests.support.browser import Window, chromium
from tests.support.serving import free_port
from tests.support.waiting import HANG

ROOT = Path(__file__).parents[2]
_CONSOLE = re.compile(r"Console: (http://\S+?)/console/")
_ACCOUNT = re.compile(r"sign in as (\S+) .*password (\S+)")
#: Of an environment that belongs to somebody else.
_OURS = ("VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "MAKEFLAGS", "MAKELEVEL", "MFLAGS")


def first_commands(readme: str) -> list[str]:
    """The commands of the first block of a README, without what is said about them."""
    block = re.search(r"^```sh\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    assert block, "README begins without commands"
    return [command for line in block[1].splitlines() if (command := line.split("#")[0].strip())]


def clean_environment(port: int) -> dict[str, str]:
    """What a newcomer's shell has: nothing of this checkout, no settings of a gateway; the demo's port by ARGS."""
    kept = {
        name: value for name, value in os.environ.items() if name not in _OURS and not name.startswith("FHIR_GATEWAY_")
    }
    ours = str(Path(sys.executable).parent)
    paths = [path for path in kept.get("PATH", "").split(os.pathsep) if path != ours]
    return kept | {"PATH": os.pathsep.join(paths), "ARGS": f"--port {port}", "PYTHONUNBUFFERED": "1"}


@contextmanager
def at_the_prompt(command: str, folder: Path, port: int) -> Iterator[Iterator[str]]:
    """What a command prints, line by line, while it runs; it ends by Ctrl-C."""
    running = subprocess.Popen(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=clean_environment(port),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert running.stdout
    try:
        yield iter(running.stdout)
    finally:
        if running.poll() is None:
            os.killpg(running.pid, signal.SIGINT)
        try:
            running.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            raise


def invited(lines: Iterator[str]) -> tuple[str, str, str]:
    """Address, name and password that the demo prints; what it prints before is repeated here."""
    base = None
    for line in lines:
        print(f"    {line.rstrip()}", flush=True)
        if found := _CONSOLE.search(line):
            base = found[1]
        if base and (found := _ACCOUNT.search(line)):
            return base, found[1], found[2]
    raise SystemExit("the command of README ended without an invitation to the console")


def open_settlement(base: str, name: str, password: str) -> str:
    """Sign in, go to the contracts, open the settlement of shared savings; what the page says about its total."""
    with chromium(keep_pictures=True) as browser:
        window = Window(browser, base, "newcomer")
        expect.set_options(timeout=HANG * 1000)
        window.sign_in(name, password, None)
        window.menu("Contracts")
        row = window.page.get_by_role("row").filter(has_text="demo-shared-savings-2025")
        row.locator('a[href*="/console/settlements/"]').first.click()
        total = window.page.get_by_text(re.compile(r"Total .?\$[\d,]+\.\d\d")).first
        expect(total).to_be_visible()
        window.look("settlement")
        said = total.inner_text()
        window.close()
    return said


def main() -> None:
    """From nothing to a settlement."""
    with tempfile.TemporaryDirectory(prefix="newcomer-") as place:
        clone, port = Path(place) / "fhir-gateway", free_port()
        started = time.monotonic()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        cloned = time.monotonic()
        command = first_commands((clone / "README.md").read_text("utf-8"))[0]
        print(f"$ {command}", flush=True)
        with at_the_prompt(command, clone, port) as lines:
            base, name, password = invited(lines)
            serving = time.monotonic()
            said = open_settlement(base, name, password)
            done = time.monotonic()
        print(f"a settlement in the browser: {said}")
        print(f"clone            {cloned - started:6.1f} s")
        print(f"{command:<16} {serving - cloned:6.1f} s, with its environment, until it serves")
        print(f"browser          {done - serving:6.1f} s")
        print(f"all              {done - started:6.1f} s")


if __name__ == "__main__":
    main()
