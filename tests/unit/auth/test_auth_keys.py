"""JWK Sets: which may be registered, and which key an assertion selects."""

from __future__ import annotations

from typing import Any

import pytest
from joserfc.jwk import ECKey

from fhir_gateway.auth.assertion import generate_key, public_key_set
from fhir_gateway.auth.keys import candidates, check_key_set
from fhir_gateway.errors import InputError

EC = generate_key("ES384", "ec")
RSA = generate_key("RS384", "rsa")


def test_public_keys_of_both_kinds_may_be_registered() -> None:
    check_key_set(public_key_set(EC, RSA))


def _changed(key: dict[str, Any], **members: Any) -> dict[str, Any]:
    jwk = public_key_set(key)["keys"][0] | members
    return {"keys": [{name: value for name, value in jwk.items() if value is not None}]}


@pytest.mark.parametrize(
    ("jwks", "reason"),
    [
        ({}, "a list"),
        ({"keys": []}, "at least one key"),
        ({"keys": ["text"]}, "at least one key"),
        (_changed(EC, kid=None), "no kid"),
        (_changed(EC, kty="oct"), "kty"),
        (_changed(EC, d="secret"), "private members"),
        (_changed(EC, x=None), "lacks one of"),
        (_changed(EC, x="AA"), "not a valid EC key"),
        (_changed(EC, crv="P-256"), "not a valid EC key"),
        (_changed(RSA, n="AQAB"), "fewer than 2048 bits"),
        ({"keys": public_key_set(EC)["keys"] * 2}, "same kid"),
    ],
)
def test_unfit_sets_are_refused_with_the_reason(jwks: dict[str, Any], reason: str) -> None:
    with pytest.raises(InputError, match=reason) as caught:
        check_key_set(jwks)
    assert "secret" not in str(caught.value)


def test_a_set_without_a_smart_algorithm_is_refused() -> None:
    key = ECKey.generate_key("P-256", {"kid": "small"}).as_dict(private=False)
    with pytest.raises(InputError, match="no key for RS384"):
        check_key_set({"keys": [key]})


def test_a_key_is_selected_by_kid_and_kind() -> None:
    both = public_key_set(EC, RSA | {"kid": "ec"})  # one kid, two kinds: the algorithm decides
    assert [key["kty"] for key in candidates(both, "ec", "ES384")] == ["EC"]
    assert [key["kty"] for key in candidates(both, "ec", "RS384")] == ["RSA"]
    assert candidates(both, "other", "ES384") == []
    assert candidates({"keys": "nonsense"}, "ec", "ES384") == []
