"""From raw scores to payment: normalised, less coding intensity, blended. Whole thousandths; ties round up.

Each step is rounded to three decimals (CMS, Rate Announcements: "risk scores are rounded to three decimals" after
normalisation and again after the coding adjustment), the blend once more.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fhir_gateway.risk.hcc.years import PaymentYear

SCORE = pa.decimal128(9, 3)
_THOUSAND = 1000
_FINE = 10_000  # factors have at most four decimals

Thousandths = NDArray[np.int64]


def normalised(raw: Thousandths, factor: Decimal) -> Thousandths:
    """Raw scores divided by the normalisation factor."""
    return _divided(raw * _FINE, _whole(factor))


def paid(normal: Thousandths, coding_intensity: Decimal) -> Thousandths:
    """Normalised scores less the adjustment for coding intensity."""
    return _divided(normal * (_FINE - _whole(coding_intensity)), _FINE)


def blended(payments: Mapping[str, Thousandths], year: PaymentYear) -> Thousandths:
    """The payment scores of a year's models by their shares."""
    total = sum(payments[model] * _whole(share) for model, share in year.blend.items())
    return _divided(np.asarray(total, np.int64), _FINE)


def decimals(thousandths: Thousandths, valid: NDArray[np.bool_]) -> pa.Array:
    """Thousandths as exact decimals; null where not valid."""
    words = np.empty((len(thousandths), 2), np.int64)  # a 128-bit number: its low half, then its sign
    words[:, 0] = thousandths
    words[:, 1] = thousandths >> 63
    bits = np.packbits(valid, bitorder="little")
    return pa.Array.from_buffers(SCORE, len(thousandths), [pa.py_buffer(bits), pa.py_buffer(words)])


def _whole(factor: Decimal) -> int:
    return int((factor * _FINE).to_integral_exact())


def _divided(amounts: Thousandths, divisor: int) -> Thousandths:
    """Quotients rounded to whole numbers, ties away from zero (scores are never negative)."""
    found: Thousandths = (2 * amounts + divisor) // (2 * divisor)
    return found
