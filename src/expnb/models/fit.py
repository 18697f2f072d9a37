"""Cells to a posterior, by the engine that was asked for."""

from __future__ import annotations

from typing import Literal

from expnb.errors import NameNotFoundError, PosteriorError, SourceError
from expnb.models.sampling import Sampling
from expnb.posterior.fit import HasCells, fit_exact
from expnb.posterior.posterior import Posterior
from expnb.spec.experiment import Experiment
from expnb.spec.prior import Prior, as_prior
from expnb.stats.cells import Cells

Engine = Literal["exact", "pymc"]
ENGINES: tuple[Engine, ...] = ("exact", "pymc")


def fit(
    experiment: Experiment,
    data: Cells | HasCells,
    *,
    engine: Engine = "exact",
    prior: Prior | str | None = None,
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
    prior : Prior or str, optional
        On every metric, or the name of its family, such as "flat"; each metric's own, or the experiment's, when left out.
    seed : int
        Of the draws; the exact engine draws nothing and records it.
    sampling : Sampling, optional
        Length of the chains; for the pymc engine only.

    Returns
    -------
    Posterior
        Effects of all units first, then by segment. Segments are partially pooled. Of the pymc engine the main rows are sampled; the rows that explain them are the exact engine's, as their `engine` says.

    Raises
    ------
    NameNotFoundError
        If the engine is unknown.
    PosteriorError
        If `sampling` is given to the exact engine.
    EngineError
        If the pymc engine has no model for a metric (quantiles and ratios), cannot compile it, or its diagnostics are too bad to state a probability.

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
    prior = None if prior is None else as_prior(prior)
    if engine == "exact":
        if sampling is not None:
            raise PosteriorError(
                f"sampling is {sampling}, but the exact engine does not sample. Leave it out, or use engine='pymc'."
            )
        return fit_exact(experiment, data, prior=prior, seed=seed)
    from expnb.models.pymc_fit import Run, fit_pymc  # noqa: PLC0415 - a fit of the exact engine starts without it

    cells = data if isinstance(data, Cells) else data.cells
    return fit_pymc(experiment, cells, Run(prior, experiment.control, seed, sampling or Sampling()))
