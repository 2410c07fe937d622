"""Minimum savings and loss rates (42 CFR 425.605(b), 425.604(b)); the bands are in ``programmes/mssp.toml``."""

from __future__ import annotations

from decimal import ROUND_HALF_UP, Decimal

from fhir_gateway.contracts.arrangements.mssp_rules import mssp_rules


def exact_msr(beneficiaries: int) -> Decimal:
    """Minimum savings rate as a fraction, unrounded, by the number of assigned beneficiaries."""
    bands = mssp_rules().msr
    if beneficiaries < bands[0].since:
        return bands[0].first / 100
    for band in bands:
        if beneficiaries <= band.through:
            return band.percent(beneficiaries) / 100
    return bands[-1].last / 100


def variable_msr(beneficiaries: int) -> Decimal:
    """The same as it is published and tested: two decimals of a percent, half up.

    Reproduces all published rates of six performance years.
    """
    return exact_msr(beneficiaries).quantize(Decimal("0.0001"), ROUND_HALF_UP)
