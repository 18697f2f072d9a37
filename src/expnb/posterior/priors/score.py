"""How well priors predict experiments that they have not seen.

The truth of a real experiment is never known, so each estimate is split: with Normal noise z of its own standard error, ``estimate + z`` and ``estimate - z`` are independent, as if the experiment
had been run twice with half the units [1]_. The first half plays the experiment, the second its replication: winners are picked and shrunk by the first, and judged by the second.

References
----------
.. [1] Leiner, Duan, Wasserman, Ramdas (2023), Data fission: splitting a single data point.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from expnb.errors import NameNotFoundError, PosteriorError
from expnb.posterior.effect import FloatArray
from expnb.posterior.priors.learn import PastEffects, learn, select
from expnb.posterior.priors.mixture import Mixture, shrink
from expnb.spec.prior import FLAT, Prior

if TYPE_CHECKING:
    import pandas as pd

WINNER = 0.95
"""P(effect > 0) without a prior, or P(effect < 0), from which on an arm counts as a winner here."""

_COVERAGE = 0.95
_LEAST_WINNERS = 20  # draws; fewer say nothing
_LEARNT = "learnt from the others"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreRow:
    """How one prior did.

    Parameters
    ----------
    prior : str
    log_density : float
        Mean over arms of the log density that the prior gave to the estimate before it was seen; natural logarithm. Under the flat prior the rates of both arms are uniform, whose
        log ratio is a Laplace(0, 1).
    replication : float
        Mean log density that the posterior of the first half gave to the second.
    coverage : float in [0, 1]
        Share of winners whose replication lies in the 95 % predictive interval; None with too few winners.
    exaggeration : float
        Sum of the posterior means of winners, by the sum of their replications: 1 where winners keep what they promise; None with too few winners, or where they replicate to nothing.
    """

    prior: str
    log_density: float
    replication: float
    coverage: float | None
    exaggeration: float | None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PriorScore:
    """Priors on held-out experiments, best first.

    Parameters
    ----------
    rows : tuple of ScoreRow
        One per prior; the flat one is what raw effects do.
    experiments, arms : int
    winners : float
        Arms per split whose effect looks like more than noise without a prior; the same for all priors.
    """

    rows: tuple[ScoreRow, ...]
    experiments: int
    arms: int
    winners: float

    def row(self, prior: str) -> ScoreRow:
        """The row of a prior, by its id.

        Raises
        ------
        NameNotFoundError
            If it was not scored.
        """
        for row in self.rows:
            if row.prior == prior:
                return row
        raise NameNotFoundError("prior", prior, [row.prior for row in self.rows])

    def table(self) -> pd.DataFrame:
        """One row per prior; columns as in `ScoreRow`."""
        import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

        frame = pd.DataFrame([asdict(row) for row in self.rows], columns=[field.name for field in fields(ScoreRow)])
        return frame.astype({name: "float64" for name in frame.columns if name != "prior"})

    @property
    def title(self) -> str:
        """What was scored."""
        return f"priors on {self.arms:,} arms of {self.experiments:,} held-out experiments, {self.winners:.0f} winners"

    def _cells(self) -> list[tuple[str, ...]]:
        head = (
            "prior",
            "log density per arm",
            "of the replication",
            f"coverage of winners ({_COVERAGE:.0%})".replace("%", " %"),
            "exaggeration of winners",
        )
        return [
            head,
            *(
                (
                    row.prior,
                    f"{row.log_density:.3f}",
                    f"{row.replication:.3f}",
                    "–" if row.coverage is None else f"{100 * row.coverage:.1f} %",
                    "–" if row.exaggeration is None else f"{row.exaggeration:.2f}x",
                )
                for row in self.rows
            ),
        ]

    def __repr__(self) -> str:
        table = self._cells()
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
        lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in table]
        return "\n".join([self.title, *(f"  {line.rstrip()}" for line in lines)])

    def _repr_html_(self) -> str:
        head, *body = self._cells()

        def cells(tag: str, texts: Iterable[str]) -> str:
            return "".join(f"<{tag} style='text-align:left'>{html.escape(text)}</{tag}>" for text in texts)

        rows = "".join(f"<tr>{cells('td', line)}</tr>" for line in body)
        caption = (
            f"<caption style='text-align:left;font-weight:bold;white-space:nowrap'>{html.escape(self.title)}</caption>"
        )
        return f"<table>{caption}<tr>{cells('th', head)}</tr>{rows}</table>"


def score_prior(
    effects: pd.DataFrame,
    prior: Prior | None = None,
    *,
    metric: str = "",
    kind: str = "",
    folds: int = 5,
    splits: int = 10,
    seed: int = 0,
) -> PriorScore:
    """How a prior does on held-out experiments, beside the default and the flat one.

    Parameters
    ----------
    effects, metric, kind
        As in `learn_prior`.
    prior : Prior, optional
        One that was made without these effects. Left out, a prior is learnt `folds` times from all other experiments and scored on the part left out; arms of one experiment stay together.
    folds : int
        At least 2.
    splits : int
        How often each estimate is split into halves; more make the figures of winners steadier.
    seed : int
        Of the folds and the splits.

    Returns
    -------
    PriorScore

    Raises
    ------
    PosteriorError, SpecError
        As `learn_prior`; also if there are fewer than 2 folds or no split.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(7)
    >>> past = pd.DataFrame({"experiment": np.arange(300), "metric": "signup", "kind": "conversion", "variant": "b",
    ...                      "log_ratio": rng.normal(0, 0.03, 300), "se": 0.02})
    >>> past["log_ratio"] += rng.normal(0, 0.02, 300)
    >>> score_prior(past).rows[0].prior
    'learnt from the others'
    """
    if folds < 2 or splits < 1:
        raise PosteriorError(
            f"folds is {folds} and splits is {splits}; it takes at least 2 folds and 1 split. Write folds=5, splits=10."
        )
    past = select(effects, metric=metric, kind=kind)
    rng = np.random.default_rng(seed)
    groups = {
        (_LEARNT if prior is None else prior.id): list(_held_out(past, folds, rng))
        if prior is None
        else _whole(past, prior),
        Prior().id: _whole(past, Prior()),
        FLAT.id: _whole(past, FLAT),
    }
    halves = [past.se * z for z in rng.normal(size=(splits, len(past.se)))]
    rows = [_row(name, past, parts, halves) for name, parts in groups.items()]
    winners = float(np.mean([_winners(past, half).sum() for half in halves]))
    return PriorScore(
        rows=tuple(sorted(rows, key=lambda row: -row.log_density)),
        experiments=past.experiments,
        arms=len(past.se),
        winners=winners,
    )


_Parts = Sequence[tuple[Prior, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]]


def _whole(past: PastEffects, prior: Prior) -> _Parts:
    return [(prior, np.ones(len(past.se), dtype=bool))]


def _held_out(
    past: PastEffects, folds: int, rng: np.random.Generator
) -> Iterator[tuple[Prior, np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]]:
    """Priors, each with the effects of the experiments that it was not learnt from."""
    fold = rng.permutation(past.experiments) % min(folds, past.experiments)
    for number in range(min(folds, past.experiments)):
        out = fold[past.experiment] == number
        yield learn(past.take(~out)), out


def _winners(past: PastEffects, noise: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    from scipy.special import ndtri  # noqa: PLC0415 - 0.5 s

    certain: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = (
        np.abs(past.log_ratio + noise) > ndtri(WINNER) * math.sqrt(2) * past.se
    )
    return certain


def _row(name: str, past: PastEffects, parts: _Parts, halves: Sequence[FloatArray]) -> ScoreRow:
    density = np.empty(len(past.se))
    for prior, rows in parts:
        density[rows] = log_predictive(prior, past.log_ratio[rows], past.se[rows])
    replication: list[float] = []
    inside: list[bool] = []
    promised = kept = 0.0
    for noise in halves:
        wins = _winners(past, noise)
        for prior, rows in parts:
            first, second = (past.log_ratio + noise)[rows], (past.log_ratio - noise)[rows]
            se = math.sqrt(2) * past.se[rows]
            posterior = shrink(prior, first, se)
            predicted = posterior.blurred(se)
            replication += predicted.log_density(second).tolist()
            won = wins[rows]
            if won.any():
                picked = _take(predicted, won)
                inside += (np.abs(picked.cdf(second[won]) - 0.5) <= 0.5 * _COVERAGE).tolist()
                side = np.sign(first[won])
                promised += float(side @ posterior.mean[won])
                kept += float(side @ second[won])
    enough = len(inside) >= _LEAST_WINNERS
    return ScoreRow(
        prior=name,
        log_density=float(density.mean()),
        replication=float(np.mean(replication)),
        coverage=float(np.mean(inside)) if enough else None,
        exaggeration=promised / kept if enough and kept > 0 else None,
    )


def _take(mixture: Mixture, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Mixture:
    return Mixture(mixture.weight[rows], mixture.centre[rows], mixture.spread[rows], mixture.log_evidence[rows])


def log_predictive(prior: Prior, log_ratio: FloatArray, se: FloatArray) -> FloatArray:
    """Log density of estimates before they are seen, shape (row,).

    Under the flat prior both rates are uniform; the log of the ratio of two uniform numbers is a Laplace(0, 1), whose sum with Normal noise has a closed form.

    References
    ----------
    .. [1] Reed, Jorgensen (2004), The double Pareto-lognormal distribution, on the Normal-Laplace.
    """
    if prior.family != "flat":
        return shrink(prior, log_ratio, se).log_evidence
    from scipy.special import log_ndtr  # noqa: PLC0415 - 0.5 s

    z = log_ratio / se
    sides = np.logaddexp(-log_ratio + log_ndtr(z - se), log_ratio + log_ndtr(-z - se))
    density: FloatArray = sides + 0.5 * se**2 - math.log(2)
    return density
