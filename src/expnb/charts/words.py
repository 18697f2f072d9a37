"""Numbers and names as people read them."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass

from expnb.posterior.effect import Effect, Scale
from expnb.spec.metric import SHARES, MetricKind

MINUS = "\u2212"
_BREAKS = re.compile(r"[\x00-\x1f\x7f\u2028\u2029]+")
_LONGEST_NAME = 60
# What stands for an arm is not a mean of its units.
NO_MEANS: frozenset[MetricKind] = frozenset({"ratio", "quantile"})


def name(text: str, most: int = _LONGEST_NAME) -> str:
    """A name from a file or a data set, on one line and of bearable length."""
    flat = _BREAKS.sub(" ", text).strip()
    return flat if len(flat) <= most else f"{flat[: most - 1]}…"


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
        """A signed effect; with as many decimals as are asked for, or three significant digits."""
        shown = self.factor * value
        number = f"{shown:+.3g}" if digits is None or self.factor == 1 else f"{shown:+.{digits}f}"
        return f"{number}{self.suffix}".replace("-", MINUS)

    def distance(self, value: float) -> str:
        """A rope or margin, without a sign."""
        return f"{self.factor * value:.3g}{self.suffix}"

    def digits(self, width: float) -> int:
        """Decimals at which the ends of an interval of that width can be told apart."""
        shown = abs(self.factor * width)
        return 1 if shown >= 1 else 2 if shown >= 0.1 else 3


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
    return f"{mean:.4g}{f' {name(effect.unit)}' if effect.unit else ''}{each}, {units:,} units".replace("-", MINUS)


def lines(text: str, width: int = 92) -> list[str]:
    """A text broken into lines of at most `width` characters, no number apart from its sign of percent."""
    return textwrap.wrap(text.replace(" %", "\u00a0%").replace(" pp", "\u00a0pp"), width)
