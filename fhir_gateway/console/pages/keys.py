"""Keys that we sign with at endpoints: which are published, which signs, and the three steps from one to the next."""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Sequence
from typing import Annotated, cast, get_args

from fastapi import APIRouter, Depends
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from fhir_gateway.console.frame import PATH, Form, Frame
from fhir_gateway.console.sessions import Session
from fhir_gateway.errors import InputError
from fhir_gateway.sources.endpoint import JWKS_PATH, Algorithm, PublishedKey
from fhir_gateway.sources.store import EndpointStore


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-operations"))]
    Do = Annotated[Form, Depends(frame.do("do-operations"))]

    @routes.get("/operations/keys")
    def every(request: Request, _: See) -> Response:
        by_endpoint: dict[str, list[PublishedKey]] = {}
        for key in gateway.endpoints.published_keys():
            by_endpoint.setdefault(key.endpoint, []).append(key)
        return frame.page(
            request,
            "keys.html",
            rows=[(name, keys, _next_step(keys)) for name, keys in by_endpoint.items()],
            algorithms=[(one, one) for one in get_args(Algorithm)],
            jwks_url=gateway.settings.public_url.rstrip("/") + JWKS_PATH,
        )

    @routes.post("/operations/keys/{name}")
    def turn(name: str, form: Do) -> Response:
        turn_key(gateway.endpoints, name, form)
        return RedirectResponse(f"{PATH}/operations/keys", 303)

    return routes


def turn_key(endpoints: EndpointStore, name: str, form: Form) -> None:
    """One step of a rotation, as a form asks for it."""
    step = form.need("step")
    if step == "prepare":
        algorithm = form.fields.get("algorithm", "ES384")
        if algorithm not in get_args(Algorithm):
            raise InputError(f"algorithm: one of {', '.join(get_args(Algorithm))}")
        endpoints.prepare_key(name, cast("Algorithm", algorithm))
    elif step == "activate":
        endpoints.activate_key(name, form.need("kid"))
    elif step == "remove":
        endpoints.remove_key(name, form.need("kid"))
    else:
        raise InputError("step: prepare, activate or remove")


def _next_step(keys: Sequence[PublishedKey]) -> str:
    """What is to be done next, in words."""
    states = {one.state for one in keys}
    if "next" in states:
        return (
            "The next key is published beside the one that signs. Use it once the endpoint has read our JWKS again, or"
            " somebody has registered it there."
        )
    if "retired" in states:
        return (
            "The new key signs. The old one stays published so that what it signed can still be checked; remove it once"
            " the endpoint took an assertion of the new one."
        )
    return "One key is published and signs. A rotation begins with preparing the next."
