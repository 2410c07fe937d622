"""A subscriber on a socket: takes notifications, fails on demand, remembers everything."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


@dataclass
class Taken:
    """A notification that arrived; ``answered`` is the status it got."""

    body: dict[str, Any]
    headers: dict[str, str]
    answered: int

    @property
    def status(self) -> dict[str, Any]:
        """Parameters of the status by name; of events the list of their parts."""
        found: dict[str, Any] = {"events": []}
        for one in self.body["entry"][0]["resource"]["parameter"]:
            if one["name"] == "notification-event":
                found["events"].append({p["name"]: _value(p) for p in one["part"]})
            else:
                found[one["name"]] = _value(one)
        return found

    @property
    def type(self) -> str:
        return str(self.status["type"])

    @property
    def numbers(self) -> list[int]:
        return [int(one["event-number"]) for one in self.status["events"]]


def _value(one: dict[str, Any]) -> Any:
    value = next(value for name, value in one.items() if name.startswith("value"))
    return value["reference"] if isinstance(value, dict) and "reference" in value else value


@dataclass
class Subscriber:
    """Answers with the next of ``statuses``, then with 200; after ``delay`` seconds, and not before ``free`` is set."""

    statuses: deque[int] = field(default_factory=deque)
    delay: float = 0.0
    free: threading.Event = field(default_factory=threading.Event)
    taken: list[Taken] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.free.set()

    def __enter__(self) -> Self:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                code = outer.statuses.popleft() if outer.statuses else 200
                outer.taken.append(Taken(body, dict(self.headers.items()), code))
                time.sleep(outer.delay)
                outer.free.wait()
                try:
                    self.send_response(code)
                    if code == 302:
                        self.send_header("Location", f"{outer.url}elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                except OSError:
                    pass  # the sender did not wait

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                pass  # senders are killed on purpose

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook/secret-path?token=t"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.free.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def of(self, kind: str, answered: int = 200) -> list[Taken]:
        """Notifications of a type that got an answer."""
        return [one for one in list(self.taken) if one.type == kind and one.answered == answered]
