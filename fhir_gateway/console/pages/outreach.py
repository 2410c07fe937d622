"""Outreach: whom to call for what, how somebody is reached, and what came of it."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, cast, get_args

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import ROWS, Rows
from fhir_gateway.errors import InputError
from fhir_gateway.jobs.outreach import item_of, person_of
from fhir_gateway.outreach.models import BY_PEOPLE, LEFT, REASONS, State

Page = Annotated[int, Query(ge=1, le=1_000_000)]
_STATES: tuple[State, ...] = get_args(State)


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-population"))]
    Do = Annotated[Form, Depends(frame.do("do-outreach"))]

    @routes.get("/outreach")
    def every(request: Request, session: See, state: str = "", reason: str = "", page: Page = 1) -> Response:
        """Items that a reader sees; those with something left to do, unless a state is asked for."""
        chosen = gateway.resources.seen_by(session.audience).members_chosen()
        states = (state,) if state in _STATES else LEFT
        about = reason if reason in REASONS else None
        counts = gateway.outreach.counts(chosen)
        rows, total = gateway.outreach.page(states, ROWS, (page - 1) * ROWS, about, chosen, counts)
        request.state.access.disclose({row["member"] for row in rows})
        return frame.page(
            request,
            "outreach.html",
            found=Rows(rows, total, page),
            counts=_counts(counts),
            states=_STATES,
            given={"state": state, "reason": reason},
            state_options=[("", "left to do"), *((one, one) for one in _STATES)],
            reason_options=[("", "all"), *((name, words) for name, (_, words) in REASONS.items())],
            words={name: words for name, (_, words) in REASONS.items()},
        )

    @routes.get("/outreach/{item}")
    def one(request: Request, item: str, session: See) -> Response:
        """One item: its history, what else there is about the person, and how they are reached, if they may be."""
        found = item_of(gateway, item, session.audience)
        contact, barred = person_of(gateway, found["member"])
        request.state.access.disclose([found["member"]])
        return frame.page(
            request,
            "outreach_item.html",
            item=found,
            history=gateway.outreach.history(item),
            others=[one for one in gateway.outreach.of_member(found["member"]) if one["id"] != item],
            contact=None if barred else contact,
            barred=barred,
            next_states=[(one, one) for one in BY_PEOPLE.get(cast(State, found["state"]), ())],
            words={name: words for name, (_, words) in REASONS.items()},
        )

    @routes.post("/outreach/{item}")
    def mark(item: str, form: Do) -> Response:
        """Somebody says what became of it."""
        item_of(gateway, item, form.session.audience)
        state = form.need("state")
        if state not in _STATES:
            raise InputError(f"state: one of {', '.join(_STATES)}")
        by = f"console:{form.session.user}"
        gateway.outreach.mark(item, state, by[:255], datetime.now(UTC), form.fields.get("note"))
        return RedirectResponse(f"{PATH}/outreach/{item}", 303)

    return routes


def _counts(counted: Mapping[tuple[str, str], int]) -> list[dict[str, Any]]:
    """A row per reason with a number per state."""
    return [
        {"reason": name, "words": words, "states": [counted.get((name, state), 0) for state in _STATES]}
        for name, (_, words) in REASONS.items()
    ]
