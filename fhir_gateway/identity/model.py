"""The linkage model: comparisons with their levels and weights, thresholds, and which levels may link unseen.

What a level means is code (``CONDITIONS``, SQL over two records ``l`` and ``r`` of :mod:`identity.records`); what it
weighs, and what follows, is configuration with a version: ``linkage.toml`` here, or a file like it.
"""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from fhir_gateway.errors import ConfigurationError, Location

#: Level of a comparison that one of the two records has no value for; it weighs nothing.
UNKNOWN = "unknown"
#: The least probability that is written down: expectation maximisation comes as near to 0 as it likes where a level has
#: next to no pairs, and 0 would be a weight without end.
LEAST = 1e-8
SHIPPED = Path(__file__).with_name("linkage.toml")

_SIDE = re.compile(r"\b([lr])\.(\w+)")
_SWAPPED = "l.family = r.given AND l.given = r.family"
_CLOSE = (
    "(length(l.{0}) > 3 AND length(r.{0}) > 3 AND "
    "(damerau_levenshtein(l.{0}, r.{0}) = 1 OR jaro_winkler_similarity(l.{0}, r.{0}) >= 0.93))"
)
_PHONE = "(list_has_any(l.phones, r.phones) OR list_has_any(l.emails, r.emails))"
_PHONES_KNOWN = "(len(l.phones) > 0 AND len(r.phones) > 0 OR len(l.emails) > 0 AND len(r.emails) > 0)"

#: Of each comparison: when it is unknown, and the conditions of its levels; the first that holds counts, the last is
#: whatever is left.
CONDITIONS: Mapping[str, Mapping[str, str]] = {
    "family": {
        UNKNOWN: "l.family IS NULL OR r.family IS NULL",
        "exact": "l.family = r.family",
        "swapped": _SWAPPED,
        "former": "list_has_any(l.families, r.families)",
        "similar": _CLOSE.format("family"),
        "different": "ELSE",
    },
    "given": {
        UNKNOWN: "l.given IS NULL OR r.given IS NULL",
        "exact": "l.given = r.given",
        "swapped": _SWAPPED,
        "prefix": "starts_with(l.given, r.given) OR starts_with(r.given, l.given)",
        "similar": _CLOSE.format("given"),
        "different": "ELSE",
    },
    "birth_date": {
        UNKNOWN: "l.birth_date IS NULL OR r.birth_date IS NULL",
        "exact": "l.birth_date = r.birth_date",
        "transposed": "l.birth_date[1:4] = r.birth_date[1:4] AND l.birth_date[6:7] = r.birth_date[9:10] "
        "AND l.birth_date[9:10] = r.birth_date[6:7]",
        "digit": "damerau_levenshtein(l.birth_date, r.birth_date) = 1",
        "year": "l.birth_date[1:4] = r.birth_date[1:4]",
        "different": "ELSE",
    },
    "gender": {UNKNOWN: "l.gender IS NULL OR r.gender IS NULL", "same": "l.gender = r.gender", "different": "ELSE"},
    "suffix": {UNKNOWN: "l.suffix IS NULL OR r.suffix IS NULL", "same": "l.suffix = r.suffix", "different": "ELSE"},
    "contact": {
        UNKNOWN: f"(l.postal_code IS NULL OR r.postal_code IS NULL) AND NOT {_PHONES_KNOWN}",
        "address-and-phone": f"l.address = r.address AND {_PHONE}",
        "phone": _PHONE,
        "address": "l.address = r.address",
        "postal-code": "l.postal_code = r.postal_code",
        "different": "ELSE",
    },
    "national": {
        UNKNOWN: "NOT list_has_any(l.national_systems, r.national_systems)",
        "same": "list_has_any(l.national, r.national)",
        "different": "ELSE",
    },
}
#: Comparisons whose level ``exact`` weighs by the frequency of the value.
BY_FREQUENCY = frozenset({"family", "given"})

#: Which records are compared at all: those that agree in one of these ways.
BLOCKING = (
    "l.birth_date = r.birth_date AND l.family[1] = r.family[1]",
    "l.birth_date = r.birth_date AND l.given[1] = r.given[1]",
    "l.birth_date = r.birth_date AND l.family = r.given",
    "l.family = r.family AND l.given = r.given",
    "l.given = r.given AND l.address = r.address",
    "l.given = r.given AND l.phone = r.phone",
    "l.family = r.family AND l.birth_date[1:4] = r.birth_date[1:4] AND l.postal_code = r.postal_code",
)


@dataclass(frozen=True, slots=True)
class LinkageModel:
    """Weights and thresholds. ``digest`` names the model's content, and is kept with all that it decided."""

    version: str
    prior: float
    link: float
    review: float
    margin: float
    linking_levels: Mapping[str, frozenset[str]]
    weights: Mapping[str, Mapping[str, tuple[float, float]]]
    digest: str

    @property
    def name(self) -> str:
        """Version and digest, as history shows it."""
        return f"linkage {self.version} ({self.digest[:12]})"

    @classmethod
    def load(cls, path: Path = SHIPPED) -> LinkageModel:
        """Read a model; ConfigurationError names what is missing, unknown or no probability."""
        where = Location(file=path.name)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigurationError(f"the linkage model cannot be read ({reason})", location=where) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError):
            raise ConfigurationError("the linkage model is not TOML", location=where) from None
        try:
            return cls.of(content)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            message = error.args[0] if isinstance(error, ValueError | KeyError) and error.args else "a wrong type"
            raise ConfigurationError(f"linkage model: {message}", location=where) from None

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> LinkageModel:
        """A model from what its file says."""
        if unknown := content.keys() - {"version", "prior", "thresholds", "link", *CONDITIONS}:
            raise ValueError(f"unknown {', '.join(sorted(unknown))}")
        thresholds = content["thresholds"]
        weights = {name: _weights(name, content[name]) for name in CONDITIONS}
        linking = {name: frozenset(levels) for name, levels in content["link"].items()}
        for name, levels in linking.items():
            if strange := levels - CONDITIONS.get(name, {}).keys():
                raise ValueError(f"link.{name} has no level {', '.join(sorted(strange))}")
        prior = float(content["prior"])
        if not 0 < prior < 1:
            raise ValueError("prior is no probability")
        if thresholds["link"] < thresholds["review"]:
            raise ValueError("thresholds.link is below thresholds.review")
        return cls(
            version=str(content["version"]),
            prior=prior,
            link=float(thresholds["link"]),
            review=float(thresholds["review"]),
            margin=float(thresholds["margin"]),
            linking_levels=linking,
            weights=weights,
            digest=hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest(),
        )

    def settings(self, records: int) -> dict[str, Any]:
        """Settings of splink for that many records."""
        return {
            "link_type": "dedupe_only",
            "unique_id_column_name": "number",
            "probability_two_random_records_match": min(self.prior, 1 / max(records, 2)),
            "retain_matching_columns": True,  # and with them the levels
            "retain_intermediate_calculation_columns": False,
            "comparisons": [self._comparison(name) for name in CONDITIONS],
            "blocking_rules_to_generate_predictions": [
                {"blocking_rule": f"{rule} AND l.component <> r.component", "sql_dialect": "duckdb"}
                for rule in BLOCKING
            ],
        }

    def _comparison(self, name: str) -> dict[str, Any]:
        levels: list[dict[str, Any]] = []
        for level, condition in CONDITIONS[name].items():
            # splink names the columns of the two records so
            sql = _SIDE.sub(r'"\2_\1"', condition)
            one: dict[str, Any] = {"sql_condition": sql, "label_for_charts": level}
            if level == UNKNOWN:
                one["is_null_level"] = True
            else:
                one["m_probability"], one["u_probability"] = self.weights[name][level]
                if level == "exact" and name in BY_FREQUENCY:
                    one["tf_adjustment_column"] = name
            levels.append(one)
        return {"output_column_name": name, "comparison_levels": levels}

    def to_toml(self) -> str:
        """The model as a file."""
        lines = [
            f'version = "{self.version}"',
            f"prior = {self.prior!r}",
            "",
            "[thresholds]",
            f"link = {self.link!r}",
            f"review = {self.review!r}",
            f"margin = {self.margin!r}",
            "",
            "[link]",
        ]
        for name, levels in self.linking_levels.items():
            listed = ", ".join(f'"{level}"' for level in CONDITIONS[name] if level in levels)
            lines.append(f"{name} = [{listed}]")
        for name, weights in self.weights.items():
            lines += ["", f"[{name}]"]
            lines += [
                f"{level} = {{ m = {max(m, LEAST):.8f}, u = {max(u, LEAST):.8f} }}" for level, (m, u) in weights.items()
            ]
        return "\n".join(lines) + "\n"


def _weights(name: str, given: Mapping[str, Mapping[str, float]]) -> dict[str, tuple[float, float]]:
    levels = [level for level in CONDITIONS[name] if level != UNKNOWN]
    if given.keys() != set(levels):
        raise ValueError(f"{name} has not exactly the levels {', '.join(levels)}")
    weights = {level: (float(given[level]["m"]), float(given[level]["u"])) for level in levels}
    if any(not 0 < one <= 1 for pair in weights.values() for one in pair):
        raise ValueError(f"{name} has an m or u that is no probability above 0")
    return weights
