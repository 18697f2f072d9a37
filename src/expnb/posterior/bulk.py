"""Many experiments at once: a table of counts and moments in, a table of posteriors out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

import numpy as np

from expnb.errors import PosteriorError, SourceError, check_choice
from expnb.posterior.effects import alike, facts_of, figures_of, quantities
from expnb.posterior.exact.arms import Arm, BoolArray, FloatArray, IntArray
from expnb.posterior.exact.engine import prob_best
from expnb.posterior.table import LEAST_UNITS, NO_SPREAD, NORMAL, Samples, Table, too_few
from expnb.spec.metric import Direction
from expnb.spec.prior import FLAT, Prior, as_prior

if TYPE_CHECKING:
    import pandas as pd

KINDS = ("conversion", "count", "mean", "revenue", "duration", "retention")
SHARES = frozenset({"conversion", "retention"})
_WANTED = ("experiment", "metric", "kind", "variant", "n", "mean")
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
        self._still = means & (control.m2 == 0) & (treatment.m2 == 0)
        self.__dict__["known"] = ~self._few & ~self._still

    @property
    def notes(self) -> list[str]:
        """Why figures are missing; empty where none is."""
        out = self.not_relative
        for row in np.flatnonzero(~self.known).tolist():
            least = LEAST_UNITS if self.family[row] >= NORMAL else 2
            out[row] = f"no posterior: {too_few(least) if self._few[row] else NO_SPREAD}"
        return out


def compare(frame: pd.DataFrame, *, control: str = "control", prior: Prior | str | None = None) -> pd.DataFrame:
    """Every treatment of many experiments against its control, by the exact engine.

    Parameters
    ----------
    frame : DataFrame
        One row per experiment, metric and variant: columns `experiment`, `metric`, `kind` ({kinds}), `variant`, `n` (units), `mean` (the share of units for a conversion or retention), and for other
        kinds `variance` (of the values of units, not of their mean). Optional: `direction` ("increase" or "decrease"), `rope` and `margin` (relative), constant for a metric of an experiment.
    control : str
        The variant that is the control, of the same name in all experiments.
    prior : Prior or str, optional
        On every relative effect, or the name of its family, such as "flat"; the default prior when left out.

    Returns
    -------
    DataFrame
        One row per experiment, metric and treatment, in the order of `frame`. Figures as in `Posterior.summary`; NaN where none can be stated, as without two units in an arm; `note` then says why. `p_best` of three arms or more
        is stated without a prior only: under one it costs as much as a thousand other figures, and `fit` states it.

    Raises
    ------
    SourceError
        If a column is missing, or a variant or its control occurs twice or not at all.
    PosteriorError
        If a count or a moment is impossible.
    """
    import pandas as pd  # noqa: PLC0415 - 1.5 s, only where frames are

    _check(frame)
    prior = Prior() if prior is None else as_prior(prior)
    group = _groups(frame)
    own: BoolArray = frame["variant"].to_numpy() == control
    place = _controls(frame, group, own, control)
    rows = np.flatnonzero(~own)
    samples = _samples(frame)
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
    last = {"prior": prior_id, "note": table.notes}
    return pd.concat([names, pd.DataFrame({**numbers, **raw, **figures, **tests, **last})], axis=1)


compare.__doc__ = (compare.__doc__ or "").format(kinds=", ".join(KINDS))


def _check(frame: pd.DataFrame) -> None:
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
            f"experiment {row['experiment']!r}, metric {row['metric']!r} has variant {row['variant']!r} twice; every variant has one row. Add its rows up."
        )
    return np.asarray(codes, dtype=np.intp)


def _controls(frame: pd.DataFrame, group: IntArray, own: BoolArray, control: str) -> IntArray:
    """The row of the control of each group, shape (group,)."""
    place = np.full(group.max(initial=-1) + 1, -1, dtype=np.intp)
    place[group[own]] = np.flatnonzero(own)
    without = np.flatnonzero(place < 0)
    if len(without):
        row = frame.iloc[int(np.flatnonzero(group == without[0])[0])]
        raise SourceError(
            f"experiment {row['experiment']!r}, metric {row['metric']!r} has no variant {control!r}; every effect is one against control. Name it: compare(frame, control=…)."
        )
    return place


def _samples(frame: pd.DataFrame) -> Samples:
    n, mean = _numbers(frame, "n"), _numbers(frame, "mean")
    share = frame["kind"].isin(SHARES).to_numpy()
    variance = np.where(share, 0.0, _numbers(frame, "variance"))
    bad = ~((n >= 0) & np.isfinite(n) & np.isfinite(mean) & (variance >= 0) & np.isfinite(variance))
    bad |= share & ~((mean >= 0) & (mean <= 1))
    if bad.any():
        row = frame.iloc[int(np.flatnonzero(bad)[0])]
        raise PosteriorError(
            f"experiment {row['experiment']!r}, metric {row['metric']!r}, variant {row['variant']!r} has n {row['n']}, mean {row['mean']} and variance {row.get('variance')}; "
            "units are not negative, a share lies between 0 and 1, and a variance is at least 0. Check how they were counted."
        )
    return Samples(n, mean, np.where(share, n * mean * (1.0 - mean), variance * np.maximum(n - 1.0, 0.0)))


def _numbers(frame: pd.DataFrame, name: str) -> FloatArray:
    if name not in frame.columns:
        return np.full(len(frame), np.nan)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


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
