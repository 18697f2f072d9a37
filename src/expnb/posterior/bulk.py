"""Many experiments at once: a table of counts and moments in, a table of posteriors out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from expnb.errors import PosteriorError, SourceError, SpecError, check_choice
from expnb.posterior.effects import alike, facts_of, figures_of, quantities
from expnb.posterior.exact.arms import LARGEST, Arm, BoolArray, FloatArray, IntArray
from expnb.posterior.exact.engine import prob_best
from expnb.posterior.table import LEAST_UNITS, NO_SPREAD, NORMAL, Samples, Table, too_few
from expnb.spec.metric import Direction
from expnb.spec.prior import FLAT, Prior, as_prior

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("conversion", "count", "mean", "revenue", "duration", "retention")
SHARES = frozenset({"conversion", "retention"})
_WANTED = ("experiment", "metric", "kind", "variant", "n", "mean")
_MOST_UNITS = 2.0**53  # from here on doubles cannot count
# Shares come as floats of 32 or 64 bits, and as decimals of a report: counts closer than this to a whole number are that number.
_NEAR, _NEAR_REL = 0.01, 1e-6
_DECIMALS = 8  # of a share, that a report may have been rounded to
_FIGURES = (
    "effect_abs_post",
    "effect_rel_post",
    "hdi_abs_low",
    "hdi_abs_high",
    "hdi_rel_low",
    "hdi_rel_high",
    "p_improvement",
    "p_above_rope",
    "p_harm",
    "p_rope",
    "expected_loss_abs",
    "expected_loss_rel",
    "p_best",
)


class _Columns(Table):
    """Comparisons that come as columns."""

    def __init__(self, control: Samples, treatment: Samples, frame: pd.DataFrame, group: IntArray) -> None:
        rows = len(group)
        kind = frame["kind"].to_numpy()
        self.pairs = ()
        self.control, self.treatment, self.group = control, treatment, group
        self.is_share = np.isin(kind, list(SHARES))
        self.sign = np.where(_column(frame, "direction", "increase") == "increase", 1.0, -1.0)
        self.min_cell = np.zeros(rows)
        self.__dict__ |= {
            "_is_ratio": np.zeros(rows, dtype=np.bool_),
            "_events": kind == "count",
            "strength": np.full(rows, np.inf),
            "planned": control.n + treatment.n,
            "_distances": np.column_stack(
                [_numbers(frame, "rope"), _numbers(frame, "margin"), np.full((rows, 2), np.nan)]
            ),
        }
        fewest, means = np.minimum(control.n, treatment.n), self.family >= NORMAL
        self._few = fewest < np.where(means, LEAST_UNITS, 2)
        self.__dict__["known"] = ~self._few & ~self._still & np.array([not why for why in self.beyond], dtype=np.bool_)

    @property
    def notes(self) -> list[str]:
        """Why figures are missing; empty where none is."""
        out = self.not_relative
        for row in np.flatnonzero(~self.known).tolist():
            least = LEAST_UNITS if self.family[row] >= NORMAL else 2
            why = too_few(least) if self._few[row] else NO_SPREAD if self._still[row] else self.beyond[row]
            out[row] = f"no posterior: {why}"
        return out


def compare(frame: pd.DataFrame, *, control: str = "control", prior: Prior | str | None = None) -> pd.DataFrame:
    """Every treatment of many experiments against its control, by the exact engine.

    Parameters
    ----------
    frame : DataFrame
        One row per experiment, metric and variant: columns `experiment`, `metric`, `kind` ({kinds}), `variant`, `n` (units), `mean` (the share of units for a conversion or retention), and for other
        kinds `variance` (of the values of units, not of their mean). Optional: `direction` ("increase" or "decrease"), `rope` and `margin` (relative, 0 to below 1; empty for none). What is said of a metric (`kind`, `direction`, `rope`, `margin`) is the same in all its rows of an experiment.
    control : str
        The variant that is the control, of the same name in all experiments.
    prior : Prior or str, optional
        On every relative effect, or the name of its family, such as "flat"; the default prior when left out.

    Returns
    -------
    DataFrame
        One row per experiment, metric and treatment, in the order of `frame`. Figures as in `Posterior.summary`; NaN where none can be stated, as without two units in an arm; `note` then says why. It also says where a share was rounded: conversions are whole, and all figures are those of the nearest whole number. `p_best` of three arms or more
        is stated without a prior only: under one it costs as much as a thousand other figures, and `fit` states it.

    Raises
    ------
    SourceError
        If a column is missing, or a variant or its control occurs twice or not at all.
    SpecError
        If a kind, direction, rope or margin cannot be, or differs between the variants of a metric.
    PosteriorError
        If a count or a moment is impossible, such as a share that no count of its units gives.
    """
    import pandas as pd  # noqa: PLC0415 - 1.5 s, only where frames are

    _check(frame)
    prior = Prior() if prior is None else as_prior(prior)
    group = _groups(frame)
    _check_distances(frame)
    _check_shared(frame, group)
    own: BoolArray = frame["variant"].to_numpy() == control
    place = _controls(frame, group, own, control)
    rows = np.flatnonzero(~own)
    samples, given = _samples(frame)
    table = _Columns(samples.take(place[group[rows]]), samples.take(rows), frame.iloc[rows], group[rows])
    stated = [prior if exists else FLAT for exists in table.relative.tolist()]
    best = _best(table, prior)
    figures = {name: np.full(len(rows), np.nan) for name in _FIGURES}
    for some in alike(table, stated):
        found = figures_of(table, some, quantities(table, some, stated[some[0]], chart=False), best, stated[some[0]])
        for name in _FIGURES:
            figures[name][some] = found[name]
    facts = facts_of(table)
    names = frame.iloc[rows][["experiment", "metric", "kind", "variant"]].reset_index(drop=True)
    numbers = {"n_control": table.control.n.astype(np.int64), "n_treatment": table.treatment.n.astype(np.int64)}
    raw = {name: facts[name] for name in ("mean_control", "mean_treatment", "effect_abs", "effect_rel")}
    tests = {name: facts[name] for name in ("p_value", "ci_low", "ci_high")}
    prior_id = np.where(table.relative, prior.id, FLAT.id)
    rounded = _rounded(given, samples, place[group[rows]], rows)
    notes = [f"{why}; {what}" if why and what else why or what for why, what in zip(table.notes, rounded, strict=True)]
    last = {"prior": prior_id, "note": notes}
    return pd.concat([names, pd.DataFrame({**numbers, **raw, **figures, **tests, **last})], axis=1)


compare.__doc__ = (compare.__doc__ or "").format(kinds=", ".join(KINDS))


def _check(frame: pd.DataFrame) -> None:
    import pandas as pd  # noqa: PLC0415

    if not isinstance(frame, pd.DataFrame):
        raise SourceError(
            f"compare got a {type(frame).__name__}; it takes a pandas DataFrame, one row per experiment, metric and variant. Write compare(pd.DataFrame(…)), or compare(table.to_pandas())."
        )
    missing = [name for name in _WANTED if name not in frame.columns]
    if missing:
        raise SourceError(
            f"the table has no column {missing[0]!r}; it needs {', '.join(_WANTED)}, and variance for means. Rename or add it."
        )
    for kind in frame["kind"].unique():
        check_choice("metric kind", kind, KINDS)
    if "direction" in frame.columns:
        for direction in frame["direction"].unique():
            check_choice("direction", direction, get_args(Direction))
    if "variance" not in frame.columns and not frame["kind"].isin(SHARES).all():
        raise SourceError(
            "the table has no column 'variance', and some metrics are means; without it their errors are unknown. Add the variance of the values of units."
        )


def _groups(frame: pd.DataFrame) -> IntArray:
    """One number per experiment and metric, shape (row,)."""
    import pandas as pd  # noqa: PLC0415

    experiment, _ = pd.factorize(frame["experiment"])
    metric, names = pd.factorize(frame["metric"])
    codes, _ = pd.factorize(experiment * np.int64(len(names)) + metric)
    if frame["experiment"].isna().any() or frame["metric"].isna().any() or frame["variant"].isna().any():
        raise SourceError("a row has no experiment, metric or variant; each belongs to all three. Fill them in.")
    twice = frame.duplicated(["experiment", "metric", "variant"])
    if twice.any():
        row = frame[twice].iloc[0]
        raise SourceError(
            f"{_place(row)} has variant {_plain(row['variant'])!r} twice; every variant has one row. Add its rows up."
        )
    return np.asarray(codes, dtype=np.intp)


def _check_distances(frame: pd.DataFrame) -> None:
    """Ropes and margins are what `Metric` takes."""
    for name in ("rope", "margin"):
        values = _numbers(frame, name)
        bad = ~(np.isnan(values) | ((values >= 0) & (values < 1)))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            value = values[row]
            rule = "; it is a distance and cannot be negative"
            if value >= 1:
                rule = f", which means {100 * value:g} %; a relative {name} lies below 1"
            written = f"{value / 100:g} for {value:g} %" if 1 <= value < 100 else "0.005 for 0.5 %"
            raise SpecError(f"{_who(frame, row)} has {name} {value:g}{rule}. Write {written}.")


def _check_shared(frame: pd.DataFrame, group: IntArray) -> None:
    """All rows of a group say the same of their metric."""
    import pandas as pd  # noqa: PLC0415

    first = np.unique(group, return_index=True)[1][group]
    for name in ("kind", "direction", "rope", "margin"):
        if name not in frame.columns:
            continue
        values = _numbers(frame, name) if name in {"rope", "margin"} else frame[name].to_numpy()
        codes, _ = pd.factorize(values)
        others = np.flatnonzero(codes != codes[first])
        if len(others):
            there, here = (
                f"{f'no {name}' if codes[row] < 0 else f'{name} {_plain(values[row])!r}'} for variant {_plain(frame['variant'].iloc[row])!r}"
                for row in (int(first[others[0]]), int(others[0]))
            )
            raise SpecError(
                f"{_place(frame.iloc[int(others[0])])} has {there} and {here}; all variants share it. Give every row of this metric the same {name}."
            )


def _controls(frame: pd.DataFrame, group: IntArray, own: BoolArray, control: str) -> IntArray:
    """The row of the control of each group, shape (group,)."""
    place = np.full(group.max(initial=-1) + 1, -1, dtype=np.intp)
    place[group[own]] = np.flatnonzero(own)
    without = np.flatnonzero(place < 0)
    if len(without):
        row = frame.iloc[int(np.flatnonzero(group == without[0])[0])]
        raise SourceError(
            f"{_place(row)} has no variant {control!r}; every effect is one against control. Name it: compare(frame, control=…)."
        )
    return place


def _samples(frame: pd.DataFrame) -> tuple[Samples, FloatArray]:
    """Moments of every row, those of shares of whole conversions; and conversions as they came, NaN where they are whole or there are none."""
    share = frame["kind"].isin(SHARES).to_numpy()
    n, mean = _numbers(frame, "n"), _numbers(frame, "mean")
    variance = np.where(share | ((n < 2) & np.isnan(_numbers(frame, "variance"))), 0.0, _numbers(frame, "variance"))
    for bad, says in _impossible(share, n, mean, variance):
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise PosteriorError(f"{_who(frame, row)} has {says(row)}")
    whole, off = _conversions(n, mean)
    exact = np.where(share, whole / np.maximum(n, 1.0), mean)
    samples = Samples(
        n, exact, np.where(share, whole * (1.0 - np.where(share, exact, 0.0)), variance * np.maximum(n - 1.0, 0.0))
    )
    return samples, np.where(share & off, n * mean, np.nan)


def _impossible(
    share: BoolArray, n: FloatArray, mean: FloatArray, variance: FloatArray
) -> Iterator[tuple[BoolArray, Callable[[int], str]]]:
    """Rows with a figure that cannot be, and what to say of one of them; each kind after the ones before it are excluded."""
    yield (
        ~((n >= 0) & (n <= _MOST_UNITS) & (n == np.round(n))),
        lambda row: (
            f"n {n[row]:.12g}; units are a whole number, not negative and at most {_MOST_UNITS:.0f}. Check how they were counted."
        ),
    )
    yield (
        ~np.isfinite(mean),
        lambda row: f"mean {mean[row]}; every row needs a finite one. Leave out the rows of what was not measured.",
    )
    yield (
        share & ~((mean >= 0) & (mean <= 1)),
        lambda row: (
            f"mean {mean[row]:.12g}; of a conversion that is the share of units, 0 to 1. "
            + (f"Write {mean[row] / 100:.12g} for {mean[row]:.12g} %." if 1 < mean[row] <= 100 else "Divide conversions by units.")
        ),
    )  # fmt: skip
    yield (
        np.isnan(variance),
        lambda _: (
            "no variance; without it the error of a mean is unknown. Add the variance of the values of units, not of their mean."
        ),
    )
    yield (
        ~((variance >= 0) & np.isfinite(variance)),
        lambda row: (
            f"variance {variance[row]:g}; a variance is finite and at least 0. Check how it was computed: sums of squares may have overflowed."
        ),
    )
    yield (
        (np.abs(mean) > LARGEST) | (variance > LARGEST**2),
        lambda row: (
            f"mean {mean[row]:g} and variance {variance[row]:g}; the mean may not exceed {LARGEST:g}, nor the variance {LARGEST**2:g}. State the metric in another unit."
        ),
    )
    whole, off = _conversions(n, mean)
    yield (
        share & off & ~_reported(mean, whole / np.maximum(n, 1.0)),
        lambda row: (
            f"mean {mean[row]:.12g} of n {n[row]:.12g}, which is {n[row] * mean[row]:.6g} conversions; they are whole, and rounding of the share does not explain it. "
            "Divide conversions by units, or call what is no share of units kind 'mean' and add its variance."
        ),
    )


def _conversions(n: FloatArray, mean: FloatArray) -> tuple[FloatArray, BoolArray]:
    """Whole conversions of units, and whether they differ from those given by more than a float does."""
    given = n * mean
    whole = np.round(given)
    return whole, np.abs(given - whole) > np.maximum(_NEAR, _NEAR_REL * np.abs(given))


def _reported(mean: FloatArray, exact: FloatArray) -> BoolArray:
    """Whether an exact share, rounded to as many decimals as the given one has, is the given one."""
    out, found = np.zeros(len(mean), dtype=np.bool_), np.zeros(len(mean), dtype=np.bool_)
    for decimals in range(_DECIMALS + 1):
        has = ~found & (np.abs(mean - np.round(mean, decimals)) <= 1e-12)
        out |= has & (np.abs(exact - mean) <= 0.5 * 10.0**-decimals + 1e-12)
        found |= has
    return out


def _rounded(given: FloatArray, samples: Samples, controls: IntArray, rows: IntArray) -> list[str]:
    """For every treatment, which conversions of it and of its control were rounded; mostly empty."""
    out = [""] * len(rows)
    for at in np.flatnonzero(~np.isnan(given[controls]) | ~np.isnan(given[rows])).tolist():
        parts = [
            f"{name} {given[row]:.2f} to {samples.n[row] * samples.mean[row]:.0f}"
            for name, row in (("control", controls[at]), ("treatment", rows[at]))
            if not np.isnan(given[row])
        ]
        out[at] = f"conversions rounded to whole ones: {', '.join(parts)}"
    return out


def _place(row: pd.Series) -> str:
    return f"experiment {_plain(row['experiment'])!r}, metric {_plain(row['metric'])!r}"


def _who(frame: pd.DataFrame, row: int) -> str:
    return f"{_place(frame.iloc[row])}, variant {_plain(frame['variant'].iloc[row])!r}"


def _plain(name: object) -> object:
    """A name without the type that NumPy gives it."""
    return name.item() if isinstance(name, np.generic) else name


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    try:
        return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        import pandas as pd  # noqa: PLC0415

        wrong = frame[name][pd.to_numeric(frame[name], errors="coerce").isna() & frame[name].notna()]
        raise SourceError(
            f"column {name!r} holds {next(iter(wrong), None)!r}; it needs numbers. Convert it with pd.to_numeric."
        ) from None


def _column(frame: pd.DataFrame, name: str, default: str) -> np.ndarray:
    return frame[name].to_numpy() if name in frame.columns else np.full(len(frame), default)


def _best(table: Table, prior: Prior) -> FloatArray:
    """As `effects.share_of_best`, without a prior on three arms or more."""
    best = np.full(len(table), np.nan)
    size = np.bincount(table.group)
    best[size[table.group] == 1] = np.inf
    if prior.family != "flat":
        return best
    complete = np.ones(len(size), dtype=np.bool_)
    np.logical_and.at(complete, table.group, table.known)
    order = np.argsort(table.group, kind="stable")
    for arms in range(2, int(size.max(initial=0)) + 1):
        rows = order[((size == arms) & complete)[table.group[order]]].reshape(-1, arms)
        for family in np.unique(table.family[rows[:, 0]]).tolist() if len(rows) else ():
            for sign in (1.0, -1.0):
                chosen = rows[(table.family[rows[:, 0]] == family) & (table.sign[rows[:, 0]] == sign)]
                if len(chosen):
                    best[chosen] = _shares(table, chosen, int(family), largest=sign > 0)
    return best


def _shares(table: Table, rows: IntArray, family: int, *, largest: bool) -> FloatArray:
    """P(best) of the treatments in `rows`, shape (group, treatment)."""
    pairs: Sequence[tuple[Arm, Arm]] = [table.arms(column, family) for column in rows.T]
    found = prob_best([pairs[0][0], *(treatment for _, treatment in pairs)], FLAT, largest=largest)
    out: FloatArray = found[:, 1:]
    return out
