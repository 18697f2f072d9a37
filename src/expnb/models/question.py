"""What is asked of a model: likelihoods of some arms, a prior, and everything that is compiled in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from expnb.errors import EngineError, PosteriorError
from expnb.models.belief import Data, kind_of
from expnb.models.conversion import conversion_data, conversion_model, is_whole
from expnb.models.count import Histogram, count_data, count_model, negative_binomial_data, negative_binomial_model
from expnb.models.hurdle import Payers, hurdle_data, hurdle_model, tail
from expnb.models.mean import mean_data, mean_model
from expnb.models.sampler import Shape
from expnb.models.segments import Likelihood, segments_data, segments_model
from expnb.posterior.comparison import Comparison
from expnb.posterior.exact.arms import Arm, Binomial, NormalMean, Poisson, StudentMean
from expnb.posterior.pooling.segments import around_none, sound
from expnb.posterior.table import RATIO, Table
from expnb.spec.metric import Metric, MetricKind
from expnb.spec.prior import FLAT, Prior
from expnb.stats.arrays import BoolArray
from expnb.stats.cells import Cells, MetricCells
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import pymc as pm

Family: TypeAlias = Literal["negative_binomial", "hurdle"]
KINDS: Mapping[Family, MetricKind] = {"negative_binomial": "count", "hurdle": "revenue"}

WITHOUT_MODEL: frozenset[MetricKind] = frozenset({"quantile", "ratio"})


@dataclass(frozen=True, slots=True)
class Question:
    """A model with its numbers.

    Parameters
    ----------
    metric, segment : str
    variants : tuple of str
        Control first.
    shape : tuple
        Names everything that is compiled in.
    numbers : mapping of str to ndarray
        By the name of their `pm.Data`.
    make : callable
        The model, given labels: of variants or, pooled, of segments.
    labels : tuple of str
    monitored : tuple of str
        Variables that are diagnosed.
    level : str
        The variable that holds the means of the arms; empty where segments are pooled.
    prior : Prior
        The one that holds: the arms' own where no relative effect exists.
    checks : tuple of Check
    """

    metric: str
    segment: str
    variants: tuple[str, ...]
    shape: Shape
    numbers: Data
    make: Callable[[Sequence[str]], pm.Model]
    labels: tuple[str, ...]
    monitored: tuple[str, ...]
    level: str
    prior: Prior
    checks: tuple[Check, ...] = ()

    def model(self) -> pm.Model:
        """With the names of arms or segments as coordinates."""
        return self.make(self.labels)

    def numbered(self) -> pm.Model:
        """The same with numbers for names, which are compiled in: one compiled model serves all names."""
        return self.make([str(number) for number in range(len(self.labels))])

    @property
    def coords(self) -> Mapping[str, tuple[str, ...]]:
        """Labels by coordinate."""
        return {"variant": self.labels, "treatment": self.labels[1:]} if self.level else {"segment": self.labels}

    @property
    def about(self) -> str:
        """What is asked, in words."""
        return f"metric {self.metric!r}, {' and '.join(self.variants[1:])} against {self.variants[0]}, {self.segment}"


@dataclass(frozen=True, slots=True)
class _Model:
    """A model of some arms, before it is known whose."""

    name: str
    numbers: Data
    make: Callable[[Sequence[str]], pm.Model]
    level: str


def check_kind(metric: Metric) -> None:
    """Refuse a metric for which there is no PyMC model.

    Raises
    ------
    EngineError
    """
    if metric.kind in WITHOUT_MODEL:
        raise EngineError(
            f"metric {metric.name!r} is a {metric.kind}, for which the pymc engine has no model. Use engine='exact', or leave the metric out."
        )


def arms_question(table: Table, rows: Sequence[int], control: str, prior: Prior) -> Question:
    """Some treatments of one segment and their control, with the likelihood that the exact engine takes.

    Parameters
    ----------
    table : Table
        All treatments of the segment: they share a likelihood, whichever of them are asked for.
    rows : sequence of int
    """
    chosen = np.array(rows, dtype=np.intp)
    family = int(table.family[chosen[0]])
    pairs = [table.pairs[row] for row in rows]
    if family == RATIO:
        check_kind(pairs[0].metric)
    exists = bool(table.relative[chosen].all())
    prior = prior if exists else FLAT
    model = _model_of(_stacked(*table.arms(chosen, family)), prior)
    return _asked(pairs, control, prior, model, monitored=("effect_rel", "effect_abs") if exists else ("effect_abs",))


def _model_of(arms: Arm, prior: Prior) -> _Model:
    if isinstance(arms, Binomial):
        name = "conversion" if is_whole(arms) else "adjusted conversion"
        return _Model(name, conversion_data(arms, prior), partial(conversion_model, arms, prior), "rate")
    if isinstance(arms, Poisson):
        return _Model("count", count_data(arms, prior), partial(count_model, arms, prior), "rate")
    assert isinstance(arms, NormalMean | StudentMean)  # noqa: S101 - a ratio was refused
    name = "mean" if isinstance(arms, NormalMean) else "mean of few"
    return _Model(name, mean_data(arms, prior), partial(mean_model, arms, prior), "mean")


def histogram_question(
    pairs: Sequence[Comparison], cells: Cells, where: BoolArray, control: str, prior: Prior
) -> Question:
    """A count with a negative Binomial likelihood."""
    chosen, column = _whole_column(pairs, cells, where, control, "negative_binomial")
    bins = column.bins
    if bins is None:
        raise EngineError(
            f"metric {pairs[0].metric.name!r} was reduced without a histogram, which the negative Binomial model needs. Give the metric a cap (`cap = 0.999`) and load the cohort again, or leave out family='negative_binomial'."
        )
    found = np.round(np.broadcast_to(column.shift, cells.n.shape)[bins.cell] + bins.s1 / bins.n)
    entries = [np.unique(found[mask[bins.cell]], return_inverse=True) for mask in chosen]
    units = [np.bincount(own[1], bins.n[mask[bins.cell]]) for own, mask in zip(entries, chosen, strict=True)]
    if min(own[0].min(initial=0.0) for own in entries) < 0:
        raise EngineError(
            f"metric {pairs[0].metric.name!r} has values below 0, which are no counts. Leave out family='negative_binomial'."
        )
    moments = [column.moments(mask) for mask in chosen]
    if min(arm.mean for arm in moments) <= 0:
        raise EngineError(
            f"metric {pairs[0].metric.name!r}: nothing was counted in an arm. Leave out family='negative_binomial'."
        )
    arms = Histogram(
        mean=np.array([arm.mean for arm in moments]),
        se=np.array([max(arm.se, arm.mean / np.sqrt(arm.n)) for arm in moments]),
        variant=np.repeat(np.arange(len(units)), [own.size for own in units]),
        value=np.concatenate([own[0] for own in entries]),
        units=np.concatenate(units),
    )
    model = _Model(
        "negative Binomial", negative_binomial_data(arms, prior), partial(negative_binomial_model, arms, prior), "rate"
    )
    return _asked(pairs, control, prior, model, monitored=("effect_rel", "effect_abs", "overdispersion"))


def payers_question(
    pairs: Sequence[Comparison], cells: Cells, where: BoolArray, control: str, prior: Prior
) -> Question:
    """Revenue as share of payers times mean per payer."""
    chosen, column = _whole_column(pairs, cells, where, control, "hurdle")
    logs = column.logs
    if logs is None or (column.low[where] < 0).any():
        raise EngineError(
            f"metric {pairs[0].metric.name!r} has no logarithms of its payments, or payments below 0; the hurdle model knows neither. Leave out family='hurdle'."
        )
    n, s1, s2 = (
        np.array([part[mask].sum() for mask in chosen], dtype=np.float64) for part in (logs.n, logs.s1, logs.s2)
    )
    moments = [column.moments(mask) for mask in chosen]
    units = np.array([arm.n for arm in moments], dtype=np.float64)
    some = np.maximum(n, 1.0)
    each = np.array([arm.mean for arm in moments]) * units / some
    squares = np.array([arm.m2 + arm.n * arm.mean**2 for arm in moments]) - n * each**2
    arms = Payers(
        units=units,
        payers=n,
        log_mean=s1 / some,
        log_squares=np.maximum(s2 - s1 * s1 / some, 0.0),
        per_payer=each,
        per_payer_se=np.sqrt(np.maximum(squares, 0.0)) / some,
    )
    model = _Model("hurdle", hurdle_data(arms, prior), partial(hurdle_model, arms, prior), "mean")
    asked = _asked(pairs, control, prior, model, monitored=("effect_rel", "effect_abs", "share", "per_payer"))
    return replace(asked, checks=(tail(pairs[0].metric.name, arms, asked.variants),))


def segments_question(pairs: Sequence[Comparison], by: str, control: str, prior: Prior) -> Question:
    """One treatment in all segments of a kind that have a relative effect, partially pooled."""
    table = Table(pairs)
    if prior.family == "flat":
        raise PosteriorError(
            "segments cannot be pooled under the flat prior, which believes nothing about the effect. Use the default prior, or leave out `by`."
        )
    rows = np.flatnonzero(table.known & table.relative)
    family = int(table.family[rows].max(initial=0))
    rows = rows[sound(table, rows, family)] if len(rows) else rows
    if not len(rows):
        raise PosteriorError(
            f"metric {pairs[0].metric.name!r}: no segment of {by!r} has a relative effect of its own. Wait for more units, or leave out `by`."
        )
    some = [pairs[row] for row in rows.tolist()]
    return pooled_question(some, *table.arms(rows, family), control, prior, tau_scale=prior.scale)


def pooled_question(
    pairs: Sequence[Comparison], control: Arm, treatment: Arm, name: str, prior: Prior, *, tau_scale: float | None
) -> Question:
    """The same from likelihoods; `name` is that of the control."""
    if not isinstance(control, Likelihood) or not isinstance(treatment, Likelihood):
        check_kind(pairs[0].metric)
        raise EngineError(
            f"metric {pairs[0].metric.name!r}: the pymc engine has no model of its segments. Use engine='exact'."
        )
    return Question(
        pairs[0].metric.name,
        f"pooled by {pairs[0].segment.partition('=')[0]}",
        (name, pairs[0].variant),
        ("segments", type(control).__name__, whole(control, treatment), kind_of(around_none(prior)), len(pairs)),
        segments_data(control, treatment, prior, tau_scale=tau_scale),
        partial(segments_model, control, treatment, prior, tau_scale=tau_scale),
        tuple(pair.segment for pair in pairs),
        ("mu", "tau", "log_ratio"),
        "",
        prior,
    )


def whole(*arms: Arm) -> bool:
    """Whether all counts are whole."""
    return all(is_whole(arm) for arm in arms if isinstance(arm, Binomial))


def _asked(
    pairs: Sequence[Comparison], control: str, prior: Prior, model: _Model, *, monitored: tuple[str, ...]
) -> Question:
    variants = (control, *(pair.variant for pair in pairs))
    shape = (model.name, kind_of(prior), len(variants))
    return Question(
        pairs[0].metric.name,
        pairs[0].segment,
        variants,
        shape,
        model.numbers,
        model.make,
        variants,
        (model.level, *monitored),
        model.level,
        prior,
    )


def _whole_column(
    pairs: Sequence[Comparison], cells: Cells, where: BoolArray, control: str, family: Family
) -> tuple[list[BoolArray], MetricCells]:
    """The cells of each variant, and the sums of the metric without its cap."""
    metric = pairs[0].metric
    if metric.kind != KINDS[family]:
        raise EngineError(
            f"metric {metric.name!r} is a {metric.kind}; family={family!r} is for a {KINDS[family]}. Leave the family out."
        )
    if cells.epochs:
        raise EngineError(
            f"metric {metric.name!r}: weights changed while the experiment ran, and family={family!r} cannot keep the days apart. Leave the family out."
        )
    variants = (control, *(pair.variant for pair in pairs))
    column = cells.metrics[metric.name]
    return [where & (cells.variant == name) for name in variants], replace(column, cap=None)


def _stacked(control: Arm, treatment: Arm) -> Arm:
    """One row per variant: the control of the first comparison, then the treatments."""
    parts = (np.concatenate([getattr(control, name)[:1], getattr(treatment, name)]) for name in control.__slots__)
    return type(control)(*parts)
