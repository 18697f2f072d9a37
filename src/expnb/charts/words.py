"""Numbers and names as people read them."""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Final, Literal

from expnb.posterior.effect import Effect, Scale
from expnb.spec.metric import SHARES, MetricKind

MINUS = "\u2212"
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_LONGEST_NAME = 60
_SMALLEST: Final = 1e-5  # below it a power of ten is easier to read than its zeros
# What stands for an arm is not a mean of its units.
NO_MEANS: frozenset[MetricKind] = frozenset({"ratio", "quantile"})


def name(text: str, most: int = _LONGEST_NAME) -> str:
    """A name from a file or a data set, on one line and of bearable length: cut in the middle, because names often differ at their end."""
    flat = _BREAKS.sub(" ", text).strip()
    if len(flat) <= most:
        return flat
    tail = (most - 1) // 2
    return f"{flat[: most - 1 - tail].rstrip()}…{flat[-tail:].lstrip()}"


def distinct(names: Sequence[str], most: int) -> list[str]:
    """Names of at most `most` characters; those that are alike when cut are numbered."""
    out: list[str] = []
    for text in names:
        numbered = (name(text, most - len(sign)) + sign for sign in (f" ({i})" if i > 1 else "" for i in count(1)))
        out.append(next(label for label in numbered if label not in out))
    return out


def number(value: float, digits: int, *, sign: Literal["", "+"] = "", trim: bool = False) -> str:
    """A number of so many significant digits, with its thousands apart.

    Parameters
    ----------
    trim : bool
        Whether zeros at the end of the decimals are left out, as of numbers that somebody chose.
    """
    if not value:
        return f"{sign}0"
    if not math.isfinite(value) or abs(value) < _SMALLEST:
        return f"{value:{sign}.{digits}g}"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded number
    decimals = digits - 1 - exponent
    text = f"{round(value, decimals):{sign},.{max(decimals, 0)}f}"
    return text.rstrip("0").rstrip(".") if trim and "." in text else text


def probability(value: float | None) -> str:
    """A probability in percent, never rounded up to certainty."""
    if value is None:
        return "unknown"
    if value > 0.9999:
        return "over 99.99 %"
    if value < 0.0001:
        return "under 0.01 %"
    percent = 100 * value
    return f"{percent:.2f} %" if percent < 0.1 or percent > 99.9 else f"{percent:.1f} %"


@dataclass(frozen=True, slots=True)
class Measure:
    """How effects of one metric are written: percent, percentage points, or in units of the metric.

    Parameters
    ----------
    factor : float
        From the effect to the number that is shown.
    suffix : str
        Behind the number, with its space.
    """

    factor: float
    suffix: str

    def change(self, value: float, digits: int | None = None) -> str:
        """A signed effect, 0 being positive; with as many decimals as are asked for, or three significant digits."""
        shown = self.factor * value
        if digits is None or self.factor == 1:
            text = number(shown, 3, sign="+", trim=digits is None)
        else:
            text = f"{shown:+z.{digits}f}"
        return f"{text.replace('-', MINUS)}{self.suffix}"

    def distance(self, value: float) -> str:
        """A rope or margin, without a sign."""
        return f"{number(self.factor * value, 3, trim=True)}{self.suffix}"

    def digits(self, width: float) -> int:
        """Decimals at which the ends of an interval of that width can be told apart."""
        shown = abs(self.factor * width)
        return 1 if shown >= 1 else 2 if shown >= 0.1 else 3

    @property
    def ticks(self) -> str:
        """The labels of an axis, as an expression of Vega; no text from a file stands in it, for the unit of a metric is in the title only."""
        suffix = self.suffix if self.factor != 1 else ""
        return f"datum.value == 0 ? '0' : format({self.factor:g} * datum.value, '+,.4~r') + '{suffix}'"

    def axis_title(self, scale: Scale, *, better_right: bool) -> str:
        """Such as ``"← worse · absolute effect (EUR) · better →"``."""
        worse, better = ("← worse", "better →") if better_right else ("← better", "worse →")
        unit = f" ({self.suffix.strip()})" if scale == "absolute" and self.suffix else ""
        return f"{worse} · {scale} effect{unit} · {better}"


def measure(effect: Effect, scale: Scale) -> Measure:
    """How the effects of a metric are written on a scale."""
    if scale == "relative":
        return Measure(100, " %")
    if effect.kind in SHARES:
        return Measure(100, " pp")
    return Measure(1, f" {name(effect.unit)}" if effect.unit else "")


def arm(effect: Effect, mean: float | None, units: int) -> str:
    """What was measured in one arm, such as ``18.20 % of 45,489 units``."""
    if mean is None:
        return "too few units to be shown"
    if not units:
        return "no units"
    if effect.kind in SHARES:
        return f"{100 * mean:.2f} % of {units:,} units"
    each = "" if effect.kind in NO_MEANS else " per unit"
    shown = number(mean, 4).replace("-", MINUS)
    return f"{shown}{f' {name(effect.unit)}' if effect.unit else ''}{each}, {units:,} units"


def lines(text: str, width: int = 92) -> list[str]:
    """A text broken into lines of at most `width` characters, no number apart from its sign of percent."""
    return textwrap.wrap(text.replace(" %", "\u00a0%").replace(" pp", "\u00a0pp"), width)
