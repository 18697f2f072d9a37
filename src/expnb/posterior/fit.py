"""Cells to a posterior, by the exact engine."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from typing import Protocol

import numpy as np

from expnb._version import __version__
from expnb.posterior.comparison import Comparison
from expnb.posterior.effect import Effect, PooledEffect
from expnb.posterior.effects import Quantities, assemble, diluted, without_posterior
from expnb.posterior.effects import exact_effects as effects_of
from expnb.posterior.evidence import comparisons, estimates
from expnb.posterior.pooling.segments import pool_segments, to_be_pooled
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import TRIGGER_KEY, Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import Prior
from expnb.stats.cells import ALL, Cells

__all__ = [
    "Comparison",
    "HasCells",
    "Quantities",
    "assemble",
    "comparisons",
    "exact_effects",
    "fit_exact",
    "posterior_of",
    "without_posterior",
]

NOT_ADDITIVE = frozenset({"ratio", "quantile"})


class HasCells(Protocol):
    """A cohort, or anything else that carries cells."""

    @property
    def cells(self) -> Cells:
        """Additive statistics."""


def fit_exact(
    experiment: Experiment, data: Cells | HasCells, *, prior: Prior | None = None, seed: int = 0
) -> Posterior:
    """Posterior of every treatment effect, by quadrature; no sampling.

    Parameters
    ----------
    experiment : Experiment
    data : Cells or Cohort
    prior : Prior, optional
        On every metric; each metric's own, or the experiment's, when left out.
    seed : int
        Recorded; the exact engine draws nothing.

    Returns
    -------
    Posterior
        Effects of all units first, then by segment, each main row followed by the ones that explain it; segments in which an arm has fewer than `min_cell` units are left out, the others are partially pooled (`segments`). An arm that has fewer in all gives a row
        without figures.
    """
    cells = data if isinstance(data, Cells) else data.cells
    pairs = [pair for metric in experiment.metrics for pair in estimates(experiment, cells, metric)]
    priors = [prior or experiment.prior_on(pair.metric.name) for pair in pairs]
    main, pooled = pool_segments(pairs, priors, effects_of(pairs, priors, pooled=to_be_pooled(pairs, priors)))
    effects = list(_with_diluted(experiment, cells, main))
    return posterior_of(
        experiment,
        cells,
        effects,
        engine="exact",
        prior=prior,
        seed=seed,
        versions={"numpy": np.__version__},
        pooled=pooled,
    )


def exact_effects(experiment: Experiment, cells: Cells, metric: Metric, prior: Prior) -> list[Effect]:
    """Main effects on one metric, in the order of `comparisons`."""
    pairs = list(comparisons(experiment, cells, metric))
    return effects_of(pairs, [prior] * len(pairs))


def posterior_of(
    experiment: Experiment,
    cells: Cells,
    effects: Sequence[Effect],
    *,
    engine: str,
    prior: Prior | None,
    seed: int,
    versions: Mapping[str, str],
    pooled: Sequence[PooledEffect] = (),
) -> Posterior:
    """Effects with the evidence they rest on; `prior` is None where the experiment's own hold."""
    days = _days(experiment, cells)
    return Posterior(
        experiment=experiment.name,
        control=experiment.control,
        effects=tuple(effects),
        engine=engine,
        prior=(prior or experiment.prior).id,
        seed=seed,
        counts={name: cells.count(name) for name in experiment.variants},
        fingerprint=cells.fingerprint,
        first_day=days[0] if days else None,
        last_day=days[1] if days else None,
        checks=cells.checks,
        versions={"expnb": __version__, "python": platform.python_version(), **versions},
        pooled=tuple(pooled),
        asked=experiment.asked_hash,
        min_cell=experiment.min_cell,
        timezone=experiment.timezone,
        given_prior=prior,
        cells=cells,
    )


def _days(experiment: Experiment, cells: Cells) -> tuple[date, date] | None:
    """First and last day of the data; those that were agreed, where data of their kind carry none."""
    if (experiment.exposed_at and not experiment.totals) or cells.days() is not None:
        return cells.days(least=experiment.min_cell)
    return (experiment.start, experiment.end) if experiment.start and experiment.end else None


def _with_diluted(experiment: Experiment, cells: Cells, effects: Sequence[Effect]) -> Iterator[Effect]:
    """Every main effect on triggered units, followed by the same spread over all units."""
    for effect in effects:
        yield effect
        if TRIGGER_KEY not in cells.segments or effect.estimate != "main" or effect.effect_abs is None:
            continue
        if effect.kind in NOT_ADDITIVE:  # a ratio of sums over all units is no mixture of the two
            continue
        name, _, value = effect.segment.partition("=")
        where = None if effect.segment == ALL else cells.segments[name] == value
        control, treatment = (cells.moments(effect.metric, arm, where) for arm in (experiment.control, effect.variant))
        share = (effect.n_control + effect.n_treatment) / (control.n + treatment.n)
        yield diluted(effect, share, control.mean, (control.n, treatment.n))
