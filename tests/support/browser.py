"""A browser window that fails its test where a page does what none may: an error, a word on its console, a barrier.

``FHIR_GATEWAY_TEST_BROWSER`` names a Chromium (``make test-browser`` finds or installs one). Pictures of what was
looked at are written to ``build/screenshots``.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyotp
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, ConsoleMessage, Dialog, Error, Locator, Page, Response, sync_playwright

from tests.support.waiting import HANG

PROGRAM = os.environ.get("FHIR_GATEWAY_TEST_BROWSER")
PICTURES = Path(__file__).parents[2] / "build" / "screenshots"
DESK = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
#: Violations of these impacts (axe-core's words) keep people out.
BARRIERS = ("serious", "critical")
_REACHABLE = (
    "a[href], button:not([disabled]), input:not([disabled]):not([type=hidden]), select:not([disabled]), "
    "textarea:not([disabled]), summary"
)
_MARK = f"""() => {{
  const seen = [...document.querySelectorAll({_REACHABLE!r})].filter((one) => one.checkVisibility());
  seen.forEach((one, place) => {{ one.dataset.place = place; }});
  return seen.map((one) => `${{one.tagName.toLowerCase()}} ${{(one.name || one.innerText || '').trim()}}`);
}}"""
_FOCUS = """() => {
  const one = document.activeElement;
  const style = getComputedStyle(one);
  return [one.dataset.place ?? null, style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) > 0];
}"""


@contextmanager
def chromium(*, keep_pictures: bool = False) -> Iterator[Browser]:
    """The browser; root may start it without its sandbox only. Pictures of an earlier run are deleted unless kept."""
    if not keep_pictures:
        shutil.rmtree(PICTURES, ignore_errors=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=["--no-sandbox"], timeout=HANG * 1000)
        yield browser
        browser.close()


class Window:
    """A window of its own, with nobody signed in."""

    def __init__(self, browser: Browser, base: str, story: str) -> None:
        context = browser.new_context(viewport=DESK, base_url=base)
        context.set_default_timeout(HANG * 1000)
        context.set_default_navigation_timeout(HANG * 1000)
        self.page: Page = context.new_page()
        self._story = story
        self._looks = 0
        self._complaints: list[str] = []
        self.page.on("console", self._said)
        self.page.on("pageerror", self._broke)
        self.page.on("response", self._answered)
        self.page.on("dialog", self._asked)

    def _said(self, message: ConsoleMessage) -> None:
        self._complaints.append(f"{message.type} on the console of {self.page.url}: {message.text}")

    def _broke(self, error: Error) -> None:
        self._complaints.append(f"script of {self.page.url}: {error}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self._complaints.append(f"{response.url}: {response.status}")

    def _asked(self, dialog: Dialog) -> None:
        dialog.accept()

    def close(self) -> None:
        """Nothing was wrong to the last."""
        self.page.context.close()
        self.check()

    def check(self) -> None:
        """Fail with all that pages did and no page may."""
        assert not self._complaints, "\n".join(self._complaints)

    def forget(self) -> None:
        """What was complained about is told elsewhere."""
        self._complaints.clear()
        self.page.set_viewport_size(DESK)  # type: ignore[arg-type]

    def sign_in(self, name: str, password: str, secret: str | None) -> None:
        """By the form. A code that was too old when it arrived is followed by the next one."""
        page = self.page
        page.goto("/console/")
        while page.url.partition("?")[0].endswith("/sign-in"):
            page.get_by_label("Name").fill(name)
            page.get_by_label("Password").fill(password)
            if secret is not None:
                page.get_by_label("One-time code").fill(pyotp.TOTP(secret).now())
            with page.expect_navigation() as answered:
                page.get_by_role("button", name="Sign in").click()
            if answered.value.status == 401 and secret is not None:
                self._complaints.clear()
        page.get_by_role("button", name="Sign out").wait_for()

    def menu(self, part: str) -> None:
        """To a part of the console."""
        self.page.get_by_role("navigation", name="Main").get_by_role("link", name=part).click()

    def look(self, name: str) -> None:
        """A picture, and axe-core, of what is shown now: at a desk in the light, and on a phone in the dark."""
        self._looks += 1
        self.page.wait_for_load_state("load")
        for place, viewport, scheme in (("desk", DESK, "light"), ("phone", PHONE, "dark")):
            self.page.set_viewport_size(viewport)  # type: ignore[arg-type]
            self.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            path = PICTURES / f"{self._story}-{self._looks:02d}-{name}-{place}-{scheme}.png"
            self.page.screenshot(path=path, full_page=True)
            width = self.page.evaluate("document.scrollingElement.scrollWidth")
            assert width <= viewport["width"], f"{name}: {width} pixels wide on a {place}"
            found = Axe().run(self.page).response
            assert found["url"] == self.page.url
            for one in found["violations"]:
                if one["impact"] in BARRIERS:
                    targets = [node["target"] for node in one["nodes"]]
                    self._complaints.append(f"{name}, {place}, {scheme}: {one['impact']} {one['id']}: {targets}")
        self.page.set_viewport_size(DESK)  # type: ignore[arg-type]
        self.page.emulate_media(color_scheme="light")
        self.check()

    def walk(self) -> None:
        """With the Tab key from the top everything is reached that can be used, and one sees where one is."""
        self.page.reload()
        names = self.page.evaluate(_MARK)
        missing = set(range(len(names)))
        self.page.keyboard.press("Tab")
        assert self.page.evaluate("document.activeElement.className") == "skip", "the first is a link to the content"
        for _ in range(8 * len(names)):  # a field for a date has a stop for each of its parts
            place, outlined = self.page.evaluate(_FOCUS)
            if place is not None:
                assert outlined, f"no focus is to be seen on: {names[int(place)]}"
                missing.discard(int(place))
            if not missing:
                break
            self.page.keyboard.press("Tab")
        assert not missing, [names[one] for one in sorted(missing)]
        self.check()

    def tab_to(self, wanted: Locator) -> None:
        """Press Tab until something has the focus."""
        stops = self.page.evaluate(f"document.querySelectorAll({_REACHABLE!r}).length")
        for _ in range(8 * stops + 8):
            if wanted.evaluate("one => one === document.activeElement"):
                return
            self.page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {wanted}")
