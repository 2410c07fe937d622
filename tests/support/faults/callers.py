"""Clients who go on asking while something is struck, and write down what they are told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from fhir_gateway.auth.assertion import client_assertion, public_key_set
from fhir_gateway.factory import Gateway
from fhir_gateway.sources.endpoint import generate_key
from tests.support.backend_client import ASSERTION_TYPE
from tests.support.waiting import HANG, until

SCOPE = "system/*.rs"


@dataclass
class Caller:
    """A client of a server. ``answers`` counts what it was told, ``wrong`` has what no client should be told."""

    url: str
    key: dict[str, Any]
    answers: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    @classmethod
    def registered(cls, gateway: Gateway, url: str) -> Caller:
        """A client that may read everything."""
        key = generate_key("ES384").as_dict(private=True) | {"kid": "k", "alg": "ES384"}
        gateway.authorization.register_client("payer", scopes=SCOPE, jwks=public_key_set(key))
        return cls(url, key)

    def token(self, proof: str | None = None) -> httpx.Response:
        """What the server answers to a request for a token, by an assertion that is new unless it is given."""
        form = {
            "grant_type": "client_credentials",
            "scope": SCOPE,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": proof or client_assertion("payer", f"{self.url}/auth/token", self.key, "ES384"),
        }
        return httpx.post(f"{self.url}/auth/token", data=form, timeout=HANG)

    def headers(self) -> dict[str, str]:
        """With a token, however often it takes to get one."""
        got: list[httpx.Response] = []

        def given() -> bool:
            got.append(self.token())
            return got[-1].status_code == 200

        until(given, pause=0.1)
        return {"Authorization": f"Bearer {got[-1].json()['access_token']}"}

    def ask(self, path: str, headers: dict[str, str]) -> int:
        """Ask once and note the answer; its status."""
        answer = httpx.get(f"{self.url}{path}", headers=headers, timeout=HANG)
        self._note(path, answer)
        return answer.status_code

    def _note(self, path: str, answer: httpx.Response) -> None:
        self.answers[answer.status_code] += 1
        if answer.status_code < 400:
            return
        refused = answer.status_code in (503, 507)
        body = answer.text
        told = (refused and ('"OperationOutcome"' in body and "retry-after" in answer.headers)) or path == "/ready"
        if not told or "Traceback" in body or "psycopg" in body or "sqlite" in body.lower():
            self.wrong.append(f"{path}: {answer.status_code} {body[:300]}")

    @contextmanager
    def asking(self, paths: Sequence[str], headers: dict[str, str]) -> Iterator[None]:
        """Go on asking for these, one after the other, and for tokens, while the block lasts."""
        leave = threading.Event()
        failed: list[BaseException] = []

        def ask() -> None:
            try:
                shown = headers
                while not leave.is_set():
                    for path in paths:
                        self.ask(path, shown)
                    given = self.token()
                    self._note("/auth/token", given)
                    if given.status_code == 200:
                        shown = {"Authorization": f"Bearer {given.json()['access_token']}"}
            except BaseException as error:  # noqa: BLE001 - told to the test, below
                failed.append(error)

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield
        finally:
            leave.set()
            thread.join(HANG)
        if failed:
            raise failed[0]
