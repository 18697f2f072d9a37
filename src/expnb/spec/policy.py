"""The rule that moves the flag, as values that can be read before launch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal, get_args

from expnb.errors import PercentError, SpecError, check_choice
from expnb.spec.flag import check_percent

Aim = Literal["superiority", "non_inferiority"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ship:
    """What the goal must show before the treatment goes to everybody.

    Parameters
    ----------
    p_above_rope : float
        Least probability that the improvement exceeds the rope, 0 to 1.
    expected_loss : float
        Most relative loss that shipping may cost on average; 0.001 is 0.1 %.
    expected_loss_abs : float, optional
        The same in units of the metric; used where no relative effect exists.
    p_above_margin : float
        Under ``aim = "non_inferiority"``: least probability, without a prior, that the harm is within the margin.
    """

    p_above_rope: float = 0.975
    expected_loss: float = 0.001
    expected_loss_abs: float | None = None
    p_above_margin: float = 0.975

    def __post_init__(self) -> None:
        check_probability("ship.p_above_rope", self.p_above_rope)
        check_probability("ship.p_above_margin", self.p_above_margin)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcludeFlat:
    """When to stop because there is no difference that matters."""

    p_rope: float = 0.95

    def __post_init__(self) -> None:
        check_probability("conclude_flat.p_rope", self.p_rope)


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Ladder, thresholds and waiting times of a ramp.

    Parameters
    ----------
    ladder : tuple of float
        Percent enrolled at each rung, rising, 0 < rung <= 100.
    learn_at : float
        Last rung before the ship rule is asked; a rung of the ladder.
    min_days : int
        Days of data before a verdict on the goal (ship or conclude flat).
    min_units : int
        Units per arm before any step up.
    max_hold_days : int
        Days at one rung after which a hold proposes one rung down.
    holdback : float
        Percent of units kept on control after shipping.
    harm_alpha : float
        Chance, over all looks together, that a harmless metric fires the harm rule.
    """

    aim: Aim = "superiority"
    ladder: tuple[float, ...] = (1, 5, 25, 50, 100)
    learn_at: float = 100
    min_days: int = 7
    min_units: int = 1000
    max_hold_days: int = 14
    holdback: float = 0
    ship: Ship = field(default_factory=Ship)
    conclude_flat: ConcludeFlat = field(default_factory=ConcludeFlat)
    harm_alpha: float = 0.01

    def __post_init__(self) -> None:
        check_choice("aim", self.aim, get_args(Aim))
        for rung in self.ladder:
            check_percent(rung)
        object.__setattr__(self, "ladder", tuple(float(rung) for rung in self.ladder))
        if not self.ladder or list(self.ladder) != sorted(set(self.ladder)) or self.ladder[0] <= 0:
            raise SpecError(
                f"ladder is {list(self.ladder)}; rungs rise from above 0 to 100. Write [1, 5, 25, 50, 100]."
            )
        if self.learn_at not in self.ladder:
            raise SpecError(
                f"learn_at is {self.learn_at:g}, which is no rung of the ladder {_rungs(self.ladder)}. Name one of them."
            )
        check_percent(self.holdback)
        check_probability("harm_alpha", self.harm_alpha)
        for name in ("min_days", "min_units", "max_hold_days"):
            if getattr(self, name) < 0:
                raise SpecError(f"{name} is {getattr(self, name)}; it cannot be negative. Write 0 to ask for none.")

    def next_rung(self, enrolled: float) -> float | None:
        """The lowest rung above `enrolled`, or None at the top."""
        return next((rung for rung in self.ladder if rung > enrolled), None)

    def previous_rung(self, enrolled: float) -> float:
        """The highest rung below `enrolled`, or 0 at the bottom."""
        return max((rung for rung in self.ladder if rung < enrolled), default=0.0)

    def check_rung(self, enrolled: float) -> None:
        """Raise `PercentError` unless `enrolled` is 0 or a rung of the ladder."""
        check_percent(enrolled)
        if enrolled and enrolled not in self.ladder:
            raise PercentError(
                enrolled,
                f"the ladder of this experiment has the rungs {_rungs(self.ladder)}. Choose one of them, or 0.",
            )

    def sentences(self) -> Iterator[str]:
        """The policy in words, one rule each."""
        yield f"The flag climbs {_rungs(self.ladder)} percent enrolled, one rung at a time, while every guardrail is met and each arm has {self.min_units:,} units."
        yield f"It closes at once when the goal or a guardrail is harmed beyond its margin (chance of a false alarm over all looks: {100 * self.harm_alpha:g} %)."
        if self.aim == "superiority":
            yield (
                f"From {self.learn_at:g} percent on, and after {self.min_days} days, the treatment ships when the improvement exceeds the rope with probability "
                f"{self.ship.p_above_rope:g} and shipping is expected to cost at most {100 * self.ship.expected_loss:g} %."
            )
        else:
            yield (
                f"From {self.learn_at:g} percent on, and after {self.min_days} days, the treatment ships when it is no worse than the margin with probability "
                f"{self.ship.p_above_margin:g}, without a prior."
            )
        yield f"It concludes that there is no difference that matters when the effect lies inside the rope with probability {self.conclude_flat.p_rope:g}."
        if self.holdback:
            yield f"After shipping {self.holdback:g} percent stay on control."


def check_probability(name: str, value: float) -> None:
    """Raise `SpecError` unless `value` lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise SpecError(f"{name} is {value}; a probability threshold lies between 0 and 1. Write 0.975 for 97.5 %.")


def _rungs(ladder: tuple[float, ...]) -> str:
    return ", ".join(f"{rung:g}" for rung in ladder)
