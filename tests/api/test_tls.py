"""The server with a certificate of its own: https, TLS 1.2 or newer."""

from __future__ import annotations

import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from fhir_gateway.config import Settings
from fhir_gateway.errors import ConfigurationError
from fhir_gateway.factory import Gateway
from fhir_gateway.server.serve import GatewayServer, tls
from tests.support.certificates import certificate
from tests.support.waiting import HANG


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return certificate(tmp_path, "localhost")


@pytest.fixture
def port(tmp_path: Path, pem: Path) -> Iterator[int]:
    with GatewayServer(Gateway(Settings(data_dir=tmp_path / "data", tls_certificate=pem)), port=0) as server:
        yield server.port


def spoken(context: ssl.SSLContext, port: int) -> str | None:
    """The version that the server speaks with us; None when it does not."""
    with socket.create_connection(("127.0.0.1", port), timeout=HANG) as plain:
        try:
            with context.wrap_socket(plain, server_hostname="localhost") as secure:
                return secure.version()
        except OSError as error:  # closed, with or without a word
            if isinstance(error, ssl.SSLError) and error.reason in ("NO_PROTOCOLS_AVAILABLE", "NO_CIPHERS_AVAILABLE"):
                raise AssertionError("this side did not even ask") from error
            return None


def test_answers_are_encrypted_by_tls_of_today(port: int, pem: Path) -> None:
    with httpx.Client(verify=ssl.create_default_context(cafile=str(pem)), trust_env=False, timeout=HANG) as http:
        answer = http.get(f"https://localhost:{port}/fhir/metadata")
        assert (answer.status_code, answer.json()["resourceType"]) == (200, "CapabilityStatement")
    with httpx.Client(trust_env=False, timeout=HANG) as http, pytest.raises(httpx.TransportError):
        http.get(f"http://localhost:{port}/health")
    for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
        context = ssl.create_default_context(cafile=str(pem))
        context.minimum_version = context.maximum_version = version
        assert spoken(context, port) == version.name.replace("_", ".")


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
def test_what_is_older_is_refused(port: int, pem: Path, version: str) -> None:
    context = ssl.create_default_context(cafile=str(pem))
    context.set_ciphers("ALL:@SECLEVEL=0")  # else this side does not even ask
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that it is old is the point
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    assert spoken(context, port) is None


def test_a_certificate_that_is_none_is_refused_at_the_start(tmp_path: Path, pem: Path) -> None:
    assert tls(Settings(data_dir=tmp_path)) is None
    (tmp_path / "other").mkdir()
    wrong = tmp_path / "wrong.pem"
    wrong.write_text("not a certificate")
    for given in (
        {"tls_certificate": tmp_path / "missing.pem"},
        {"tls_certificate": wrong},
        {"tls_certificate": pem, "tls_key": certificate(tmp_path / "other", "localhost")},
        {"tls_key": pem},
    ):
        with pytest.raises(ConfigurationError, match="TLS"):
            tls(Settings(data_dir=tmp_path, **given))
