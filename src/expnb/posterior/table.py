"""Many comparisons as columns: which of them have a posterior, on which scale, and from which likelihood."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from expnb.posterior.comparison import Comparison
from expnb.posterior.exact.arms import (
    WEAKEST_DENOMINATOR,
    Arm,
    Binomial,
    BoolArray,
    FloatArray,
    IntArray,
    NormalMean,
    Poisson,
    RatioMean,
    StudentMean,
    workable,
)
from expnb.stats.moments import Moments

Family = Literal["binomial", "poisson", "normal", "student", "ratio"]
FAMILIES: tuple[Family, ...] = ("binomial", "poisson", "normal", "student", "ratio")  # later ones are more careful
BINOMIAL, POISSON, NORMAL, STUDENT, RATIO = range(5)

# Below this ratio of mean to standard error a relative effect may have the wrong sign.
CLEARLY_POSITIVE = 5.0
HARM = 3  # its place among `Table.cuts`
FEW_UNITS = 200  # below, the standard error is itself too uncertain for a Normal
LEAST_UNITS = 4  # of a mean: with fewer Student's t has no variance
STRONG_DENOMINATOR = 30.0  # mean / standard error, from which on the delta method holds
OVERDISPERSED = 1.1  # variance / mean of counts, above which they are no Poisson ones
DISPERSION_Z = 2.5758293035489004  # two-sided 1 %
ROUNDING = 1e-6  # a variance that differs from that of independent units by less is theirs
NO_SPREAD = "all values are equal, so nothing is known about their spread"
NO_ERROR = "a quantile of few distinct values has no usable error; ask for the mean, or for the share of units above a value (a conversion)"


@dataclass(frozen=True, slots=True)
class Samples:
    """Moments of one arm in many comparisons, each of shape (row,)."""

    n: FloatArray
    mean: FloatArray
    m2: FloatArray

    @classmethod
    def of(cls, moments: Sequence[Moments]) -> Samples:
        """Columns of some moments."""
        table = np.array([(one.n, one.mean, one.m2) for one in moments], dtype=np.float64).reshape(-1, 3)
        return cls(table[:, 0], table[:, 1], table[:, 2])

    def take(self, rows: IntArray) -> Samples:
        """Some of the rows."""
        return Samples(self.n[rows], self.mean[rows], self.m2[rows])

    @property
    def variance(self) -> FloatArray:
        """Unbiased variance; 0 with fewer than two units."""
        return np.where(self.n > 1, self.m2 / np.maximum(self.n - 1, 1), 0.0)

    @property
    def se(self) -> FloatArray:
        """Standard error of the mean."""
        return np.sqrt(self.variance / np.maximum(self.n, 1))


class Table:
    """Comparisons as columns, one entry per row.

    Parameters
    ----------
    pairs : sequence of Comparison
        All treatments of one segment share their control, and are judged by one likelihood: the most careful one that any of them needs.
    """

    def __init__(self, pairs: Sequence[Comparison]) -> None:
        self.pairs = pairs
        self.control = Samples.of([pair.control for pair in pairs])
        self.treatment = Samples.of([pair.treatment for pair in pairs])
        self.sign = np.array([pair.sign for pair in pairs], dtype=np.float64)
        self.is_share = np.array([pair.metric.is_share for pair in pairs], dtype=np.bool_)
        self.min_cell = np.array([pair.min_cell for pair in pairs], dtype=np.float64)
        places: dict[tuple[str, str, str], int] = {}
        keys = [(pair.metric.name, pair.estimate, pair.segment) for pair in pairs]
        self.group = np.array([places.setdefault(key, len(places)) for key in keys], dtype=np.intp)

    def __len__(self) -> int:
        return len(self.group)

    # --- spread ------------------------------------------------------------------------------

    @cached_property
    def ses(self) -> tuple[FloatArray, FloatArray]:
        """Standard errors of both means; an arm whose values are all equal borrows the spread of the other."""
        deviations = [np.sqrt(arm.variance) for arm in (self.control, self.treatment)]
        most = np.maximum(*deviations)
        own_c, own_t = (np.where(own > 0, own, most) for own in deviations)
        return own_c / np.sqrt(np.maximum(self.control.n, 1)), own_t / np.sqrt(np.maximum(self.treatment.n, 1))

    @cached_property
    def dfs(self) -> tuple[FloatArray, FloatArray]:
        """Degrees of freedom of both standard errors: units less one, of the arm whose spread it is."""
        n_c, n_t = self.control.n, self.treatment.n
        own_c = np.where(self.control.m2 > 0, n_c, n_t)
        own_t = np.where(self.treatment.m2 > 0, n_t, n_c)
        return np.maximum(own_c - 1, 1), np.maximum(own_t - 1, 1)

    @cached_property
    def design_effects(self) -> tuple[FloatArray, FloatArray]:
        """Variance of both shares over that of as many independent units; exactly 1 where units are independent.

        Units in clusters, or in strata, spread more or less than independent ones, and so do shares that a covariate adjusted. A share of `n` units is then as precise as one of ``n / effect`` independent units, which is
        ``n**2 * mean * (1 - mean) / m2``. An arm in which nobody or everybody converted shows no spread; it borrows the effect of the other.

        References
        ----------
        .. [1] Kish (1965), Survey Sampling, 8.2.
        """
        own = []
        for arm in (self.control, self.treatment):
            independent = arm.n * arm.mean * (1 - arm.mean)
            known = (arm.m2 > 0) & (independent > 0)
            effect = np.where(known, arm.m2 / np.where(known, independent, 1.0), np.nan)
            own.append(np.where(np.abs(effect - 1) <= ROUNDING, 1.0, effect))
        borrowed = np.fmax(np.fmax(*own), np.where(np.isnan(own[0]) & np.isnan(own[1]), 1.0, -np.inf))
        effect_c, effect_t = (np.where(np.isnan(effect), borrowed, effect) for effect in own)
        return effect_c, effect_t

    @cached_property
    def independent(self) -> BoolArray:
        """Shares of units that do not know of each other."""
        effects = self.design_effects
        return np.asarray(self.is_share & (effects[0] == 1) & (effects[1] == 1) & ~self._is_ratio)

    @cached_property
    def _is_ratio(self) -> BoolArray:
        return np.array([pair.joint is not None for pair in self.pairs], dtype=np.bool_)

    @cached_property
    def _events(self) -> BoolArray:
        return np.array([pair.events for pair in self.pairs], dtype=np.bool_)

    @cached_property
    def planned(self) -> FloatArray:
        """Units in both arms at which the confidence sequence is narrowest."""
        return np.array([pair.planned for pair in self.pairs], dtype=np.float64)

    @cached_property
    def strength(self) -> FloatArray:
        """Mean over standard error of the denominator, in the arm where it is weaker; infinite without one."""
        out = np.full(len(self), np.inf)
        for row in np.flatnonzero(self._is_ratio).tolist():
            out[row] = min(
                joint.mean_x / math.sqrt(max(joint.xx, 1e-300) / max(joint.n - 1, 1) / max(joint.n, 1))
                for joint in self.pairs[row].joint or ()
            )
        return out

    @cached_property
    def beyond(self) -> list[str]:
        """Why means of this size, or with errors like these, cannot be worked with; empty where they can."""
        out = [""] * len(self)
        means, ses = (self.control.mean, self.treatment.mean), self.ses
        kept = workable(means[0], ses[0]) & workable(means[1], ses[1])
        for row in np.flatnonzero((self.family >= NORMAL) & ~kept & ~self._still).tolist():
            side = int(workable(means[0][row], ses[0][row]))
            out[row] = (
                f"a mean of {means[side][row]:.3g} with a standard error of {ses[side][row]:.3g} is beyond what can be worked out; state the metric in another unit, and if it hardly varies, check its column"
            )
        return out

    @cached_property
    def _still(self) -> BoolArray:
        """Means of values that are all equal, in both arms."""
        return np.asarray((self.family >= NORMAL) & (self.control.m2 == 0) & (self.treatment.m2 == 0))

    # --- likelihood --------------------------------------------------------------------------

    @cached_property
    def family(self) -> IntArray:
        """Which likelihood each row has, as a place in `FAMILIES`.

        * A share is Binomial. Shares of clusters, and adjusted ones, are Binomial with as many units as their variance says; with fewer than 200 clusters in an arm they are means of clusters.
        * A count is Poisson where both arms look like one (`_looks_poisson`).
        * A ratio whose denominator is between 10 and 30 standard errors above 0 is bivariate; above, the delta method holds.
        * Everything else is a mean: Student's t below 200 units in an arm, Normal from there on.
        """
        fewest = np.minimum(self.control.n, self.treatment.n)
        out = np.where(fewest < FEW_UNITS, STUDENT, NORMAL)
        inside = (
            (np.minimum(self.control.mean, self.treatment.mean) >= 0)
            & (np.maximum(self.control.mean, self.treatment.mean) <= 1)
            & ~(self._is_ratio & (fewest < FEW_UNITS))
        )
        out = np.where(self.is_share & inside, BINOMIAL, out)
        out = np.where(self._events & _looks_poisson(self.control) & _looks_poisson(self.treatment), POISSON, out)
        out = np.where(self.strength < STRONG_DENOMINATOR, RATIO, out)
        most = np.zeros(self.group.max(initial=-1) + 1, dtype=np.intp)
        np.maximum.at(most, self.group, out)
        return most[self.group]

    def arms(self, rows: IntArray, family: int) -> tuple[Arm, Arm]:
        """Likelihoods of both arms in some rows."""
        if family == RATIO:
            return self._ratios(rows)
        control, treatment = (self._arm(side, rows, family) for side in (0, 1))
        return control, treatment

    def _arm(self, side: int, rows: IntArray, family: int) -> Arm:
        arm = (self.control, self.treatment)[side].take(rows)
        if family == BINOMIAL:
            effect = self.design_effects[side][rows]
            units = np.maximum(1.0, arm.n / effect)
            return Binomial(np.where(effect == 1, np.round(arm.mean * arm.n), arm.mean * units), units)
        if family == POISSON:
            return Poisson(np.round(arm.mean * arm.n), arm.n)
        if family == STUDENT:
            return StudentMean(arm.mean, self.ses[side][rows], self.dfs[side][rows])
        return NormalMean(arm.mean, self.ses[side][rows])

    def _ratios(self, rows: IntArray) -> tuple[Arm, Arm]:
        arms = []
        for side in (0, 1):
            parts = [
                (one.mean_y, one.mean_x, *(part / (one.n - 1) / one.n for part in (one.yy, one.xx, one.xy)))
                for one in ((self.pairs[row].joint or ())[side] for row in rows)
            ]
            arms.append(RatioMean(*np.array(parts, dtype=np.float64).reshape(-1, 5).T))
        return arms[0], arms[1]

    # --- what exists -------------------------------------------------------------------------

    @cached_property
    def hidden(self) -> BoolArray:
        """Whether an arm has so few units that no figure of it may be shown."""
        return np.asarray(np.minimum(self.control.n, self.treatment.n) < self.min_cell)

    @cached_property
    def missing(self) -> list[str]:
        """Why no posterior can be stated; empty where one can."""
        fewest = np.minimum(self.control.n, self.treatment.n)
        mean = self.family >= NORMAL
        still, beyond = self._still, np.array([bool(reason) for reason in self.beyond], dtype=np.bool_)
        least = np.where(mean, LEAST_UNITS, 2)
        weak = self.strength < WEAKEST_DENOMINATOR
        out = [pair.trouble for pair in self.pairs]
        for row in np.flatnonzero(self.hidden | (fewest < least) | still | beyond | weak).tolist():
            if self.hidden[row]:
                out[row] = f"fewer than {self.pairs[row].min_cell} units in an arm, which are not shown"
            elif out[row]:
                continue
            elif fewest[row] < least[row]:
                out[row] = too_few(int(least[row]))
            elif still[row]:
                out[row] = NO_ERROR if self.pairs[row].metric.kind == "quantile" else NO_SPREAD
            elif beyond[row]:
                out[row] = self.beyond[row]
            else:
                out[row] = (
                    f"the denominator is {self.strength[row]:.1f} standard errors above 0, and a ratio needs {WEAKEST_DENOMINATOR:g}; wait for more units, or measure the numerator per unit"
                )
        return out

    @cached_property
    def known(self) -> BoolArray:
        """Whether a posterior can be stated."""
        return np.array([not reason for reason in self.missing], dtype=np.bool_)

    @cached_property
    def positive_control(self) -> BoolArray:
        """Whether the control mean is clearly positive, so that a share of it means something."""
        counted = self.family < NORMAL
        least = np.full(len(self), CLEARLY_POSITIVE)
        for family in (STUDENT, RATIO):
            rows = np.flatnonzero((self.family == family) & self.known)
            if len(rows):
                control = self.arms(rows, family)[0]
                assert isinstance(control, StudentMean | RatioMean)  # noqa: S101 - these two families
                least[rows] = control.certainty
        return np.where(counted, self.control.mean > 0, self.control.mean >= least * self.ses[0])

    @cached_property
    def relative(self) -> BoolArray:
        """Whether a relative effect exists."""
        return np.asarray(self.positive_control & ((self.family < NORMAL) | (self.treatment.mean > 0)))

    @cached_property
    def not_relative(self) -> list[str]:
        """Why no relative effect exists; empty where one does."""
        out = [""] * len(self)
        for row in np.flatnonzero(~self.relative).tolist():
            if self.positive_control[row]:
                why = "the treatment mean is not positive; rope and margin are shares of the control mean"
            elif self.family[row] == BINOMIAL:
                why = "nothing converted in control"
            elif self.family[row] == POISSON:
                why = "nothing was counted in control"
            else:
                why = "the control mean is not clearly positive"
            out[row] = f"no relative effect: {why}"
        return out

    # --- scale, rope, margin -----------------------------------------------------------------

    @cached_property
    def _distances(self) -> FloatArray:
        """Rope and margin, relative and absolute, shape (row, 4); NaN where not given."""
        given = [
            (pair.metric.rope, pair.metric.margin, pair.metric.rope_abs, pair.metric.margin_abs) for pair in self.pairs
        ]
        return np.array(given, dtype=np.float64).reshape(-1, 4)

    @cached_property
    def on_relative_scale(self) -> BoolArray:
        """Whether rope and margin are applied to the relative effect."""
        nothing = np.isnan(self._distances)
        only_absolute = nothing[:, :2].all(axis=1) & ~nothing[:, 2:].all(axis=1)
        return np.asarray(self.relative & ~only_absolute)

    @cached_property
    def rope(self) -> FloatArray:
        """Smallest difference that matters, on the scale that holds; NaN without one."""
        return self._on_scale(0)

    @cached_property
    def margin(self) -> FloatArray:
        """Tolerated harm, on the scale that holds; NaN without one."""
        return self._on_scale(1)

    def _on_scale(self, column: int) -> FloatArray:
        relative, absolute = self._distances[:, column], self._distances[:, column + 2]
        # A treatment that lost everything has no log ratio, but it has lost more than any share of the control mean.
        stand_in = np.where(self.positive_control, relative * self.control.mean, np.nan)
        return np.where(self.on_relative_scale, relative, np.where(np.isnan(absolute), stand_in, absolute))

    @cached_property
    def cuts(self) -> FloatArray:
        """Effects at which probabilities are wanted, shape (row, 4): none, +rope, -rope, and harm beyond the margin."""
        rope, margin = np.nan_to_num(self.rope), np.nan_to_num(self.margin)
        return np.stack([np.zeros_like(rope), rope, -rope, -self.sign * margin], axis=1)


def too_few(least: int) -> str:
    """Why an arm of fewer than `least` units has no posterior."""
    return f"fewer than {({2: 'two', LEAST_UNITS: 'four'})[least]} units in an arm"


def _looks_poisson(arm: Samples) -> BoolArray:
    """Whether counts vary as Poisson ones do.

    Both have to hold: variance / mean is at most 1.1, and the index of dispersion ``m2 / mean`` lies within 2.58 standard deviations of its mean (two-sided 1 %). Given the sum T of n Poisson counts it has mean ``n - 1``
    and variance ``2 (n - 1) (1 - 1 / T)`` [1]_, also where counts are rare. The first keeps small samples honest, in which the test has no power; the second large ones, in which a factor of 1.05 in the variance is plain to see.

    References
    ----------
    .. [1] Hoel (1943), On indices of dispersion; Fisher (1950), The significance of deviations from expectation in a Poisson series.
    """
    total, freedom = arm.mean * arm.n, np.maximum(arm.n - 1, 1)
    some = total > 0
    index = np.where(some, arm.m2 / np.where(some, arm.mean, 1.0), freedom)
    spread = np.sqrt(2 * freedom * np.maximum(1 - 1 / np.maximum(total, 1), 0.0))
    fits = np.abs(index - freedom) <= DISPERSION_Z * spread + ROUNDING * freedom
    return np.asarray((arm.mean >= 0) & fits & (index <= OVERDISPERSED * freedom))
