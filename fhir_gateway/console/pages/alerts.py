"""Alerts: what happened, by which rules somebody is told, who is told, and how telling them goes."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from typing import Annotated, cast
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.alerts.models import KINDS, AlertChannel, Medium
from fhir_gateway.console.contracts_seen import ContractsSeen
from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import ROWS, Rows
from fhir_gateway.errors import GatewayError, InputError, NotFoundError
from fhir_gateway.jobs.alert_channels import add_channel

Page = Annotated[int, Query(ge=1, le=1_000_000)]


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    contracts = ContractsSeen(gateway)
    See = Annotated[Session, Depends(frame.see("see-population"))]
    SeeChannels = Annotated[Session, Depends(frame.see("see-operations"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    @routes.get("/alerts")
    def every(request: Request, session: See, kind: str = "", page: Page = 1) -> Response:
        """What happened to whom a reader sees, the newest first, and what is watched."""
        seen = gateway.resources.seen_by(session.audience)
        theirs = [one.partition(":")[2] for one in session.labels or () if one.startswith("contract:")]
        chosen = kind if kind in KINDS else None
        rows, total = gateway.alerts.page(ROWS, (page - 1) * ROWS, chosen, seen.members_chosen(), theirs)
        request.state.access.disclose({one.member for _, one in rows if one.member})
        watched = [one for one in gateway.settings.alert_thresholds if session.labels is None or one.contract in theirs]
        return frame.page(
            request,
            "alerts.html",
            found=Rows([{"id": identity, "alert": one} for identity, one in rows], total, page),
            chosen=chosen or "",
            kinds=[("", "all"), *KINDS.items()],
            words=KINDS,
            watched=watched,
            days=gateway.settings.alert_days,
        )

    def channels_page(
        request: Request, session: Session, secret: str | None = None, problem: GatewayError | None = None
    ) -> Response:
        waiting = gateway.alerts.untold()
        return frame.page(
            request,
            "alert_channels.html",
            status=200 if problem is None else problem.status,
            channels=[
                {"channel": one, "target": _shown(one), "waiting": waiting.get(one.id, 0)}
                for one in gateway.alerts.channels()
            ],
            kinds=KINDS,
            contracts=[("", "everybody"), *((one.id, one.title) for one in contracts.all(session.audience))],
            secret=secret,
            problem=None if problem is None else problem.message,
        )

    @routes.get("/alerts/channels")
    def channels(request: Request, session: SeeChannels) -> Response:
        return channels_page(request, session)

    @routes.post("/alerts/channels")
    def add(request: Request, form: Do) -> Response:
        """A new one; the secret of a webhook is on the page that answers, and nowhere else."""
        medium = form.need("medium")
        if medium not in ("webhook", "mail"):
            raise InputError("medium: webhook or mail")
        contract = form.fields.get("contract")
        if contract is not None:
            contracts.get(form.session.audience, contract)
        kinds = [one for one in KINDS if f"kind-{one}" in form.fields]
        try:
            _, secret = add_channel(
                gateway, cast(Medium, medium), form.need("target"), kinds, contract, form.session.user
            )
        except GatewayError as problem:
            return channels_page(request, form.session, problem=problem)
        if secret is None:
            return RedirectResponse(f"{PATH}/alerts/channels", 303)
        return channels_page(request, form.session, secret)

    @routes.post("/alerts/channels/{channel}/remove")
    def remove(channel: str, _: Do) -> Response:
        gateway.alerts.remove_channel(channel)
        return RedirectResponse(f"{PATH}/alerts/channels", 303)

    @routes.get("/alerts/{alert_id}")
    def one(request: Request, alert_id: str, session: See) -> Response:
        """One alert: when, about whom, and where what it is about is served."""
        found = gateway.alerts.find(alert_id)
        seen = gateway.resources.seen_by(session.audience)
        shown = session.labels is None or f"contract:{found.contract}" in session.labels
        if not shown and (found.member is None or not seen.read_many([("Patient", found.member)])):
            raise NotFoundError("there is no such alert")
        if found.member:
            request.state.access.disclose([found.member])
        return frame.page(request, "alert.html", alert=found, identity=alert_id, words=KINDS)

    return routes


def _shown(channel: AlertChannel) -> str:
    """An address, or the host of a webhook: its path may be a secret."""
    if channel.medium == "mail":
        return channel.target
    parts = urlsplit(channel.target)
    return f"{parts.scheme}://{parts.hostname}/…"
