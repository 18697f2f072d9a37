"""Recorded data of past experiments, as a run takes them: cumulative units and sums at checkpoints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np

from expnb.errors import CohortError, NameNotFoundError, SourceError
from expnb.planning.belief import FloatArray
from expnb.planning.judging import BoolArray, IntArray, Known, judged_metrics
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.spec.metric import SHARES
from expnb.stats.cells import Cells
from expnb.stats.moments import Moments

if TYPE_CHECKING:
    import pandas as pd

_WANTED = ("experiment", "variant", "n", "mean")
_LEAST_UNITS = 2
_TAKEN_BACK, _OFTEN = 0.02, 0.25  # shares of n, and of its steps, by which and at which cumulative units may fall
_NEAR = 1e-9  # a share or a day that misses a bound by less was rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One past experiment.

    Parameters
    ----------
    name, kind : str
        Of the experiment, and of its first goal.
    variants : tuple of str
        Control first.
    time : ndarray of float, shape (look,)
        Days since the start, rising.
    units : ndarray of float, shape (look, arm)
        Cumulative, like all that follows.
    valued, sums, sd : ndarray of float, shape (look, metric, arm)
        Units with a value, sums of the values, and their standard deviations.
    shares : ndarray of float, shape (arm,), optional
        Of units that each arm was promised; None where nobody knows.
    """

    name: str
    kind: str
    variants: tuple[str, ...]
    time: FloatArray
    units: FloatArray
    valued: FloatArray
    sums: FloatArray
    sd: FloatArray
    shares: FloatArray | None


class Records:
    """Recorded units: a rollout is a past experiment, and its data are what they were, whatever the policy does.

    Parameters
    ----------
    streams : sequence of Stream
        With as many arms and metrics each; all with promised shares, or none.
    """

    def __init__(self, streams: Sequence[Stream]) -> None:
        self.looks = np.array([len(stream.time) for stream in streams])
        self.time = _padded([stream.time for stream in streams])
        self.units = _padded([stream.units for stream in streams])
        self.valued, self.sums, self.sd = (
            _padded([getattr(stream, name) for stream in streams]) for name in ("valued", "sums", "sd")
        )
        shares = [stream.shares for stream in streams if stream.shares is not None]
        self.shares = np.array(shares) if len(shares) == len(streams) else None

    def __len__(self) -> int:
        return len(self.looks)

    def there(self, rows: IntArray, look: int) -> IntArray:
        """Experiments with so many checkpoints."""
        return rows[self.looks[rows] >= look]

    def take(self, rows: IntArray, look: int, enrolled: FloatArray, live: BoolArray) -> Known:  # noqa: ARG002 - what was recorded does not depend on the policy
        """Data up to a checkpoint."""
        at = rows, look - 1
        days = np.floor(self.time[at] + _NEAR).astype(np.intp)
        shares = None if self.shares is None else self.shares[rows]
        return Known(days, self.units[at], self.sums[at], self.sd[at], self.valued[at], shares)


def _padded(parts: Sequence[FloatArray]) -> FloatArray:
    """Arrays of different lengths as one, with zeros behind the end of each."""
    out = np.zeros((len(parts), max(len(part) for part in parts), *parts[0].shape[1:]))
    for place, part in enumerate(parts):
        out[place, : len(part)] = part
    return out


# --- cells of one experiment --------------------------------------------------------------------


def of_cells(experiment: Experiment, cells: Cells) -> tuple[Stream, int]:
    """One stream of daily cells added up, and how many days were left out because an arm had too few units to be shown.

    Raises
    ------
    CohortError
        If the cells carry no days, or no day has enough units in every arm.
    NameNotFoundError
        If the cells lack a metric that is judged.
    """
    span = cells.days(least=experiment.min_cell)
    if span is None:
        raise CohortError(
            "the cells carry no days, and a replay goes day by day. Name the column of the first exposure, exposed_at, and load the cohort again; running totals have no cells per day."
        )
    metrics = judged_metrics(experiment)
    for metric in metrics:
        if metric.name not in cells.metrics:
            raise NameNotFoundError("metric in the cells", metric.name, list(cells.metrics))
    first, last = (np.datetime64(day, "D") for day in span)
    days = np.unique(cells.day[(cells.day >= first) & (cells.day <= last)])
    counted = cells.segments[TRIGGER_KEY] == "true" if experiment.trigger else np.ones(cells.n.size, dtype=np.bool_)
    looks = [
        _arms(experiment, cells, counted & ~(cells.day > day))
        for day in days  # NaT is not above any day: units without one are in all of them
    ]
    enough = np.array([units.min() >= max(experiment.min_cell, _LEAST_UNITS) for units, _ in looks])
    if not enough.any():
        raise CohortError(
            f"an arm has fewer than {max(experiment.min_cell, _LEAST_UNITS)} units up to the last day, {span[1]}; a replay needs more. Wait for more units, or lower min_cell."
        )
    kept = [look for look, fits in zip(looks, enough.tolist(), strict=True) if fits]
    n, mean, sd = np.moveaxis(np.array([figures for _, figures in kept]), -1, 0)
    stream = Stream(
        name=experiment.name,
        kind=experiment.goal.kind,
        variants=experiment.variants,
        time=((days - first).astype(np.float64) + 1)[enough],
        units=np.array([units for units, _ in kept]),
        valued=n,
        sums=n * mean,
        sd=sd,
        shares=None if experiment.epochs else np.array([experiment.share(name) for name in experiment.variants]),
    )
    return stream, int((~enough).sum())


def _arms(experiment: Experiment, cells: Cells, where: BoolArray) -> tuple[FloatArray, FloatArray]:
    """Units per arm, and per metric and arm the number of values, their mean and standard deviation; of some cells."""
    units = [float(cells.n[where & (cells.variant == name)].sum()) for name in experiment.variants]
    figures = []
    for metric in judged_metrics(experiment):
        column = cells.metrics[metric.name]
        adjusts = bool(metric.covariate) and column.covariate is not None and column.cap is None
        found = (
            cells.adjusted(metric.name, where)
            if adjusts
            else {name: cells.moments(metric.name, name, where) for name in experiment.variants}
        )
        figures.append([_figures(found[name], is_share=metric.is_share) for name in experiment.variants])
    return np.array(units), np.array(figures)


def _figures(arm: Moments, *, is_share: bool) -> tuple[float, float, float]:
    """Units, mean and standard deviation; a share of clusters, or an adjusted one, counts as so many independent units as its variance says (Kish 1965, 8.2)."""
    if arm.n < _LEAST_UNITS:
        return 0.0, 0.0, 0.0
    independent = arm.n * arm.mean * (1 - arm.mean)
    n = arm.n * independent / arm.m2 if is_share and arm.m2 > 0 and independent > 0 else float(arm.n)
    return n, arm.mean, float(np.sqrt(arm.variance))


# --- a frame of many experiments ------------------------------------------------------------------


def of_frame(frame: pd.DataFrame, kind: str, control: str) -> tuple[list[Stream], int]:
    """The streams of a table of cumulative checkpoints, and how many checkpoints were left out because an arm had no usable figures.

    Parameters
    ----------
    frame : DataFrame
        As `replay_policy` says.
    kind : str
        Of the metric, where the frame has no column `kind`.

    Raises
    ------
    SourceError
        If a column is missing, a figure is impossible, or an experiment has no control, or two rows for one thing.
    """
    time = _check(frame, kind)
    table = _table(frame, kind, time)
    _check_cumulative(table, time)
    pairs = _pairs(table, control)
    table = table.merge(pairs, on=["experiment", "variant"])
    fine = np.isfinite(table.n) & (table.n >= _LEAST_UNITS) & np.isfinite(table["mean"]) & np.isfinite(table.sd)
    looks = table.assign(fine=fine).groupby(["place", "time"], sort=True).fine.agg(["sum", "size"])
    arms = pairs.groupby("place").size()
    looks["usable"] = looks["sum"].to_numpy() == arms.loc[looks.index.get_level_values("place")].to_numpy()
    left_out = int((~looks.usable).sum())
    looks = looks[looks.usable]
    if looks.empty:
        raise SourceError(
            "no checkpoint has figures of every arm of its experiment: n from 2 on, mean and variance. A checkpoint counts where all arms have a row of the same time; round the times."
        )
    looks["look"] = looks.groupby("place").cumcount()
    table = table.merge(looks[["look"]], left_on=["place", "time"], right_index=True)
    return list(_streams(table, pairs)), left_out


def _check(frame: pd.DataFrame, kind: str) -> str:
    """Raise unless the columns are there; the name of the one that holds the time."""
    time = next((name for name in ("time", "day") if name in frame.columns), "time")
    spread = () if kind in SHARES or "kind" in frame.columns else ("variance",)
    for name in (*_WANTED, time, *spread):
        if name not in frame.columns:
            near = get_close_matches(name, map(str, frame.columns), n=1)
            hint = f" Is it {near[0]!r}?" if near else ""
            raise SourceError(
                f"the table has no column {name!r}; it has {list(frame.columns)}.{hint} A replay takes one row per experiment, variant and checkpoint: experiment, variant, time (days since the start), and cumulative n, mean and variance."
            )
    if frame.empty:
        raise SourceError("the table has no rows; a replay takes one per experiment, variant and checkpoint.")
    twice = frame.duplicated(["experiment", "variant", time])
    if twice.any():
        row = frame[twice].iloc[0]
        raise SourceError(
            f"experiment {row.experiment!r} has two rows of variant {row.variant!r} at {time} {row[time]}; there is one per checkpoint. Give each metric a name of its own in `experiment`, such as 'button/revenue'."
        )
    return time


def _table(frame: pd.DataFrame, kind: str, time: str) -> pd.DataFrame:
    """The columns that are read, as numbers, each checked."""
    import pandas as pd  # noqa: PLC0415 - 1.5 s, only where frames are

    names = frame[["experiment", "variant"]].astype(str).reset_index(drop=True)
    numbers = {name: _numbers(frame, name) for name in ("n", "mean", "variance", "weight")}
    kinds = frame["kind"].to_numpy() if "kind" in frame.columns else np.full(len(frame), kind)
    share = np.isin(kinds.astype(str), list(SHARES))
    for bad, words in (
        (numbers["n"] < 0, "units are counted from 0 on"),
        (share & ((numbers["mean"] < -_NEAR) | (numbers["mean"] > 1 + _NEAR)), "a share lies between 0 and 1"),
        (~share & (numbers["variance"] < 0), "a variance is not negative"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            raise SourceError(
                f"row {row} (experiment {names.experiment[row]!r}, variant {names.variant[row]!r}) has n {numbers['n'][row]:g}, mean {numbers['mean'][row]:g}, variance {numbers['variance'][row]:g}; {words}. Check how the table was made."
            )
    mean = np.where(share, np.clip(numbers["mean"], 0.0, 1.0), numbers["mean"])
    sd = np.sqrt(np.where(share, mean * (1 - mean), numbers["variance"]))
    columns = {"kind": kinds.astype(str), "time": _numbers(frame, time), "n": numbers["n"], "mean": mean, "sd": sd}
    return pd.concat([names, pd.DataFrame({**columns, "weight": numbers["weight"]})], axis=1)


def _check_cumulative(table: pd.DataFrame, time: str) -> None:
    """Raise where units of one day, or of one interval, were taken for those since the start; units that are taken back later make n fall a little, now and then."""
    known = table[np.isfinite(table.n) & (table.n >= _LEAST_UNITS)].sort_values("time", kind="stable")
    keys = [known.experiment, known.variant]
    arms = known.groupby(keys, sort=False).n
    step = arms.diff()
    often = (step < 0).groupby(keys).transform("mean") > _OFTEN
    fewer = known[(step < 0) & (often | (known.n < (1 - _TAKEN_BACK) * arms.cummax()))]
    hint = f"n counts all units since the start. Add the days up before the replay: cumsum() of n by experiment and variant in the order of {time}, and mean and variance of all units so far."
    if len(fewer):
        row = fewer.iloc[0]
        raise SourceError(
            f"n of experiment {row.experiment!r}, variant {row.variant!r} falls to {row.n:,.0f} at {time} {row.time:g}; {hint}"
        )
    own = known.assign(step=step.fillna(0.0)).groupby("experiment", sort=False)
    still = (own.step.max() == 0) & (own.time.max() - own.time.min() >= 1)
    if still.any():
        raise SourceError(
            f"n of experiment {still.index[still][0]!r} is the same at every checkpoint while days go on; {hint}"
        )


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    """A column as numbers; NaN without it."""
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    try:
        return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise SourceError(
            f"column {name!r} holds {frame[name].dtype}, and a replay needs numbers. Convert it; time is counted in days since the start."
        ) from error


def _pairs(table: pd.DataFrame, control: str) -> pd.DataFrame:
    """Every variant of every experiment, with the place of both."""
    pairs = table.drop_duplicates(["experiment", "variant"])[["experiment", "variant"]].reset_index(drop=True)
    pairs["place"] = pairs.groupby("experiment", sort=False).ngroup()
    treatment = pairs.variant != control
    pairs["arm"] = np.where(treatment, 1 + treatment.groupby(pairs.place).cumsum() - 1, 0)
    arms = pairs.groupby("place").arm.agg(["min", "max"]).to_numpy()
    for place in np.flatnonzero((arms[:, 0] > 0) | (arms[:, 1] < 1)).tolist():
        own = pairs[pairs.place == place]
        raise SourceError(
            f"experiment {own.experiment.iloc[0]!r} has the variants {own.variant.tolist()}; it needs the control {control!r} and a treatment. Name the control: control=…"
        )
    return pairs


def _streams(table: pd.DataFrame, pairs: pd.DataFrame) -> Iterator[Stream]:
    """One per experiment that has a checkpoint."""
    names = {place: own.sort_values("arm") for place, own in pairs.groupby("place")}
    for place, own in table.groupby("place"):
        kinds = own.kind.unique().tolist()
        if len(kinds) > 1:
            raise SourceError(
                f"experiment {own.experiment.iloc[0]!r} has the kinds {kinds}; its metric has one. Give each metric a name of its own in `experiment`."
            )
        arms = names[place].variant.tolist()
        shape = int(own["look"].max()) + 1, len(arms)
        parts = {name: np.zeros(shape) for name in ("time", "n", "mean", "sd", "weight")}
        for name, values in parts.items():
            values[own["look"], own.arm] = own[name]
        weights = parts["weight"][-1]
        promised = np.isfinite(weights).all() and (weights > 0).all()
        valued = parts["n"][:, None, :]
        yield Stream(
            name=own.experiment.iloc[0],
            kind=kinds[0],
            variants=tuple(arms),
            time=parts["time"][:, 0],
            units=parts["n"],
            valued=valued,
            sums=valued * parts["mean"][:, None, :],
            sd=parts["sd"][:, None, :],
            shares=weights / weights.sum() if promised else None,
        )
