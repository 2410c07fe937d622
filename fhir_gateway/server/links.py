"""Next links: they hold everything that the next page needs, sealed.

A link says nothing in clear about the search (a form search exists to keep values out of URLs), cannot be bent into
another search, and stays valid across processes and restarts. It opens nothing by itself: whose page it is decides the
token that comes with it.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import orjson

from fhir_gateway.db.secrets import SecretBox
from fhir_gateway.errors import ConfigurationError, InputError, Location
from fhir_gateway.server.problems import TooCostly

#: The one parameter of a next link.
PAGE = "_page"
#: Longest next link we give out; servers and proxies commonly refuse request lines above 8 KB.
MAX_LINK = 7000


@dataclass(frozen=True, slots=True)
class PageLinks:
    """Seals what comes next into a link and opens it again."""

    base_url: str
    secrets: SecretBox

    def seal(self, path: str, state: Sequence[Any]) -> str:
        """URL of the next page of ``path``; raises TooCostly when the search is too long for a link."""
        token = self.secrets.encrypt(zlib.compress(orjson.dumps([path, state]), 9)).decode()
        if len(token) > MAX_LINK:
            raise TooCostly("the search is too long to be continued on a next page: ask for fewer values at once")
        return f"{self.base_url}/{path}".rstrip("/") + f"?{PAGE}={quote(token)}"

    def open(self, path: str, parameters: Sequence[tuple[str, str]]) -> Sequence[Any] | None:
        """The state behind a next link; None when ``parameters`` are no next link. Raises InputError."""
        tokens = [value for name, value in parameters if name == PAGE]
        if not tokens:
            return None
        try:
            of_path, state = orjson.loads(zlib.decompress(self.secrets.decrypt(tokens[0].encode())))
        except (ConfigurationError, ValueError, zlib.error):
            raise InputError("not a page of ours", location=Location(path=PAGE, rule="value")) from None
        if of_path != path:
            raise InputError("a page of another search", location=Location(path=PAGE, rule="value"))
        opened: Sequence[Any] = state
        return opened
