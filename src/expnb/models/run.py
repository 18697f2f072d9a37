"""One metric in one segment: its model, and draws from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

import numpy as np

from expnb.errors import EngineError, NameNotFoundError, PosteriorError
from expnb.models import arviz_bridge
from expnb.models.conversion import Counts, conversion_data, conversion_model
from expnb.models.sampler import Diagnostics, draw
from expnb.models.sampling import Sampling
from expnb.posterior.arms import FloatArray
from expnb.posterior.fit import Comparison, HasCells, comparisons
from expnb.spec.experiment import Experiment
from expnb.spec.metric import Metric
from expnb.spec.prior import FLAT, Prior
from expnb.stats.cells import ALL, Cells

if TYPE_CHECKING:
    import pymc as pm


@dataclass(frozen=True, slots=True)
class Trace:
    """Draws of one metric in one segment that passed the diagnostics.

    Parameters
    ----------
    raw : InferenceData or DataTree
        What nutpie gave back; its arms are numbered.
    variants : tuple of str
        Control first.
    prior : str
    seed : int
        As given; the sampler's own seed also depends on metric, segment and arms.
    diagnostics : Diagnostics
    """

    raw: arviz_bridge.Container
    metric: str
    segment: str
    variants: tuple[str, ...]
    prior: str
    seed: int
    diagnostics: Diagnostics

    def draws(self, name: str) -> FloatArray:
        """Draws of `rate` (last axis: variant), `log_ratio`, `effect_rel` or `effect_abs` (last axis: treatment), shape (chain, draw, …)."""
        return arviz_bridge.draws(self.raw, name)

    def to_arviz(self) -> arviz_bridge.Container:
        """The draws for ArviZ, arms by name: an InferenceData with ArviZ 0.23, a DataTree with ArviZ 1."""
        about: dict[str, str | int] = {
            "metric": self.metric,
            "segment": self.segment,
            "prior": self.prior,
            "seed": self.seed,
        }
        return arviz_bridge.labelled(self.raw, {"variant": self.variants, "treatment": self.variants[1:]}, about)


def build(
    experiment: Experiment,
    data: Cells | HasCells,
    metric: str,
    *,
    treatments: Sequence[str] | None = None,
    segment: str = ALL,
    prior: Prior | None = None,
) -> pm.Model:
    """The PyMC model of a metric, to read and to extend.

    Parameters
    ----------
    experiment : Experiment
    data : Cells or Cohort
    metric : str
        Name of a conversion.
    treatments : sequence of str, optional
        All when left out. Several share one control in one joint model: `p_best` is stated from it. An effect in a
        `Posterior` is stated from the model of control and its own treatment alone, as in the exact engine, so that
        the result of another treatment does not move it.
    segment : str
        As in `Effect.segment`, such as ``"country=DE"``.
    prior : Prior, optional
        The experiment's own when left out.

    Returns
    -------
    pymc.Model
        See `conversion.conversion_model`.

    Raises
    ------
    EngineError, PosteriorError, NameNotFoundError
        If the metric has no such model, an arm has too few units, or a name is unknown.
    """
    pairs = _pairs(experiment, data, metric, treatments, segment)
    return conversion_model(counts_of(pairs, experiment.control), prior_of(pairs, prior or experiment.prior))


def sample(
    experiment: Experiment,
    data: Cells | HasCells,
    metric: str,
    *,
    treatments: Sequence[str] | None = None,
    segment: str = ALL,
    prior: Prior | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
) -> Trace:
    """Draws from the model that `build` hands out.

    Parameters
    ----------
    experiment, data, metric, treatments, segment, prior
        As in `build`.
    seed : int
        The seed of a posterior gives the very draws behind it: of an effect with its one treatment in `treatments`, of
        `p_best` with all.
    sampling : Sampling, optional

    Raises
    ------
    EngineError
        If the diagnostics are too bad to state a probability.
    """
    pairs = _pairs(experiment, data, metric, treatments, segment)
    return sample_pairs(
        pairs, prior or experiment.prior, control=experiment.control, seed=seed, sampling=sampling or Sampling()
    )


def sample_pairs(pairs: Sequence[Comparison], prior: Prior, *, control: str, seed: int, sampling: Sampling) -> Trace:
    """Draws for comparisons of one metric in one segment, all in one model."""
    prior = prior_of(pairs, prior)
    counts = counts_of(pairs, control)
    metric, segment = pairs[0].metric.name, pairs[0].segment
    numbered = Counts(
        [str(arm) for arm in range(len(counts.variants))], counts.units, counts.conversions
    )  # labels are compiled in, names of arms are not
    drawn = draw(
        ("conversion", prior.family, len(counts.variants)),
        lambda: conversion_model(numbered, prior),
        conversion_data(counts, prior),
        {"rate": len(counts.variants), "effect_rel": len(pairs), "effect_abs": len(pairs)},
        seed=own_seed(seed, metric, segment, *counts.variants),
        sampling=sampling,
        about=f"metric {metric!r}, {' against '.join([' and '.join(counts.variants[1:]), control])}, {segment}",
    )
    return Trace(drawn.raw, metric, segment, tuple(counts.variants), prior.id, seed, drawn.diagnostics)


def check_kind(metric: Metric) -> None:
    """Refuse a metric for which there is no PyMC model.

    Raises
    ------
    EngineError
    """
    if metric.kind != "conversion":
        raise EngineError(
            f"metric {metric.name!r} is a {metric.kind}; the pymc engine knows conversion so far. Use engine='exact'."
        )


def prior_of(pairs: Sequence[Comparison], prior: Prior) -> Prior:
    """The prior that holds: the arms' own where no relative effect exists."""
    return FLAT if any(pair.not_relative for pair in pairs) else prior


def counts_of(pairs: Sequence[Comparison], control: str) -> Counts:
    """Units and conversions of the arms of some comparisons."""
    arms = [pairs[0].control, *(pair.treatment for pair in pairs)]
    units = np.array([arm.n for arm in arms], dtype=np.float64)
    return Counts(
        (control, *(pair.variant for pair in pairs)),
        units,
        np.array([round(arm.mean * arm.n) for arm in arms], dtype=np.float64),
    )


def own_seed(seed: int, *names: str) -> int:
    """A seed for one run: the same for the same names, unrelated to that of other names."""
    return int.from_bytes(sha256("\t".join([str(seed), *names]).encode()).digest()[:4], "big")


def _pairs(
    experiment: Experiment, data: Cells | HasCells, metric: str, treatments: Sequence[str] | None, segment: str
) -> list[Comparison]:
    asked = experiment.metric(metric)
    check_kind(asked)
    for name in treatments or ():
        if name not in experiment.treatments:
            raise NameNotFoundError("treatment", name, experiment.treatments)
    known = list(comparisons(experiment, data if isinstance(data, Cells) else data.cells, asked))
    pairs = [
        pair for pair in known if pair.segment == segment and pair.variant in (treatments or experiment.treatments)
    ]
    if not pairs:
        raise NameNotFoundError("segment", segment, list(dict.fromkeys(pair.segment for pair in known)))
    for pair in pairs:
        if pair.missing:
            raise PosteriorError(
                f"metric {metric!r}, {pair.variant} in {segment}: {pair.missing}. Wait for more units, or leave this treatment out."
            )
    return pairs
