"""Cells to a posterior, by the engine that was asked for."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from expnb.errors import NameNotFoundError, PosteriorError, SourceError
from expnb.models.agreement import Gap, agreement
from expnb.models.arviz_bridge import versions
from expnb.models.run import Trace, check_kind, prior_of, sample_pairs
from expnb.models.sampling import Sampling
from expnb.models.summary import best_shares, quantity, share_ess
from expnb.posterior.arms import FloatArray
from expnb.posterior.effect import Effect
from expnb.posterior.fit import (
    Comparison,
    HasCells,
    Quantities,
    assemble,
    comparisons,
    exact_effects,
    fit_exact,
    posterior_of,
    without_posterior,
)
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import Prior
from expnb.stats.cells import Cells
from expnb.stats.checks import Check

Engine = Literal["exact", "pymc"]
ENGINES: tuple[Engine, ...] = ("exact", "pymc")


def fit(
    experiment: Experiment,
    data: Cells | HasCells,
    *,
    engine: Engine = "exact",
    prior: Prior | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
) -> Posterior:
    """Posterior of every treatment effect.

    Parameters
    ----------
    experiment : Experiment
    data : Cells or Cohort
    engine : {"exact", "pymc"}
        Quadrature in milliseconds, or the same likelihood and prior as a PyMC model sampled by nutpie. The second
        compiles each shape once per process, which takes 10 to 60 s, is checked against the first, and says so in
        `Posterior.checks`.
    prior : Prior, optional
        The experiment's own when left out.
    seed : int
        Of the draws; the exact engine draws nothing and records it.
    sampling : Sampling, optional
        Length of the chains; for the pymc engine only.

    Returns
    -------
    Posterior
        Effects of all units first, then by segment.

    Raises
    ------
    NameNotFoundError
        If the engine is unknown.
    PosteriorError
        If `sampling` is given to the exact engine.
    EngineError
        If the pymc engine has no model for a metric, or its diagnostics are too bad to state a probability.

    Warns
    -----
    RuntimeWarning
        If the engines differ by more than 4 Monte Carlo errors.
    """
    if not isinstance(experiment, Experiment) or not isinstance(getattr(data, "cells", data), Cells):
        found = f"({type(experiment).__name__}, {type(data).__name__})"
        raise SourceError(
            f"fit takes (experiment, cohort); it was given {found}. Load the data first: xb.load_cohort(experiment, source)."
        )
    if engine not in ENGINES:
        raise NameNotFoundError("engine", engine, ENGINES)
    if engine == "exact":
        if sampling is not None:
            raise PosteriorError(
                f"sampling is {sampling}, but the exact engine does not sample. Leave it out, or use engine='pymc'."
            )
        return fit_exact(experiment, data, prior=prior, seed=seed)
    return _fit_pymc(
        experiment,
        data if isinstance(data, Cells) else data.cells,
        _Run(prior or experiment.prior, experiment.control, seed, sampling or Sampling()),
    )


@dataclass(frozen=True, slots=True)
class _Run:
    prior: Prior
    control: str
    seed: int
    sampling: Sampling

    def trace(self, pairs: Sequence[Comparison]) -> Trace:
        return sample_pairs(pairs, self.prior, control=self.control, seed=self.seed, sampling=self.sampling)


@dataclass(frozen=True, slots=True)
class _Sampled:
    """An effect, and what was compared with the exact engine."""

    effect: Effect
    gaps: tuple[Gap, ...] = ()


def _fit_pymc(experiment: Experiment, cells: Cells, run: _Run) -> Posterior:
    for metric in experiment.metrics:
        check_kind(metric)
    effects: list[Effect] = []
    checks: list[Check] = []
    for metric in experiment.metrics:
        sampled = list(_effects(experiment, cells, metric, run))
        effects += [one.effect for one in sampled]
        checks += _agreement(metric, [gap for one in sampled for gap in one.gaps])
    posterior = posterior_of(
        experiment, cells, effects, engine="pymc", prior=run.prior, seed=run.seed, versions=versions()
    )
    return replace(posterior, checks=(*posterior.checks, *checks))


def _effects(experiment: Experiment, cells: Cells, metric: Metric, run: _Run) -> Iterator[_Sampled]:
    """Sampled effects on one metric, in the order of `comparisons`."""
    pairs = list(comparisons(experiment, cells, metric))
    exact = exact_effects(experiment, cells, metric, run.prior)
    for segment in dict.fromkeys(pair.segment for pair in pairs):
        group = [(pair, effect) for pair, effect in zip(pairs, exact, strict=True) if pair.segment == segment]
        yield from _segment(group, run)


def _segment(group: Sequence[tuple[Comparison, Effect]], run: _Run) -> Iterator[_Sampled]:
    """Effects of all treatments in one segment: each from its own two arms, P(best) from all arms together."""
    traces = [None if pair.missing else run.trace([pair]) for pair, _ in group]
    complete = all(trace is not None for trace in traces)
    joint = traces[0] if len(group) == 1 else run.trace([pair for pair, _ in group]) if complete else None
    for column, ((pair, exact), trace) in enumerate(zip(group, traces, strict=True), 1):
        yield (
            _Sampled(without_posterior(pair, run.prior, "pymc"))
            if trace is None
            else _sampled(pair, exact, trace, joint, column, run.prior)
        )


def _sampled(pair: Comparison, exact: Effect, trace: Trace, joint: Trace | None, column: int, prior: Prior) -> _Sampled:
    """One effect from its draws; harm without a prior is the exact engine's, because harm is judged without sampling."""
    difference = trace.draws("effect_abs")[..., 0]
    absolute = quantity(difference, pair.cuts)
    relative = None if pair.not_relative else quantity(trace.draws("effect_rel")[..., 0], pair.cuts)
    best = None if joint is None else best_shares(joint.draws("rate"), largest=pair.sign > 0)[..., column]
    made = Quantities(relative, absolute, relative, absolute)
    effect = assemble(pair, made, 0, None if best is None else float(best.mean()), prior_of([pair], prior), "pymc")
    place = f"{pair.variant}, {pair.segment}"
    gaps = _gap(f"P(improvement) of {place}", (pair.sign * difference > 0).astype(float), exact.p_improvement)
    if joint is not trace:
        gaps += _gap(f"P(best) of {place}", best, exact.p_best)
    return _Sampled(replace(effect, p_harm_flat=exact.p_harm_flat), gaps)


def _gap(label: str, happened: FloatArray | None, exact: float | None) -> tuple[Gap, ...]:
    """What to compare, where both engines state it."""
    if happened is None or exact is None:
        return ()
    return (Gap(label, float(happened.mean()), exact, share_ess(happened)),)


def _agreement(metric: Metric, gaps: Sequence[Gap]) -> list[Check]:
    if not gaps:
        return []
    check = agreement(metric.name, gaps)
    if check.outcome != "ok":
        warnings.warn(check.sentence, RuntimeWarning, stacklevel=4)
    return [check]
