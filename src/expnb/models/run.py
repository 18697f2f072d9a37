"""One metric in one segment: its model, and draws from it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, get_args

from expnb.errors import NameNotFoundError, PosteriorError
from expnb.models import arviz_bridge
from expnb.models.question import (
    Family,
    Question,
    arms_question,
    check_kind,
    histogram_question,
    payers_question,
    segments_question,
)
from expnb.models.sampler import Diagnostics, draw
from expnb.models.sampling import Sampling
from expnb.models.summary import hdi, share_ess
from expnb.posterior.evidence import selections
from expnb.posterior.exact.arms import FloatArray
from expnb.posterior.fit import Comparison, HasCells, comparisons
from expnb.posterior.table import Table
from expnb.spec.experiment import Experiment
from expnb.spec.prior import Prior, as_prior
from expnb.stats.cells import ALL, Cells
from expnb.stats.checks import Check

if TYPE_CHECKING:
    import pandas as pd
    import pymc as pm

_SUMMARY = (
    "mu",
    "tau",
    "effect_pooled",
    "effect_rel",
    "effect_abs",
    "effect_share_rel",
    "effect_per_payer_rel",
    "overdispersion",
    "p_none",
)


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
    coords : mapping of str to tuple of str
        Names by coordinate.
    checks : tuple of Check
        What the data say about the model.
    """

    raw: arviz_bridge.Container
    metric: str
    segment: str
    variants: tuple[str, ...]
    prior: str
    seed: int
    diagnostics: Diagnostics
    coords: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()

    def draws(self, name: str) -> FloatArray:
        """Draws of `rate` or `mean` (last axis: variant), `log_ratio`, `effect_rel` or `effect_abs` (last axis: treatment or, pooled, segment) and the model's other variables, shape (chain, draw, …)."""
        return arviz_bridge.draws(self.raw, name)

    def to_arviz(self) -> arviz_bridge.Container:
        """The draws for ArviZ, arms by name: an InferenceData with ArviZ 0.23, a DataTree with ArviZ 1."""
        about: dict[str, str | int] = {
            "metric": self.metric,
            "segment": self.segment,
            "prior": self.prior,
            "seed": self.seed,
        }
        return arviz_bridge.labelled(self.raw, self.coords, about)

    def summary(self) -> pd.DataFrame:
        """One row per quantity and treatment (or segment): mean, 95 % HDI and, of effects, P(above 0), with the effective number of draws behind it."""
        import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

        rows = []
        for name in _SUMMARY:
            if name not in arviz_bridge.names(self.raw):
                continue
            values = self.draws(name)
            columns = values.reshape(*values.shape[:2], -1)
            for number in range(columns.shape[2]):
                own = columns[..., number]
                low, high = hdi(own.ravel())
                above = (own > 0).astype(float)
                sided = name.startswith(("effect", "mu"))
                rows.append(
                    {
                        "quantity": name,
                        "of": self._label(columns.shape[2], number) if values.ndim > 2 else "",
                        "mean": own.mean(),
                        "hdi_low": low,
                        "hdi_high": high,
                        "p_above_0": above.mean() if sided else float("nan"),
                        "ess": share_ess(above) if sided else float("nan"),
                    }
                )
        return pd.DataFrame(rows)

    def _label(self, size: int, number: int) -> str:
        fitting = [labels for labels in self.coords.values() if len(labels) == size]
        return fitting[-1][number]

    def __repr__(self) -> str:
        told = self.diagnostics
        return (
            f"Trace of {self.metric}, {' and '.join(self.variants[1:])} against {self.variants[0]}, {self.segment}: prior {self.prior}, "
            f"r-hat {told.rhat:.3f}, ESS {told.ess_bulk:,.0f} (bulk) and {told.ess_tail:,.0f} (tail), {told.divergences} divergences"
        )

    def _repr_html_(self) -> str:
        from html import escape  # noqa: PLC0415

        return f"{escape(repr(self))}{self.summary().to_html(index=False, float_format='{:.4g}'.format)}"


def build(
    experiment: Experiment,
    data: Cells | HasCells,
    metric: str,
    *,
    treatments: Sequence[str] | None = None,
    segment: str = ALL,
    by: str = "",
    family: Family | None = None,
    prior: Prior | str | None = None,
) -> pm.Model:
    """The PyMC model of a metric, to read and to extend.

    Parameters
    ----------
    experiment : Experiment
    data : Cells or Cohort
    metric : str
    treatments : sequence of str, optional
        All when left out.
    segment : str
        Such as ``"country=DE"``; all units when left out.
    by : str
        Such as ``"country"``: one treatment in all segments of that name, partially pooled.
    family : {"negative_binomial", "hurdle"}, optional
        Another likelihood than the exact engine's, to look at: counts that come in bursts, or revenue as share of payers times LogNormal payments.
    prior : Prior or str, optional
        Or the name of its family, such as "flat"; the metric's own, or the experiment's, when left out.

    Returns
    -------
    pymc.Model
        See `conversion.conversion_model`, `mean.mean_model`, `count.count_model`, `count.negative_binomial_model`, `hurdle.hurdle_model` and `segments.segments_model`.

    Raises
    ------
    EngineError, PosteriorError, NameNotFoundError
        If the metric has no such model, an arm has too few units, or a name is unknown.

    Warns
    -----
    RuntimeWarning
        If payments are not LogNormal, where that is the model.
    """
    return _question(experiment, data, metric, treatments, segment, by, family, prior).model()


def sample(  # noqa: PLR0913 - options of one verb
    experiment: Experiment,
    data: Cells | HasCells,
    metric: str,
    *,
    treatments: Sequence[str] | None = None,
    segment: str = ALL,
    by: str = "",
    family: Family | None = None,
    prior: Prior | str | None = None,
    seed: int = 0,
    sampling: Sampling | None = None,
) -> Trace:
    """Draws from the model that `build` hands out.

    Parameters
    ----------
    experiment, data, metric, treatments, segment, by, family, prior
        As in `build`.
    seed : int
        The seed of a posterior gives the very draws behind it: of an effect with its one treatment in `treatments`, of
        `p_best` with all.
    sampling : Sampling, optional

    Raises
    ------
    EngineError
        If the model cannot be compiled, or the diagnostics are too bad to state a probability.
    """
    asked = _question(experiment, data, metric, treatments, segment, by, family, prior)
    return answer(asked, seed=seed, sampling=sampling or Sampling())


def answer(asked: Question, *, seed: int, sampling: Sampling) -> Trace:
    """Draws for one question."""
    drawn = draw(
        asked.shape,
        asked.numbered,
        asked.numbers,
        asked.monitored,
        seed=own_seed(seed, asked.metric, asked.segment, *asked.variants),
        sampling=sampling,
        about=asked.about,
    )
    return Trace(
        drawn.raw,
        asked.metric,
        asked.segment,
        asked.variants,
        asked.prior.id,
        seed,
        drawn.diagnostics,
        asked.coords,
        asked.checks,
    )


def own_seed(seed: int, *names: str) -> int:
    """A seed for one run: the same for the same names, unrelated to that of other names."""
    return int.from_bytes(sha256("\t".join([str(seed), *names]).encode()).digest()[:4], "big")


def _question(
    experiment: Experiment,
    data: Cells | HasCells,
    metric: str,
    treatments: Sequence[str] | None,
    segment: str,
    by: str,
    family: Family | None,
    prior: Prior | str | None,
) -> Question:
    asked, cells = experiment.metric(metric), data if isinstance(data, Cells) else data.cells
    check_kind(asked)
    if family is not None and family not in get_args(Family):
        raise NameNotFoundError("family", family, get_args(Family))
    for name in treatments or ():
        if name not in experiment.treatments:
            raise NameNotFoundError("treatment", name, experiment.treatments)
    wanted = list(treatments or experiment.treatments)
    stated = experiment.prior_on(metric) if prior is None else as_prior(prior)
    known = list(comparisons(experiment, cells, asked))
    if by:
        return _pooled(known, by, wanted, family, experiment, stated)
    table, rows = _rows(known, segment, wanted)
    if family is None:
        return arms_question(table, rows, experiment.control, stated)
    where = dict(selections(experiment, cells))[segment]
    verb = payers_question if family == "hurdle" else histogram_question
    pairs = [table.pairs[row] for row in rows]
    made = verb(pairs, cells, cells.n >= 0 if where is None else where, experiment.control, stated)
    for check in made.checks:
        if check.outcome != "ok":
            warnings.warn(check.sentence, RuntimeWarning, stacklevel=4)
    return made


def _rows(known: Sequence[Comparison], segment: str, wanted: Sequence[str]) -> tuple[Table, list[int]]:
    """All comparisons of a segment, and the rows of some treatments."""
    group = [pair for pair in known if pair.segment == segment]
    if not group:
        raise NameNotFoundError("segment", segment, list(dict.fromkeys(pair.segment for pair in known)))
    table = Table(group)
    rows = [row for row, pair in enumerate(group) if pair.variant in wanted]
    for row in rows:
        if table.missing[row]:
            raise PosteriorError(
                f"metric {group[row].metric.name!r}, {group[row].variant} in {segment}: {table.missing[row]}. Wait for more units, or leave this treatment out."
            )
    return table, rows


def _pooled(
    known: Sequence[Comparison],
    by: str,
    wanted: Sequence[str],
    family: Family | None,
    experiment: Experiment,
    prior: Prior,
) -> Question:
    if by not in experiment.segments:
        raise NameNotFoundError("segment column", by, list(experiment.segments))
    if family is not None:
        raise PosteriorError(
            f"by is {by!r} and family is {family!r}; segments are pooled without a family. Leave it out."
        )
    if len(wanted) > 1:
        raise PosteriorError(
            f"segments are pooled for one treatment at a time, and {len(wanted)} are asked for. Write treatments=[{wanted[0]!r}]."
        )
    pairs = [pair for pair in known if pair.segment.startswith(f"{by}=") and pair.variant == wanted[0]]
    if not pairs:
        raise PosteriorError(
            f"no segment of {by!r} has {experiment.min_cell} units in every arm. Wait for more units, or leave out `by`."
        )
    return segments_question(pairs, by, experiment.control, prior)
