"""Vendor profiles are data with sources; a pull follows them."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fhir_gateway.errors import ConfigurationError
from fhir_gateway.sources.endpoint import ClientSecret, Endpoint
from fhir_gateway.sources.outcome import PullOutcome
from fhir_gateway.sources.vendors import FILE, PROFILES, VERSION, VendorProfile, _load, vendor_profile
from tests.support.misbehaving import MisbehavingSource

Pulling = Callable[..., PullOutcome]
GUIDE = Path(__file__).parents[3] / "docs" / "operate" / "endpoints.md"


def test_every_value_that_differs_has_a_fact_with_its_month() -> None:
    plain = VendorProfile("plain")
    for profile in PROFILES.values():
        for field in fields(VendorProfile):
            if field.name in ("name", "summary", "facts"):
                continue
            if getattr(profile, field.name) != getattr(plain, field.name):
                assert field.name in profile.facts, f"{profile.name}.{field.name}"
        for value, fact in profile.facts.items():
            assert hasattr(profile, value)
            dated = "20" in fact or fact.startswith("as ") or "same" in fact
            assert dated, f"{profile.name}.{value}: {fact}"
    assert VERSION


def test_a_value_without_its_source_does_not_load() -> None:
    with pytest.raises(ConfigurationError, match="max_wait"):
        _load({"x": {"max_wait": 1.0}})
    with pytest.raises(ConfigurationError, match="max_weight"):
        _load({"x": {"max_weight": 1.0, "facts": {"max_weight": "said so, 2026-11"}}})
    assert tomllib.loads(FILE.read_text(encoding="utf-8"))["version"] == VERSION


def test_the_guide_has_every_vendor() -> None:
    text = GUIDE.read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in text for name in PROFILES)


def test_names_that_are_not_known() -> None:
    with pytest.raises(ConfigurationError, match="ab2d, bcda, dpc, epic"):
        vendor_profile("nobody")


def served(source: MisbehavingSource) -> list[str]:
    return [one.path for one in source.requests("kickoff")]


def test_epic_and_oracle_export_groups_only(source: MisbehavingSource, pulling: Pulling) -> None:
    for name in ("epic", "oracle-health"):
        with pytest.raises(ConfigurationError, match="exports Groups only"):
            pulling(profile=vendor_profile(name))
    outcome = pulling(profile=vendor_profile("epic"), group="g", since="2025-01-01T00:00:00Z")
    assert served(source) == ["/fhir/Group/g/$export"]
    assert any("pull in full now and then" in issue.message for issue in outcome.issues)


def test_bcda_asks_for_its_default_group_one_job_a_type_and_no_scope(
    source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint
) -> None:
    source.client_secret = "s3cret"
    source.export_levels = {"group", "patient"}
    payer = replace(endpoint, auth="client-secret", vendor="bcda")
    pulling(endpoint=payer, key=ClientSecret("s3cret"), profile=None, types=("Patient", "Coverage"))
    assert served(source) == ["/fhir/Group/all/$export"] * 2
    assert [one["_type"] for one in source.asked] == [["Patient"], ["Coverage"]]
    assert b"scope" not in source.requests("token")[0].body


def test_ab2d_asks_for_its_own_scope(source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint) -> None:
    source.client_secret = "s3cret"
    payer = replace(endpoint, auth="client-secret", vendor="ab2d")
    pulling(endpoint=payer, key=ClientSecret("s3cret"), profile=None)
    assert served(source) == ["/fhir/Patient/$export"]
    assert b"scope=clientCreds" in source.requests("token")[0].body


def test_dpc_finds_its_token_endpoint_in_the_capability_statement(
    source: MisbehavingSource, pulling: Pulling, endpoint: Endpoint
) -> None:
    source.smart_document, source.security_extension = False, True
    pulling(endpoint=replace(endpoint, vendor="dpc"), profile=None, group="roster")
    assert served(source) == ["/fhir/Group/roster/$export"]
    assert b"scope=system%2F%2A.%2A" in source.requests("token")[0].body
