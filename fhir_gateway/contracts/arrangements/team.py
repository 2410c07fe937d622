"""TEAM: the Transforming Episode Accountability Model for hospitals (42 CFR 512 subpart E).

Target prices come from CMS by price group (or out of the claims); families, discounts, tracks and limits are data
(``contracts/episodes/models/team.toml``).
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from fhir_gateway.contracts.arrangements.base import arrangement
from fhir_gateway.contracts.arrangements.episode_programme import ProgrammeTerms
from fhir_gateway.contracts.episodes.caps import Cap
from fhir_gateway.contracts.episodes.codes import shipped
from fhir_gateway.contracts.episodes.reconciliation import Limits, PostEpisode, QualityAdjustment


@arrangement("team")
class Team(ProgrammeTerms):
    """Terms of a participant hospital in a performance year."""

    kind: Literal["team"]
    performance_year: int = Field(ge=1, le=5)
    track: Literal[1, 2, 3]

    programme = "team"

    def _track(self) -> dict[str, Any]:
        return next(dict(one) for one in shipped("team")["tracks"] if one["track"] == self.track)

    def shipped_discount(self, family: str) -> Decimal:
        """By family; a family of the contract's own has none."""
        return Decimal(shipped("team")["discounts"].get(family, 0))

    def bound(self) -> Cap | None:
        """The programme's percentile unless the contract states bounds."""
        return self.cap or Cap.model_validate(shipped("team")["cap"])

    def afterwards(self) -> PostEpisode:
        """The programme's unless the contract states another."""
        return self.post_episode or PostEpisode.model_validate(shipped("team")["post_episode"])

    def shipped_adjustment(self) -> QualityAdjustment:
        """By track."""
        track = self._track()
        return QualityAdjustment(positive=track["positive"], negative=track["negative"])

    def shipped_limits(self) -> Limits:
        """By track."""
        track = self._track()
        return Limits(gain=track["gain"], loss=track["loss"])

    def problems(self) -> list[str]:
        """Terms that contradict each other."""
        found = super().problems()
        first, last = self._track()["years"]
        if not first <= self.performance_year <= last:
            found.append(f"{self.where}.track: track {self.track} exists in performance years {first} to {last} only")
        return found
