"""An instrument as data: questions, scales, skips, composites, case-mix variables (``instruments/*.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fhir_gateway.errors import ConfigurationError, Location, NotFoundError


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Scale(_Part):
    """Answers from worst to best as numbers, or a range of them; ``top`` are those of the top box.

    ``worst_first`` is false where the lowest number is the best answer (yes is 1). Codes of answers that mean the
    question does not apply are ``not_applicable``.
    """

    answers: Mapping[str, int] = {}
    range: tuple[int, int] | None = None
    top: tuple[int, ...]
    worst_first: bool = True
    not_applicable: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest number."""
        return self.range or (min(self.answers.values()), max(self.answers.values()))


class AskedIf(_Part):
    """A question is for those who gave one of these answers to another."""

    item: str
    answers: tuple[int, ...]


class Item(_Part):
    """A question; ``about`` the respondent: none that is scored."""

    scale: str
    asked_if: AskedIf | None = None
    about: bool = False


class Composite(_Part):
    """A composite measure: the mean of its items' scores."""

    title: str
    items: tuple[str, ...] = Field(min_length=1)


class CaseMix(_Part):
    """A variable that scores are adjusted for: as a number, or by category beside a reference."""

    item: str
    kind: Literal["linear", "category"]
    reference: int | None = None


class Vbp(_Part):
    """Dimensions of the survey domain of Hospital VBP."""

    dimensions: tuple[str, ...]


class Instrument(_Part):
    """A survey. ``items`` are by ``linkId`` (or its last part: ``/hcahps/q1`` and ``Q1`` are question 1)."""

    id: str
    title: str
    version: str
    questionnaires: tuple[str, ...]
    min_completes: int
    public_completes: int
    complete_share: float
    top_box: Literal["items"]
    scales: Mapping[str, Scale]
    items: Mapping[str, Item]
    composites: Mapping[str, Composite]
    case_mix: Mapping[str, CaseMix] = {}
    vbp: Vbp | None = None

    @model_validator(mode="after")
    def _whole(self) -> Instrument:
        """Everything that is named is there."""
        for name, item in self.items.items():
            if item.scale not in self.scales:
                raise ValueError(f"items.{name}.scale: there is no such scale")
            if item.asked_if is not None and item.asked_if.item not in self.items:
                raise ValueError(f"items.{name}.asked_if.item: there is no such item")
        for name, composite in self.composites.items():
            if missing := [one for one in composite.items if one not in self.items]:
                raise ValueError(f"composites.{name}.items: there is no item {', '.join(missing)}")
        if missing := [name for name, one in self.case_mix.items() if one.item not in self.items]:
            raise ValueError(f"case_mix: there is no item of {', '.join(missing)}")
        return self

    def scale_of(self, item: str) -> Scale:
        """The scale of an item."""
        return self.scales[self.items[item].scale]

    @property
    def for_everybody(self) -> tuple[str, ...]:
        """Scored questions that nobody may skip: of them half must be answered."""
        return tuple(name for name, one in self.items.items() if one.asked_if is None and not one.about)

    @classmethod
    def load(cls, path: Path) -> Instrument:
        """An instrument of a TOML file; ConfigurationError names what is wrong with it."""
        try:
            return cls.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ConfigurationError("there is no such instrument", location=Location(file=str(path))) from None
        except tomllib.TOMLDecodeError as error:
            raise ConfigurationError(f"not TOML: {error}", location=Location(file=str(path))) from None
        except ValidationError as error:
            said = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            raise ConfigurationError(said, location=Location(file=str(path))) from None


def shipped_names() -> tuple[str, ...]:
    """Ids of the instruments that come with the gateway."""
    folder = files(__package__).joinpath("instruments")
    return tuple(sorted(one.name.removesuffix(".toml") for one in folder.iterdir() if one.name.endswith(".toml")))


@cache
def shipped(name: str) -> Instrument:
    """The instrument of that id; NotFoundError lists those there are."""
    if name not in shipped_names():
        raise NotFoundError(f"there is no such instrument; there are {', '.join(shipped_names())}")
    text = files(__package__).joinpath("instruments", f"{name}.toml").read_text(encoding="utf-8")
    return Instrument.model_validate(tomllib.loads(text))
