"""Predictions: who will need care most by models of the own lake, and what each model learned from and is worth.

For outreach and care, never settlement. Pages read the lists and models that were kept.
"""

# no deferred annotations here: FastAPI reads those of routes, which name what is local to `router`

from collections.abc import Mapping
from typing import Annotated, Any, Literal, cast

from fastapi import APIRouter, Depends, Query
from starlette.requests import Request
from starlette.responses import Response

from fhir_gateway.console.frame import Frame
from fhir_gateway.console.persons_seen import rows_seen
from fhir_gateway.console.sessions import Session
from fhir_gateway.console.tables_of import counts_of, page_of
from fhir_gateway.errors import NotFoundError
from fhir_gateway.jobs.prediction_models import model_store
from fhir_gateway.jobs.work_lists import KeptList, kept_list

Page = Annotated[int, Query(ge=1, le=1_000_000)]
#: Lists by name: what people read, and the order of their rows.
_LISTS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "work-list": ("Unplanned acute cost of the next year", ("-expected_avoidable", "member")),
    "readmissions": ("Readmission within 30 days of discharge", ("-probability", "stay")),
}


def router(frame: Frame) -> APIRouter:
    """Their routes."""
    routes = APIRouter()
    gateway = frame.gateway
    See = Annotated[Session, Depends(frame.see("see-population"))]

    def kept(name: str) -> KeptList | None:
        return kept_list(gateway, cast(Literal["work-list", "readmissions"], name))

    @routes.get("/predictions")
    def overview(request: Request, session: See) -> Response:
        lists = []
        for name, (title, _) in _LISTS.items():
            found = kept(name)
            tiers = counts_of(found.path, ("tier",), rows_seen(gateway, session)) if found else []
            lists.append({"name": name, "title": title, "kept": found, "tiers": tiers})
        return frame.page(request, "predictions.html", lists=lists, models=model_store(gateway).models()[::-1])

    @routes.get("/predictions/models/{model_id}")
    def card(request: Request, model_id: str, _: See) -> Response:
        """The card of a model: what it learned from, how it did, for whom it does worse."""
        found = model_store(gateway).load(model_id)
        tests = found.card["tests"]
        return frame.page(
            request, "model_card.html", model=found, card=found.card, tests=tests, chart=_calibration(tests)
        )

    @routes.get("/predictions/{name}")
    def listed(request: Request, name: str, session: See, tier: str = "", page: Page = 1) -> Response:
        """A work list, the highest first."""
        if name not in _LISTS or (found := kept(name)) is None:
            raise NotFoundError("no such list was made")
        title, order = _LISTS[name]
        seen = rows_seen(gateway, session)
        tiers = [one["tier"] for one in counts_of(found.path, ("tier",), seen)]
        rows = page_of(found.path, order, page, {"tier": tier} if tier else None, seen)
        request.state.access.disclose(row["member"] for row in rows.rows)
        return frame.page(
            request,
            "work_list.html",
            name=name,
            title=title,
            about=found.about,
            found=rows,
            chosen=tier,
            tiers=[("", "all"), *((one, one) for one in sorted(tiers))],
        )

    return routes


def _calibration(tests: Mapping[str, Any]) -> dict[str, Any]:
    """Expected and observed by decile."""
    deciles = tests["calibration"]
    return {
        "legend": {"top": 0},
        "xAxis": {"type": "category", "name": "decile", "data": [str(one["decile"]) for one in deciles]},
        "yAxis": {"type": "value"},
        "series": [
            {
                "type": "bar",
                "name": "expected",
                "itemStyle": {"color": "#1b6ca8"},
                "data": [one["expected"] for one in deciles],
            },
            {
                "type": "bar",
                "name": "observed",
                "itemStyle": {"color": "#b5651d"},
                "data": [one["observed"] for one in deciles],
            },
        ],
    }
