"""Sending to an address that a client chose: only where it may lead, with nothing followed and nothing read.

The name is resolved here and the connection goes to the address that was looked at, so that a name cannot lead
elsewhere between the look and the connection; TLS is verified against the name. Proxies of the environment are not
used, redirects are not followed, and of the answer only the status counts.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import ssl
from collections.abc import Sequence
from urllib.parse import urlsplit

import httpx

from fhir_gateway.subscriptions.models import check_endpoint, is_public

FHIR_JSON = "application/fhir+json"


class DeliveryError(Exception):
    """A notification was not taken; the message says why without naming address or secrets."""


class RestHook:
    """Sends notifications. Safe to share between threads."""

    def __init__(self, *, public_only: bool, trust: ssl.SSLContext | None = None) -> None:
        """``trust`` says whose certificates count; by default those that httpx trusts."""
        self._public_only = public_only
        for name in ("httpx", "httpcore"):  # their own logs would show whole URLs
            logging.getLogger(name).setLevel(logging.WARNING)
        self._client = httpx.Client(trust_env=False, follow_redirects=False, timeout=30, verify=trust or True)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def send(
        self,
        endpoint: str,
        headers: Sequence[tuple[str, str]],
        body: bytes,
        timeout: float,
        content_type: str = FHIR_JSON,
    ) -> None:
        """POST a notification; DeliveryError unless the answer is a 2xx in time."""
        check_endpoint(endpoint, public_only=self._public_only)
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        address = self._address(host, port)
        where = f"[{address}]" if ":" in address else address
        pinned = parts._replace(netloc=f"{where}:{port}").geturl()
        sent = [*headers, ("Host", parts.netloc), ("Content-Type", content_type), ("Accept", FHIR_JSON)]
        try:
            with self._client.stream(
                "POST", pinned, content=body, headers=sent, timeout=timeout, extensions={"sni_hostname": host}
            ) as answer:
                code = answer.status_code
        except httpx.TimeoutException:
            raise DeliveryError(f"the endpoint did not answer within {timeout:g} seconds") from None
        except httpx.HTTPError as error:
            raise DeliveryError(f"the endpoint could not be reached ({type(error).__name__})") from None
        if not 200 <= code < 300:
            raise DeliveryError(f"the endpoint answered {code}")

    def _address(self, host: str, port: int) -> str:
        """The first address of a name; DeliveryError when one of them is in a private network."""
        try:
            found = [str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except OSError:
            raise DeliveryError("the endpoint's name is not known") from None
        if self._public_only and not all(is_public(ipaddress.ip_address(one.partition("%")[0])) for one in found):
            raise DeliveryError("the endpoint's name leads into a private network")
        return found[0]
