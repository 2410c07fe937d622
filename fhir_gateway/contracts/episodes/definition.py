"""What an episode of care is: what opens it, how long it lasts, which services belong to it and for how much.

A definition is data. Those of TEAM, CJR and BPCI Advanced are shipped (``models/``); a contract may state its own.
"""

from __future__ import annotations

from collections import Counter
from datetime import date, timedelta
from functools import cache
from typing import Annotated, Any, Literal

import pyarrow as pa
from pydantic import BeforeValidator, Field

from fhir_gateway.contracts.episodes.codes import Match, problems, shipped
from fhir_gateway.contracts.terms import Fraction, Terms

#: Money in tables of episodes.
AMOUNT = pa.decimal128(28, 8)
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9\-.]{1,40}$")]


class Trigger(Terms):
    """A rule that opens an episode. Inpatient claims are looked at as stays, others by line."""

    family: Name
    match: Match
    price: Name | None = Field(
        default=None, description="Price group; default the MS-DRG of the stay, else the procedure of the line."
    )


class Window(Terms):
    """``days`` from the anchor's end, ``first_day`` being day 1; ``lead_days`` before the anchor count too."""

    days: int = Field(ge=0, le=730)
    first_day: Literal["discharge", "day_after"] = "day_after"
    lead_days: int = Field(default=0, ge=0, le=90)

    @property
    def after(self) -> int:
        """Days from the anchor's end to the last day of the window."""
        return self.days - (1 if self.first_day == "discharge" else 0)


class Transfers(Terms):
    """Stays that are one anchor: of two hospitals up to ``gap_days`` apart; of one hospital on the same day."""

    gap_days: int = Field(default=1, ge=0, le=7)
    anchor: Literal["first", "last"] = Field(
        default="last", description="Which triggering stay gives family, price group and provider."
    )
    same_day_readmission: Literal["combine", "readmission"] = "combine"


class Service(Terms):
    """A category of services, the first that matches counts, and how a claim that runs over the end is cut.

    ``whole``: by the day of service. ``per_diem``: payment / length of stay x days inside. ``gmlos``: payment x min(1,
    (days inside + 1) / geometric mean length of stay of the MS-DRG). ``home_health``: payment x days inside / ``days``.
    """

    id: Name
    match: Match
    proration: Literal["whole", "per_diem", "gmlos", "home_health"] = "whole"
    days: int = Field(default=30, ge=1)


class Exclusion(Terms):
    """Services that do not count although they fall into the window; ``anchor``: nor in the anchor's own claims."""

    id: Name
    match: Match
    anchor: bool = False


class Remap(Terms):
    """A price group that has another name by now: episodes that begin before ``before`` are counted to ``becomes``."""

    group: Name
    becomes: Name
    before: date
    match: Match = Match()


class Milestone(Terms):
    """A service that is expected from day ``first`` to day ``last`` of the episode (the window's first day is 0)."""

    id: Name
    match: Match
    first: int = Field(default=0, ge=0)
    last: int = Field(ge=0)
    share: Fraction = Field(description="Part of the price that reaching it earns.")


def _listed(stated: Any) -> Any:
    """A list of ``models/services.toml`` by its name."""
    if not isinstance(stated, str):
        return stated
    lists = shipped("services")
    if stated not in lists:
        raise ValueError(f"there is no list '{stated}' (there are {', '.join(sorted(lists))})")
    return lists[stated]


class Covered(Terms):
    """Who is eligible, by Coverage: covered by all parts, and by no excluded type, on every day of the episode.

    Types and parts are codes of Coverage.type or class, as in attribution terms.
    """

    include_types: tuple[str, ...] = ()
    exclude_types: tuple[str, ...] = ()
    parts: dict[str, tuple[str, ...]] = Field(default={}, description="Codes by part, such as Part A and Part B.")


class Definition(Terms):
    """An episode of care."""

    triggers: tuple[Trigger, ...] = Field(min_length=1)
    window: Window
    services: Annotated[tuple[Service, ...], BeforeValidator(_listed)] = Field(
        min_length=1, description="Categories in order, or the name of a shipped list: medicare, commercial."
    )
    exclusions: tuple[Exclusion, ...] = ()
    complications: tuple[Match, ...] = Field(
        default=(), description="Potentially avoidable: counted apart, not left out."
    )
    milestones: tuple[Milestone, ...] = ()
    transfers: Transfers = Transfers()
    covered: Covered | None = Field(
        default=None, description="Coverage that is needed from the anchor to the window's end, where no table says it."
    )
    on_death: Literal["cancel", "cancel_in_anchor", "keep"] = Field(
        default="cancel", description="What a death in the episode, or in its anchor only, does."
    )
    on_retrigger: Literal["cancel", "readmission", "replace"] = Field(
        default="readmission",
        description="A trigger while an episode is open: cancels it and opens another; is a readmission of it; or"
        " replaces its anchor, the window being from the first anchor's to the end of the last one's.",
    )
    amount: Literal["paid", "allowed"] = "paid"
    period_day: Literal["anchor_start", "anchor_end", "window_end"] = Field(
        default="anchor_end", description="The day that decides to which period an episode belongs."
    )
    price_day: Literal["anchor_start", "anchor_end"] = Field(
        default="anchor_end", description="The day of which the price holds."
    )
    remap: tuple[Remap, ...] = ()
    post_days: int = Field(default=0, ge=0, le=365, description="Days after the window whose spending is looked at.")

    @property
    def families(self) -> tuple[str, ...]:
        """Families, each once."""
        return tuple(dict.fromkeys(trigger.family for trigger in self.triggers))

    @property
    def reach(self) -> timedelta:
        """How far from a period services may lie that matter for its episodes: a year for the anchor and one before."""
        return timedelta(days=2 * (366 + self.window.days + self.window.lead_days) + self.post_days)

    def problems(self, where: str) -> list[str]:
        """Contradictions within the definition."""
        found = []
        if self.window.after < 0:
            found.append(f"{where}.window.days: day 1 is the day of discharge, so there is at least one")
        rules: dict[str, tuple[Trigger | Service | Exclusion | Milestone | Remap, ...]] = {
            "triggers": self.triggers,
            "services": self.services,
            "exclusions": self.exclusions,
            "milestones": self.milestones,
            "remap": self.remap,
        }
        for name, stated in rules.items():
            for number, rule in enumerate(stated):
                found += problems(rule.match, f"{where}.{name}.{number}.match")
        for number, match in enumerate(self.complications):
            found += problems(match, f"{where}.complications.{number}")
        for name, ids in (
            ("services", [one.id for one in self.services]),
            ("exclusions", [one.id for one in self.exclusions]),
            ("milestones", [one.id for one in self.milestones]),
        ):
            found += [f"{where}.{name}: two are '{one}'" for one, count in Counter(ids).items() if count > 1]
        if any(one.id == ANCHOR for one in self.services):
            found.append(f"{where}.services: '{ANCHOR}' are the anchor's own claims")
        found += [
            f"{where}.milestones.{one.id}.last: before its first day" for one in self.milestones if one.last < one.first
        ]
        if self.milestones and (total := sum(one.share for one in self.milestones)) > 1:
            found.append(f"{where}.milestones: their shares sum to {total}, above 1")
        return found

    @property
    def needs_gmlos(self) -> bool:
        """Whether a table of geometric mean lengths of stay is needed."""
        return any(service.proration == "gmlos" for service in self.services)


#: Category of the anchor's own claims.
ANCHOR = "anchor"


@cache
def shipped_definition(programme: str) -> Definition:
    """The definition of a programme of ``models/``."""
    return Definition.model_validate(shipped(programme)["episode"])


class Initiator(Terms):
    """Who is accountable for episodes: found by billing tax number, NPI, or billing Organization of the anchor."""

    name: Name
    tins: tuple[str, ...] = ()
    npis: tuple[str, ...] = ()
    organizations: tuple[str, ...] = ()
    ccns: tuple[str, ...] = Field(default=(), description="CMS certification numbers, with a table of anchors.")
