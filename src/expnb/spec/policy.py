"""The rule that moves the flag, as values that can be read before launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from expnb.errors import PercentError, SpecError, check_choice
from expnb.spec.flag import check_percent

Aim = Literal["superiority", "non_inferiority"]
GoalRule = Literal["all", "any"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One step of a ladder; what is left out is that of the policy.

    Parameters
    ----------
    enrolled : float
        Percent of eligible units inside the gate, above 0 to 100.
    days : float, optional
        Least time at this rung before the next one, in days.
    units : int, optional
        Least number of units per arm that came in at this rung before the next one, or a verdict.
    max_hold_days : float, optional
        Days at this rung after which a hold proposes one rung down; 0 for no limit.
    """

    enrolled: float
    days: float | None = None
    units: int | None = None
    max_hold_days: float | None = None

    def __post_init__(self) -> None:
        check_percent(self.enrolled)
        object.__setattr__(self, "enrolled", float(self.enrolled))
        for name in ("days", "units", "max_hold_days"):
            _check_not_negative(f"{name} of the rung at {self.enrolled:g} %", getattr(self, name) or 0)


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

    p_above_rope: float = 0.98
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
    aim : {"superiority", "non_inferiority"}
        Whether the treatment has to be better than the rope, or no worse than the margin.
    goal_rule : {"all", "any"}, optional
        With several goals: whether each of them must meet the ship rules, or one is enough, at thresholds that make up for the choice (`sure_enough`).
    ladder : tuple of Rung
        Rising; a bare number is a rung with the waiting times below.
    learn_at : float
        Percent enrolled from which on the goal is judged and guardrails have to be shown, not only not doubted; a rung of the ladder.
    rung_days : float
        Least time at a rung before the next one, in days.
    min_units : int
        Least number of units per arm that came in at a rung before the next one, or a verdict on the goal.
    min_days : int
        Days of data before a verdict on the goal (ship or conclude flat).
    verdict_days : int
        The goal is judged each time that so many more days of data are complete, and the verdict holds until then: weeks have every weekday equally often, and fewer verdicts leave fewer chances of a false one.
    max_hold_days : float
        Days at one rung after which a hold proposes one rung down; 0 for no limit.
    max_age_days : float
        Days from the last day of data, or the end of the experiment, after which the data are too old to raise exposure; 0 for no limit.
    holdback : float
        Percent of units kept on control after shipping.
    control_share : float, optional
        Share of enrolled units that the weights of the experiment must give to control, 0 to 1; any when left out.
    harm_alpha : float
        About the share of harmless ramps that the harm rule closes in four weeks of daily looks; see `harm_threshold`.
    """

    aim: Aim = "superiority"
    goal_rule: GoalRule | None = None
    ladder: tuple[Rung | float, ...] = (1, 5, 25, 50, 100)
    learn_at: float = 100
    rung_days: float = 1
    min_units: int = 100
    min_days: int = 7
    verdict_days: int = 7
    max_hold_days: float = 14
    max_age_days: float = 3
    holdback: float = 0
    control_share: float | None = None
    ship: Ship = field(default_factory=Ship)
    conclude_flat: ConcludeFlat = field(default_factory=ConcludeFlat)
    harm_alpha: float = 0.01

    def __post_init__(self) -> None:
        check_choice("aim", self.aim, get_args(Aim))
        if self.goal_rule is not None:
            check_choice("goal_rule", self.goal_rule, get_args(GoalRule))
        object.__setattr__(
            self, "ladder", tuple(rung if isinstance(rung, Rung) else Rung(enrolled=rung) for rung in self.ladder)
        )
        if not self.percents or list(self.percents) != sorted(set(self.percents)) or self.percents[0] <= 0:
            raise SpecError(
                f"ladder is {list(self.percents)}; rungs rise from above 0 to 100. Write [1, 5, 25, 50, 100]."
            )
        if self.learn_at not in self.percents:
            raise SpecError(
                f"learn_at is {self.learn_at:g}, which is no rung of the ladder {self.rungs_in_words}. Name one of them."
            )
        check_percent(self.holdback)
        check_probability("harm_alpha", self.harm_alpha)
        if self.control_share is not None:
            check_probability("control_share", self.control_share)
        for name in ("rung_days", "min_units", "min_days", "max_hold_days", "max_age_days"):
            _check_not_negative(name, getattr(self, name))
        if self.verdict_days < 1:
            raise SpecError(
                f"verdict_days is {self.verdict_days}; the goal is judged every day at most. Write 7 for every week."
            )
        _check_together(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> Policy:  # noqa: ANN401 - the fields of a policy
        """A policy for a usual purpose; the same as ``preset = "canary"`` under ``[policy]`` in a file.

        Parameters
        ----------
        name : {"superiority", "non_inferiority", "canary", "linear", "blue_green"}
            ``"canary"`` is a release that should change nothing, with hours at each rung; ``"linear"`` climbs by tens; ``"blue_green"`` gives the new version 95 % at once, keeps 5 % to compare with, and everything to the new version after a day.
        **changes
            Fields that differ from the preset.

        Raises
        ------
        SpecError
            If no preset has that name, or the fields contradict each other.
        """
        return cls(**{**preset(name), **changes})

    @property
    def percents(self) -> tuple[float, ...]:
        """Percent enrolled at each rung."""
        return tuple(rung.enrolled if isinstance(rung, Rung) else float(rung) for rung in self.ladder)

    @property
    def rungs_in_words(self) -> str:
        """Percent enrolled at each rung, with commas."""
        return ", ".join(f"{rung:g}" for rung in self.percents)

    def rung(self, enrolled: float) -> Rung:
        """The rung at a percent enrolled with its waiting times; between rungs, or at 0, one with those of the policy."""
        own = next((rung for rung in self.ladder if isinstance(rung, Rung) and rung.enrolled == enrolled), None)
        given = own or Rung(enrolled=enrolled)
        return Rung(
            enrolled=given.enrolled,
            days=self.rung_days if given.days is None else given.days,
            units=self.min_units if given.units is None else given.units,
            max_hold_days=self.max_hold_days if given.max_hold_days is None else given.max_hold_days,
        )

    def next_rung(self, enrolled: float) -> float | None:
        """The lowest rung above `enrolled`, or None at the top."""
        return next((rung for rung in self.percents if rung > enrolled), None)

    def previous_rung(self, enrolled: float) -> float:
        """The highest rung below `enrolled`, or 0 at the bottom."""
        return max((rung for rung in self.percents if rung < enrolled), default=0.0)

    def check_rung(self, enrolled: float) -> None:
        """Raise `PercentError` unless `enrolled` is 0 or a rung of the ladder."""
        check_percent(enrolled)
        if enrolled and enrolled not in self.percents:
            raise PercentError(
                enrolled,
                f"the ladder of this experiment has the rungs {self.rungs_in_words}. Choose one of them, or 0.",
            )

    def harm_threshold(self, effects: int) -> float:
        """Probability of harm under `HARM_PRIOR` at which the gate closes, where so many effects are judged.

        ``1 - harm_alpha / max(3, effects)``: each effect has its share of the false alarms, and three of them, a goal and two guardrails, are what the share was measured with
        (docs/operating_characteristics.md). It does not depend on the number of looks: a posterior under a prior that expects large effects moves by fewer and fewer false alarms from look to look.
        """
        return 1 - self.harm_alpha / max(3, effects)

    def sure_enough(self, probability: float, goals: int) -> float:
        """What a threshold of `ship` asks of each of so many goals.

        Under ``goal_rule = "any"`` each goal is a chance of its own to ship by mistake, so each has its share of what is left to 1 (Bonferroni); under ``"all"`` it is the threshold itself.
        """
        return 1 - (1 - probability) / goals if self.goal_rule == "any" else probability

    def sentences(self) -> Iterator[str]:
        """The policy in words, one rule each."""
        yield f"The flag climbs {self.rungs_in_words} percent enrolled, one rung at a time, while no guardrail is doubted."
        alike: dict[tuple[float, int, float], list[str]] = {}
        for rung in map(self.rung, self.percents[:-1]):
            times = (rung.days or 0, rung.units or 0, rung.max_hold_days or 0)
            alike.setdefault(times, []).append(f"{rung.enrolled:g}")
        for (days, units, most), rungs in alike.items():
            yield f"At {', '.join(rungs)} percent it stays for {_time(days)} at least{f', until {units:,} units per arm came in there' if units else ''}{f'; after {_time(most)} without a way up, one rung down is proposed' if most else ''}."
        yield f"It closes at once when the goal or a guardrail is harmed beyond its margin; about {100 * self.harm_alpha:g} of 100 harmless ramps are closed by mistake."
        start = f"From {self.learn_at:g} percent on, with {self.min_days} days of data and then every {_time(self.verdict_days)}"
        if self.aim == "superiority":
            yield (
                f"{start}, the treatment ships when the improvement exceeds the rope with probability "
                f"{self.ship.p_above_rope:g} and shipping is expected to cost at most {100 * self.ship.expected_loss:g} %."
            )
        else:
            yield (
                f"{start}, the treatment ships when it is no worse than the margin with probability "
                f"{self.ship.p_above_margin:g}, without a prior."
            )
        if self.goal_rule == "all":
            yield "Each of the goals has to show this; one that is shown not to matter is enough to stop."
        if self.goal_rule == "any":
            yield "One of the goals is enough, with what is left to certainty divided by their number."
        yield "From there on every guardrail has to be shown to be within its margin."
        yield f"It concludes that there is no difference that matters when the effect lies inside the rope with probability {self.conclude_flat.p_rope:g}."
        if self.holdback:
            yield f"After shipping {self.holdback:g} percent stay on control."


def preset(name: str) -> Mapping[str, object]:
    """The fields of `Policy` that a preset sets.

    Raises
    ------
    SpecError
        If no preset has that name.
    """
    check_choice("preset", name, tuple(_PRESETS))
    return _PRESETS[name]


_PRESETS: Mapping[str, Mapping[str, object]] = {
    "superiority": {},
    "non_inferiority": {"aim": "non_inferiority"},
    # A release that should change nothing: hours at each rung, judged by guardrails while it is small.
    "canary": {
        "aim": "non_inferiority",
        "ladder": (1, 5, 10, 25, 50, 100),
        "rung_days": 0.25,
        "min_days": 1,
        "verdict_days": 1,
        "max_hold_days": 3,
    },
    "linear": {"ladder": tuple(range(10, 101, 10))},
    # The new version takes 95 % at once and the rest after the bake; the old one keeps a slice to be compared with.
    "blue_green": {
        "aim": "non_inferiority",
        "ladder": (100,),
        "control_share": 0.05,
        "min_days": 1,
        "verdict_days": 1,
    },
}


def check_probability(name: str, value: float) -> None:
    """Raise `SpecError` unless `value` lies strictly between 0 and 1."""
    if not 0 < value < 1:
        raise SpecError(f"{name} is {value}; a probability threshold lies between 0 and 1. Write 0.975 for 97.5 %.")


def _check_not_negative(name: str, value: float) -> None:
    if value < 0:
        raise SpecError(f"{name} is {value}; it cannot be negative. Write 0 to ask for none.")


def _check_together(policy: Policy) -> None:
    """Thresholds of which one takes back what the other says."""
    sure = {
        "ship.p_above_rope": policy.ship.p_above_rope,
        "ship.p_above_margin": policy.ship.p_above_margin,
        "conclude_flat.p_rope": policy.conclude_flat.p_rope,
    }
    for name, value in sure.items():
        if value < 0.5:
            raise SpecError(
                f"{name} is {value:g}; below 0.5 the opposite is likelier. Write a probability from 0.5 on, such as 0.95."
            )
    if policy.harm_alpha > 0.5:
        raise SpecError(
            f"harm_alpha is {policy.harm_alpha:g}; it is the share of harmless ramps that may be closed by mistake, not the probability that is needed. Write 0.01 for 1 of 100."
        )


def _time(days: float) -> str:
    if days < 1:
        hours = 24 * days
        return f"{hours:g} hour{'' if hours == 1 else 's'}"
    return f"{days:g} day{'' if days == 1 else 's'}"
