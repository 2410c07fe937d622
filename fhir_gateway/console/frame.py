"""What all pages of the console have in common: templates, who is signed in, forms that only our pages can send."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any
from urllib.parse import quote
from zoneinfo import ZoneInfo

from anyio import CapacityLimiter, to_thread
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from fhir_gateway.console.accounts import Accounts
from fhir_gateway.console.roles import Permission
from fhir_gateway.console.sessions import Session, Sessions
from fhir_gateway.errors import AuthorizationError, InputError
from fhir_gateway.factory import Gateway
from fhir_gateway.server.access import access_of

PATH = "/console"
STATIC_PATH = "/static/console"
HERE = Path(__file__).parent
#: Scripts, styles and pictures from here alone, nothing inline, forms to here, no frames.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_MOST_FIELDS = 200
#: Reports that are made at the same time.
_LONG_AT_ONCE = 2
_MOST_FORM_BYTES = 256 * 1024


class SignInNeeded(Exception):
    """Nobody is signed in; the application answers with the way to the sign-in page."""


@dataclass(frozen=True, slots=True)
class Form:
    """What somebody signed in has sent: fields by name, blank ones left out."""

    session: Session
    fields: dict[str, str]

    def need(self, name: str) -> str:
        """A field that must be there; InputError names it."""
        if name not in self.fields:
            raise InputError(f"{name.replace('_', ' ')} is missing")
        return self.fields[name]


class Frame:
    """The gateway as pages see it."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.secure = gateway.settings.public_url.startswith("https:")
        #: Browsers send a cookie of this name over TLS only, to this host only.
        self.cookie = "__Host-console" if self.secure else "console"
        self._templates = Environment(
            loader=FileSystemLoader(HERE / "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
        )
        self._templates.filters |= {
            "money": money,
            "percent": percent,
            "number": number,
            "size": size,
            "moment": self._moment,
        }
        self._templates.globals |= {"static": static_address, "path": PATH}

    async def in_turn(self, make: Callable[[], Response]) -> Response:
        """What takes long, in a thread of its own. A few at once: others wait without a thread that pages need."""
        return await to_thread.run_sync(make, limiter=self._long_work)

    @cached_property
    def _long_work(self) -> CapacityLimiter:
        return CapacityLimiter(_LONG_AT_ONCE)

    @cached_property
    def accounts(self) -> Accounts:
        """Users we keep ourselves."""
        return Accounts(self.gateway.engine, self.gateway.secrets)

    @cached_property
    def sessions(self) -> Sessions:
        """Who is signed in."""
        return Sessions(self.gateway.engine)

    def page(self, request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """A page of a template; ``session`` is there for those who are signed in."""
        given = {"session": getattr(request.state, "session", None), "here": request.url.path, **values}
        text = self._templates.get_template(template).render(given)
        return HTMLResponse(text, status, headers={"Content-Security-Policy": POLICY})

    def see(self, permission: Permission) -> Callable[[Request], Session]:
        """A dependency of pages: whoever is signed in and has the permission."""

        def admitted(request: Request) -> Session:
            return self._admit(request, permission, "console-page")

        return admitted

    def do(self, permission: Permission) -> Callable[[Request], Awaitable[Form]]:
        """A dependency of forms: the same, and the form was ours."""

        async def admitted(request: Request) -> Form:
            fields = await read_form(request)
            session = await run_in_threadpool(self._admit, request, permission, "console-action")
            said = fields.pop("form_token", "") or request.headers.get("x-form-token", "")
            if not hmac.compare_digest(said.encode(), session.form_token.encode()):
                raise AuthorizationError("this form is not from a page of yours; load the page again")
            return Form(session, fields)

        return admitted

    def signed_in(self, request: Request) -> Session | None:
        """Whose request it is; None when nobody is signed in."""
        found = request.cookies.get(self.cookie)
        session = self.sessions.find(found) if found else None
        request.state.session = session
        return session

    def still_signed_in(self, request: Request) -> bool:
        """Whether the session of a request that goes on is not over; this is no use of it."""
        found = request.cookies.get(self.cookie)
        return found is not None and self.sessions.find(found, used=False) is not None

    def _admit(self, request: Request, permission: Permission, interaction: str) -> Session:
        session = self.signed_in(request)
        access = access_of(request)
        access.interaction = interaction
        access.resource_id = request.url.path.removeprefix(PATH).strip("/")[:64] or "overview"
        if session is None:
            raise SignInNeeded
        access.identify(f"console/{session.user}"[:255], None)
        if not session.may(permission):
            raise AuthorizationError("this is not for your role")
        return session

    def _moment(self, value: datetime | str | None) -> str:
        """A moment in the zone of the settings, to the minute."""
        if value is None or value == "":
            return "–"
        moment = datetime.fromisoformat(value) if isinstance(value, str) else value
        if moment.tzinfo is None:
            return moment.strftime("%Y-%m-%d %H:%M")
        return moment.astimezone(ZoneInfo(self.gateway.settings.time_zone)).strftime("%Y-%m-%d %H:%M")


async def read_form(request: Request) -> dict[str, str]:
    """Fields of a form, blank ones left out; InputError for one that is too large or carries files."""
    if int(request.headers.get("content-length") or 0) > _MOST_FORM_BYTES:
        raise InputError("the form is too large")
    async with request.form(max_files=0, max_fields=_MOST_FIELDS, max_part_size=_MOST_FORM_BYTES) as form:
        return {name: value.strip() for name, value in form.items() if isinstance(value, str) and value.strip()}


def local_path(path: str | None) -> str:
    """A path of the console that a sign-in may lead to; anything else is its first page."""
    if path is None or not path.startswith(f"{PATH}/") or "//" in path or "\\" in path or not path.isprintable():
        return f"{PATH}/"
    return path


def sign_in_address(path: str) -> str:
    """The sign-in page, which leads back to where somebody wanted to go."""
    return f"{PATH}/sign-in?next={quote(local_path(path), safe='/')}"


def static_address(name: str) -> str:
    """Address of a static file, another one when its content is another: browsers may keep it."""
    return f"{STATIC_PATH}/{name}?v={_digests(name)}"


def _digests(name: str, known: dict[str, str] = {}) -> str:  # noqa: B006 - kept on purpose: files do not change while we run
    if name not in known:
        known[name] = sha256((HERE / "static" / name).read_bytes()).hexdigest()[:12]
    return known[name]


def money(value: Decimal | float | str | None) -> str:
    """Dollars and cents; negative amounts with a minus, null as a dash."""
    if value is None:
        return "–"
    amount = Decimal(value)
    return f"{'−' if amount < 0 else ''}${abs(amount):,.2f}"


def percent(value: Decimal | float | None, places: int = 1) -> str:
    """A share of one in percent; null as a dash."""
    return "–" if value is None else f"{float(value) * 100:.{places}f} %"


_SIZES = ("B", "kB", "MB", "GB", "TB")


def size(value: int) -> str:
    """Bytes in the unit that suits them, by thousands."""
    power = min(max(len(str(value)) - 1, 0) // 3, len(_SIZES) - 1)
    return f"{value / 1000**power:,.{1 if power else 0}f} {_SIZES[power]}"


def number(value: Decimal | float | int | None) -> str:
    """With thousands separated; null as a dash."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.3f}".rstrip("0").rstrip(".")
