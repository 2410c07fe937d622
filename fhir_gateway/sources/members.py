"""Who is in a Group of an endpoint."""

from __future__ import annotations

import orjson

from fhir_gateway.errors import SourceError
from fhir_gateway.sources.endpoint import without_query
from fhir_gateway.sources.session import FHIR_JSON, SourceSession, refusal


async def group_members(session: SourceSession, group: str) -> list[str]:
    """Ids of the patients in a Group, in its order, each once; members that have ended are left out."""
    url = f"{session.endpoint.base_url}/Group/{group}"
    response = await session.send("GET", url, headers={"Accept": FHIR_JSON})
    if response.status_code != 200:
        raise refusal(response, "the Group")
    try:
        body = orjson.loads(response.content)
        members = [one for one in body.get("member") or [] if one.get("inactive") is not True]
        references = [str(one.get("entity", {}).get("reference", "")) for one in members]
    except (orjson.JSONDecodeError, AttributeError):
        raise SourceError(f"{without_query(url)}: answered 200 with something that is no Group") from None
    return list(dict.fromkeys(one.rsplit("/", 1)[-1] for one in references if "Patient/" in one))
