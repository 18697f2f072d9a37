"""Cells: additive statistics per variant x segment x day, the only form in which data leaves its source."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from hashlib import sha256

import numpy as np

from expnb.errors import NameNotFoundError
from expnb.spec.experiment import TRIGGER_KEY
from expnb.stats.arrays import BoolArray, DayArray, FloatArray, IntArray, TextArray
from expnb.stats.bins import Bins, edge_above
from expnb.stats.checks import Check, hidden
from expnb.stats.joint import Joint, JointMoments, adjusted, common_shift, merged_shift, per_cell, ratio_moments
from expnb.stats.moments import EMPTY, Moments

ALL = "all"  # the segment that holds every unit
# Digits of a sum that do not depend on the order in which an engine's threads added it up.
STABLE_DIGITS = 9
# Squared deviations below this share of a sum of squares are its rounding.
NOISE = 1e-12


@dataclass(frozen=True, slots=True)
class Logs:
    """Sums of logarithms of the positive values, per cell: how many, and how much when any."""

    n: IntArray
    s1: FloatArray
    s2: FloatArray


@dataclass(frozen=True, slots=True)
class MetricCells:
    """Power sums of one metric, one entry per cell.

    Parameters
    ----------
    shift : ndarray of float, shape (cell,)
        Pinned constant near the mean of each cell, metric unit; sums are of ``value - shift``, which keeps their digits. One number stands for all cells.
    n_ok, n_null, n_nan, n_infinite : ndarray of int, shape (cell,)
        Units with a usable value, and without one by cause.
    n_immature : ndarray of int, shape (cell,)
        Units whose window is not over, or has no known start; left out, whatever their value is so far, and counted here alone.
    s1, s2 : ndarray of float, shape (cell,)
        Sum and sum of squares of ``value - shift``.
    low, high : ndarray of float, shape (cell,)
        Smallest and largest value; NaN where there is none.
    logs : Logs, optional
        Of the positive part, for revenue and duration.
    denominator : Joint, optional
        Of a ratio; the value itself is then the numerator.
    covariate : Joint, optional
        From before the exposure.
    bins : Bins, optional
        For caps and quantiles.
    cap : float, optional
        Values above count as this one.
    q : float, optional
        The metric is this quantile of its values.
    """

    shift: FloatArray | float
    n_ok: IntArray
    n_null: IntArray
    n_nan: IntArray
    n_infinite: IntArray
    n_immature: IntArray
    s1: FloatArray
    s2: FloatArray
    low: FloatArray
    high: FloatArray
    logs: Logs | None = None
    denominator: Joint | None = None
    covariate: Joint | None = None
    bins: Bins | None = None
    cap: float | None = None
    q: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", per_cell(self.shift, self.n_ok.size))

    @property
    def shifts(self) -> FloatArray:
        """`shift`, one per cell."""
        return per_cell(self.shift, self.n_ok.size)

    def moments(self, chosen: BoolArray | slice = slice(None)) -> Moments:
        """Moments of the metric over the cells selected by `chosen`: of the values, of the linearised ratio, or of the quantile."""
        n = int(self.n_ok[chosen].sum())
        if n == 0:
            return EMPTY
        if self.q is not None and self.bins is not None:
            return self._quantile(chosen, self.q, self.bins)
        if self.denominator is not None:
            joint = self.joint_moments(self.denominator, chosen)
            return ratio_moments(joint) if joint.mean_x != 0 else EMPTY
        return self._plain(chosen, n)

    def _plain(self, chosen: BoolArray | slice, n: int) -> Moments:
        low, high = float(np.nanmin(self.low[chosen])), float(np.nanmax(self.high[chosen]))
        s1, s2 = self.s1, self.s2
        if self.cap is not None and self.bins is not None and high > self.cap:
            s1, s2 = self.bins.capped(self.cap, self.shifts, self.n_ok.size)
            low, high = min(low, self.cap), self.cap
        if low == high:  # exact, where sums would leave rounding noise for a spread
            return Moments(n, low, 0.0, low, high)
        shift, s1, s2 = _around_one(self.shifts[chosen], self.n_ok[chosen], s1[chosen], s2[chosen])
        gap = math.fsum(s1) / n
        return Moments(n, shift + gap, max(0.0, math.fsum(s2) - n * gap * gap), low, high)

    def _quantile(self, chosen: BoolArray | slice, q: float, bins: Bins) -> Moments:
        mask = np.zeros(self.n_ok.size, dtype=np.bool_)
        mask[chosen] = True
        own = bins.at(mask[bins.cell])
        n = int(own.n.sum())
        if n == 0:
            return EMPTY
        value, se = own.quantile(q, self.shifts)
        return Moments(n, value, se * se * n * (n - 1), -math.inf, math.inf)

    def joint_moments(self, second: Joint, chosen: BoolArray | slice = slice(None)) -> JointMoments:
        """Moments of a second measure and of the values, over the cells selected by `chosen`."""
        n = int(self.n_ok[chosen].sum())
        if n == 0:
            return JointMoments(0, 0.0, 0.0, 0.0, 0.0, 0.0)
        units, there = self.n_ok[chosen], (self.n_ok - second.n_missing)[chosen]
        y_shift, own1, own2 = _around_one(self.shifts[chosen], units, self.s1[chosen], self.s2[chosen])
        x_shift, other1, other2 = _around_one(second.shifts[chosen], there, second.s1[chosen], second.s2[chosen])
        y_by, x_by = self.shifts[chosen] - y_shift, second.shifts[chosen] - x_shift
        both = second.own[chosen] + there * y_by  # products first move with the values, then with the second measure
        cross = second.cross[chosen] + y_by * second.s1[chosen] + x_by * both
        y1, y2, x1, x2, xy = (math.fsum(part) for part in (own1, own2, other1, other2, cross))
        return JointMoments(
            n,
            y_shift + y1 / n,
            x_shift + x1 / n,
            max(0.0, y2 - y1 * y1 / n),
            max(0.0, x2 - x1 * x1 / n),
            xy - x1 * y1 / n,
        )

    def shapes(self) -> list[FloatArray]:
        """Statistics that do not depend on the shifts, each of shape (cell,)."""
        n = np.maximum(self.n_ok, 1)
        spread = np.where(self.low == self.high, 0.0, np.maximum(self.s2 - self.s1**2 / n, 0.0))
        mean = np.where(self.n_ok > 0, self.shifts + self.s1 / n, 0.0)
        parts = [self.n_ok.astype(np.float64), mean, spread, self.low, self.high]
        for second in (self.denominator, self.covariate):
            if second is not None:
                parts += _own_shapes(second, self.n_ok - second.n_missing, spread)
        return parts

    def reshift(self, shift: FloatArray | float) -> MetricCells:
        """The same statistics around another constant, one for all or one per cell; exact algebra."""
        by = self.shifts - shift
        if not by.any():
            return self
        denominator, covariate = (
            None
            if second is None
            else replace(
                second, cross=second.cross + by * second.s1, own=second.own + by * (self.n_ok - second.n_missing)
            )
            for second in (self.denominator, self.covariate)
        )
        return replace(
            self,
            shift=shift,
            s1=self.s1 + self.n_ok * by,
            s2=self.s2 + 2 * by * self.s1 + self.n_ok * by * by,
            denominator=denominator,
            covariate=covariate,
            bins=None if self.bins is None else self.bins.reshift(by[self.bins.cell]),
        )

    def at(self, places: IntArray) -> MetricCells:
        """The cells at some positions, in that order."""
        parts: dict[str, object] = {
            entry.name: getattr(self, entry.name)[places]
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), np.ndarray)
        }
        for name in ("logs", "denominator", "covariate"):
            part = getattr(self, name)
            if part is not None:
                own = {e.name: v[places] for e in fields(part) if isinstance(v := getattr(part, e.name), np.ndarray)}
                parts[name] = replace(part, **own)
        if self.bins is not None:
            to = np.full(self.n_ok.size, -1, dtype=np.int64)
            to[places] = np.arange(places.size)
            parts["bins"] = self.bins.at(to[self.bins.cell] >= 0).moved(to)
        return replace(self, **parts)  # type: ignore[arg-type]  # names of its own fields

    def merged(self, place: IntArray, size: int) -> MetricCells:
        """Cells added up: `place` holds the new position of each, of `size` in all.

        Sums first move to the mean of what is added up, where shifts differ: then the squares between cells, which no rounding can hide, are all that they gain [1]_.

        References
        ----------
        .. [1] Chan, Golub and LeVeque (1979), Updating Formulae and a Pairwise Algorithm for Computing Sample Variances.
        """
        shift = merged_shift(self.shifts, self.n_ok, self.s1, place, size)
        moved = self.reshift(shift[place])
        parts: dict[str, object] = {"shift": shift}
        parts |= {
            name: np.bincount(place, getattr(moved, name), size).astype(np.int64)
            for name in ("n_ok", "n_null", "n_nan", "n_infinite", "n_immature")
        }
        parts |= {name: np.bincount(place, getattr(moved, name), size) for name in ("s1", "s2")}
        for name, pick, worst in (("low", np.fmin, np.inf), ("high", np.fmax, -np.inf)):
            found = np.full(size, worst)
            pick.at(found, place, getattr(moved, name))
            parts[name] = np.where(found == worst, np.nan, found)
        parts["logs"] = None if moved.logs is None else Logs(**_added(moved.logs, place, size))  # type: ignore[arg-type]  # names of its own fields
        for name in ("denominator", "covariate"):
            part = getattr(moved, name)
            parts[name] = None if part is None else _merged(part, self.n_ok, place, size)
        parts["bins"] = None if moved.bins is None else moved.bins.moved(place).merged()
        return replace(self, **parts)  # type: ignore[arg-type]  # names of its own fields

    def with_other(self, other: MetricCells) -> MetricCells:
        """Cells of both, one after the other."""
        parts: dict[str, object] = {
            entry.name: np.concatenate([getattr(self, entry.name), getattr(other, entry.name)])
            for entry in fields(self)
            if isinstance(getattr(self, entry.name), np.ndarray)
        }
        if self.logs is not None and other.logs is not None:
            parts["logs"] = Logs(
                *(np.concatenate([getattr(self.logs, name), getattr(other.logs, name)]) for name in ("n", "s1", "s2"))
            )
        parts["denominator"] = _both(self.denominator, other.denominator)
        parts["covariate"] = _both(self.covariate, other.covariate)
        if self.bins is not None and other.bins is not None:
            parts["bins"] = self.bins + other.bins.moved(np.arange(other.n_ok.size) + self.n_ok.size)
        return replace(self, **parts)  # type: ignore[arg-type]  # names of its own fields


def _around_one(shift: FloatArray, n: IntArray, s1: FloatArray, s2: FloatArray) -> tuple[float, FloatArray, FloatArray]:
    """Sums around one shift, which comes first."""
    centre = common_shift(shift, n, s1)
    by = shift - centre
    return centre, s1 + n * by, s2 + 2 * by * s1 + n * by * by


def _added(part: Logs | Joint, place: IntArray, size: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.generic]]]:
    return {
        entry.name: np.bincount(place, value, size).astype(value.dtype)
        for entry in fields(part)
        if isinstance(value := getattr(part, entry.name), np.ndarray)
    }


def _merged(part: Joint, n_ok: IntArray, place: IntArray, size: int) -> Joint:
    shift = merged_shift(part.shifts, n_ok - part.n_missing, part.s1, place, size)
    moved = part.reshift(shift[place], n_ok)
    return replace(moved, **(_added(moved, place, size) | {"shift": shift}))  # type: ignore[arg-type]  # names of its own fields


def _own_shapes(second: Joint, n: IntArray, spread: FloatArray) -> list[FloatArray]:
    """Mean, squared deviations and correlation of a second measure, over the units that have it."""
    some, n = n > 0, np.maximum(n, 1)
    mean, squares = second.shifts + second.s1 / n, second.s2 - second.s1**2 / n
    squares = np.where(squares > NOISE * (second.s2 + NOISE * n * mean**2), squares, 0.0)
    cross, size = second.cross - second.s1 * second.own / n, np.sqrt(squares * spread)
    # A correlation near 0 is a difference of large sums: its digits are counted from 1.
    return [np.where(some, mean, 0.0), squares, 1 + np.divide(cross, size, out=np.zeros_like(cross), where=size > 0)]


def _both(first: Joint | None, second: Joint | None) -> Joint | None:
    if first is None or second is None:
        return None
    return Joint(
        *(
            np.concatenate([getattr(first, name), getattr(second, name)])
            for name in ("shift", "n_missing", "s1", "s2", "cross", "own")
        )
    )


@dataclass(frozen=True, slots=True)
class Cells:
    """Statistics of a cohort, additive over cells; no row, no unit id.

    Parameters
    ----------
    variant : ndarray of str, shape (cell,)
    segments : mapping of str to ndarray of str, shape (cell,)
        Value of each segment column; under `TRIGGER_KEY`, where the experiment has a trigger, "true" or "false".
    day : ndarray of datetime64[D], shape (cell,)
        Day of the first exposure; NaT where rows carry no time.
    n : ndarray of int, shape (cell,)
        Units.
    metrics : mapping of str to MetricCells
    checks : tuple of Check
        What is wrong, or right, with the data.
    source : str
        Where the rows were read, for display.
    broken : mapping of str to ndarray of int, shape (cell,)
        Units that break each expectation of the experiment, those with an outcome before their exposure (``"before:METRIC"``), rows without a value where rows were summed to units (``"blank:METRIC"``), units with more than one value of a segment (``"varied:SEGMENT"``), and those without an answer to the trigger (``"trigger:empty"``).
    epochs : sequence of date
        Days on which the weights of the flag changed. Arms are then compared within each epoch, and never pooled across: a share that changes with time would pass for an effect (Simpson).
    """

    variant: TextArray
    segments: Mapping[str, TextArray]
    day: DayArray
    n: IntArray
    metrics: Mapping[str, MetricCells]
    checks: tuple[Check, ...]
    source: str
    broken: Mapping[str, IntArray]
    epochs: Sequence[date] = ()

    @property
    def units(self) -> int:
        """Units in all cells."""
        return int(self.n.sum())

    def count(self, variant: str) -> int:
        """Units of one arm."""
        return int(self.n[self.variant == variant].sum())

    @property
    def epoch(self) -> IntArray:
        """Number of the epoch of each cell, shape (cell,); a cell without a day belongs to the first."""
        starts = np.array(list(self.epochs), dtype="datetime64[D]")
        days = np.where(np.isnat(self.day), np.datetime64("0001-01-01", "D"), self.day)
        return np.searchsorted(starts, days, side="right").astype(np.int64)

    def moments(self, metric: str, variant: str, where: BoolArray | None = None) -> Moments:
        """Moments of a metric in one arm, over the cells selected by `where`.

        Where the weights changed, epochs are weighted by the units of all arms in them, so that every arm has the same mixture of epochs (post-stratification [1]_).

        Parameters
        ----------
        where : ndarray of bool, shape (cell,), optional
            All cells when left out.

        Raises
        ------
        NameNotFoundError
            If there is no such metric.

        References
        ----------
        .. [1] Cochran (1977), Sampling Techniques, 5A.9.
        """
        column, where = self._metric(metric), np.ones(self.n.size, dtype=np.bool_) if where is None else where
        own = (self.variant == variant) & where
        if not self.epochs:
            return column.moments(own)
        return _stratified(
            [
                (int(self.n[where & (self.epoch == number)].sum()), column.moments(own & (self.epoch == number)))
                for number in self._shared_epochs(where, column)
            ]
        )

    def adjusted(self, metric: str, where: BoolArray | None = None) -> dict[str, Moments]:
        """Moments of a metric per arm, adjusted by its covariate (CUPED).

        Where the weights changed, arms are adjusted within each epoch and put together as in `moments`. Units without a covariate count with its mean.

        Raises
        ------
        NameNotFoundError
            If there is no such metric, or it has no covariate.
        """
        column = self._metric(metric)
        if column.covariate is None:
            known = [name for name, other in self.metrics.items() if other.covariate is not None]
            raise NameNotFoundError("metric with a covariate", metric, known)
        where = np.ones(self.n.size, dtype=np.bool_) if where is None else where
        covariate = column.covariate.centred(column.n_ok)
        arms = sorted(set(self.variant.tolist()))

        def within(chosen: BoolArray) -> dict[str, Moments]:
            return adjusted({arm: column.joint_moments(covariate, (self.variant == arm) & chosen) for arm in arms})

        if not self.epochs:
            return within(where)
        strata = [
            (int(self.n[chosen].sum()), within(chosen))
            for chosen in (where & (self.epoch == number) for number in self._shared_epochs(where, column))
        ]
        return {arm: _stratified([(units, moments[arm]) for units, moments in strata]) for arm in arms}

    def covariate_moments(self, metric: str, variant: str) -> Moments:
        """Moments of the covariate of a metric in one arm."""
        column = self._metric(metric)
        assert column.covariate is not None  # noqa: S101 - asked only where there is one
        joint = column.joint_moments(column.covariate.centred(column.n_ok), self.variant == variant)
        return Moments(joint.n, joint.mean_x, joint.xx, -math.inf, math.inf)

    def capped(self, metric: str, cap: float | None) -> Cells:
        """The same cells with another cap on a metric, or none; no row is read.

        Parameters
        ----------
        cap : float or None
            Below 1 a quantile of the positive values of all arms together, from 1 on a value. It moves up to the next bin edge, at most 2 %, so that the result is exact.

        Raises
        ------
        NameNotFoundError
            If the metric has no bins: then it was reduced without a cap.
        """
        column = self._metric(metric)
        if column.bins is None:
            raise NameNotFoundError("metric with bins", metric, [name for name, m in self.metrics.items() if m.bins])
        if cap is not None and cap < 1:
            cap = column.bins.cap_at(cap) if (column.bins.bin > 0).any() else None
        elif cap is not None:
            cap = edge_above(cap)
        return replace(self, metrics={**self.metrics, metric: replace(column, cap=cap)})

    def _metric(self, name: str) -> MetricCells:
        if name not in self.metrics:
            raise NameNotFoundError("metric", name, list(self.metrics))
        return self.metrics[name]

    def _shared_epochs(self, where: BoolArray, column: MetricCells) -> list[int]:
        """Epochs in which every arm has two units with a value; another one says nothing about a difference."""
        arms = set(self.variant[where].tolist())
        return [
            number
            for number in sorted(set(self.epoch[where].tolist()))
            if all(column.n_ok[where & (self.epoch == number) & (self.variant == arm)].sum() > 1 for arm in arms)
        ]

    def where(self, chosen: BoolArray, metrics: Sequence[str] | None = None) -> Cells:
        """Some of the cells, and all or some of the metrics; without checks, which were about the whole."""
        places = np.flatnonzero(chosen)
        return replace(
            self,
            variant=self.variant[places],
            segments={name: values[places] for name, values in self.segments.items()},
            day=self.day[places],
            n=self.n[places],
            metrics={name: self.metrics[name].at(places) for name in (self.metrics if metrics is None else metrics)},
            checks=(),
            broken={name: found[places] for name, found in self.broken.items()},
        )

    def roll_up(self, segments: Sequence[str] = (), *, by_day: bool = False) -> Cells:
        """Cells added up over everything but the variant, whether a unit was triggered, and what is named.

        Parameters
        ----------
        segments : sequence of str
            To keep.
        by_day : bool
            Whether days are kept. They are needed where the weights changed.
        """
        for name in segments:
            if name not in self.segments:
                raise NameNotFoundError("segment", name, list(self.segments))
        segments = [*(name for name in segments if name != TRIGGER_KEY), *({TRIGGER_KEY} & set(self.segments))]
        keep_days = by_day or bool(self.epochs)
        day = self.day if keep_days else np.full(self.n.size, np.datetime64("NaT", "D"))
        keys = [self.variant, *(self.segments[name] for name in segments), day.astype("datetime64[D]").astype(str)]
        _, first, place = np.unique(np.rec.fromarrays(keys), return_index=True, return_inverse=True)
        size = first.size
        return replace(
            self,
            variant=self.variant[first],
            segments={name: self.segments[name][first] for name in segments},
            day=day[first],
            n=np.bincount(place, self.n, size).astype(np.int64),
            metrics={name: column.merged(place, size) for name, column in self.metrics.items()},
            broken={name: np.bincount(place, found, size).astype(np.int64) for name, found in self.broken.items()},
        )

    def __add__(self, other: Cells) -> Cells:
        """Cells of two disjoint sets of units together, as `join`."""
        return join([self, other])

    def segment_values(self, segment: str) -> list[str]:
        """Values of a segment column, sorted."""
        return sorted(set(self.segments[segment].tolist()))

    def large_values(self, segment: str, variants: Sequence[str], *, min_cell: int) -> list[str]:
        """Values of a segment column that may be listed with their numbers of units, sorted: every arm has `min_cell` of them, and no other value can be worked out from those of all units."""
        fewest = {}
        for value in self.segment_values(segment):
            own = self.segments[segment] == value
            fewest[value] = min(int(self.n[own & (self.variant == arm)].sum()) for arm in variants)
        unknown = hidden(fewest, min_cell=min_cell)
        return [value for value in fewest if value not in unknown]

    def days(self, *, least: int = 1, until: date | None = None) -> tuple[date, date] | None:
        """First and last day of exposure; None where fewer than `least` units have a day.

        Parameters
        ----------
        least : int
            Units that lie on or before the first day, and on or after the last one. A stray date, such as 1970-01-01, then does not stretch the experiment, and no day is about fewer units than may be shown, however few come in per day.
        until : date, optional
            Days after it are left out; a date in the future is an error of the source.
        """
        known = ~np.isnat(self.day)
        if until is not None:
            known &= self.day <= np.datetime64(until, "D")
        days, place = np.unique(self.day[known], return_inverse=True)
        units = np.bincount(place, weights=self.n[known], minlength=days.size)
        before, after = np.cumsum(units), np.cumsum(units[::-1])[::-1]
        if not days.size or before[-1] < least:
            return None
        first, last = days[before >= least][0].item(), days[after >= least][-1].item()
        # Of fewer than twice `least` units the two may cross: then only the earlier is told.
        return min(first, last), last

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the statistics, independent of the order of cells and of an engine's threads."""
        columns = [key.astype(str).tolist() for key in (self.variant, *self.segments.values(), self.day, self.n)]
        for name in sorted(self.metrics):
            columns += [[name] * self.n.size, *(_digits(part) for part in self.metrics[name].shapes())]
        lines = ["\t".join(parts) for parts in zip(*columns, strict=True)]
        return sha256("\n".join(sorted(lines)).encode()).hexdigest()


def join(parts: Sequence[Cells]) -> Cells:
    """Cells of disjoint sets of units together; checks are left out, because they are not additive.

    Raises
    ------
    NameNotFoundError
        If the metrics or segments differ.
    """
    first = parts[0]
    for other in parts[1:]:
        for what, own, theirs in (
            ("metric", first.metrics, other.metrics),
            ("segment", first.segments, other.segments),
        ):
            for name in sorted(set(own) ^ set(theirs)):
                raise NameNotFoundError(f"{what} in all parts", name, sorted(set(own) & set(theirs)))
    metrics = dict(first.metrics)
    for other in parts[1:]:
        metrics = {name: column.with_other(other.metrics[name]) for name, column in metrics.items()}
    together = replace(
        first,
        variant=np.concatenate([part.variant for part in parts]),
        segments={name: np.concatenate([part.segments[name] for part in parts]) for name in first.segments},
        day=np.concatenate([part.day for part in parts]),
        n=np.concatenate([part.n for part in parts]),
        metrics=metrics,
        checks=(),
        broken={name: np.concatenate([part.broken[name] for part in parts]) for name in first.broken},
    )
    return together.roll_up(list(first.segments), by_day=True)


def _digits(values: FloatArray) -> list[str]:
    return [f"{value + 0.0:.{STABLE_DIGITS}g}" for value in values.tolist()]


def _stratified(strata: Sequence[tuple[int, Moments]]) -> Moments:
    """Moments of an arm whose strata are weighted by the units of all arms in them."""
    strata = [(units, moments) for units, moments in strata if moments.n > 1]
    if not strata:
        return EMPTY
    total = sum(units for units, _ in strata)
    n = sum(moments.n for _, moments in strata)
    mean = math.fsum(units / total * moments.mean for units, moments in strata)
    variance = math.fsum((units / total) ** 2 * moments.variance / moments.n for units, moments in strata)
    return Moments(
        n,
        mean,
        variance * n * (n - 1),
        min(moments.low for _, moments in strata),
        max(moments.high for _, moments in strata),
    )
