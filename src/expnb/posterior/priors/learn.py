"""A prior learnt from past experiments: how often changes do nothing, and how large effects are when they do something.

The true log ratio of an arm is exactly 0 with probability `null_share`, else a Student-t of scale tau; what was observed is a Normal around it, so sampling noise is no part of what is learnt. Both
numbers have a posterior on a grid; the prior that comes out is averaged over it instead of taking its peak, which keeps few past experiments from being trusted like many [1]_.

References
----------
.. [1] Deeley, Lindley (1981), Bayes empirical Bayes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, get_args

import numpy as np

from expnb.errors import PosteriorError, check_choice
from expnb.posterior.effect import FloatArray
from expnb.posterior.priors.mixture import LOG_VARIANCE_STEP, LOG_VARIANCES, mixing_weights
from expnb.spec.metric import MetricKind
from expnb.spec.prior import LARGEST_LEARNT, Prior

if TYPE_CHECKING:
    import pandas as pd

LEAST = 20
"""Experiments from which on a prior is learnt."""

COLUMNS = ("experiment", "metric", "kind", "variant", "log_ratio", "se")

_TYPICAL = 0.05  # scale of the half-Student-t(3) on tau: effects above 10 % are rare, and may be learnt all the same
_SHARES: FloatArray = (np.arange(20) + 0.5) / 20
_LOG_TAUS: FloatArray = np.arange(
    np.log(2.5e-4), np.log(LARGEST_LEARNT), LOG_VARIANCE_STEP / 2
)  # variances fall on one grid
_MOST_SCALES = 5
_BELOW_NOTICE = 1e-6
_ARM_CORRELATION = 0.5  # of two arms that share a control as large as they are


@dataclass(frozen=True, slots=True)
class PastEffects:
    """Past effects that go into one prior, all arrays of shape (effect,).

    Parameters
    ----------
    log_ratio, se : ndarray
        Estimate of ``log(1 + effect_rel)`` and its standard error.
    experiment : ndarray of int
        Number of the experiment that the effect belongs to, from 0.
    about : str
        Such as ``"on metric retention_7"``.
    """

    log_ratio: FloatArray
    se: FloatArray
    experiment: np.ndarray[tuple[int, ...], np.dtype[np.intp]]
    about: str

    @property
    def experiments(self) -> int:
        """How many experiments they come from."""
        return len(np.unique(self.experiment))

    @property
    def weight(self) -> FloatArray:
        """How much each effect counts, shape (effect,): ``1 / (1 + (m - 1) / 4)`` with m effects in its experiment.

        Arms share their control, so their estimates correlate with about 1/2, and what they say about a scale, their squares, with 1/4. The weight makes m of them count as many as
        their design effect says [1]_. In simulations with 2 to 8 arms the posterior of the variance of effects then has the spread that it should have (0.7 to 1.0 of it is used); with full weights
        it is up to 2.6 times too narrow, and one arm of each experiment predicts new ones worse.

        References
        ----------
        .. [1] Kish (1965), Survey Sampling, 8.2; Varin, Reid, Firth (2011), An overview of composite likelihood methods, on weights.
        """
        arms = np.bincount(self.experiment)[self.experiment]
        return np.asarray(1.0 / (1.0 + (arms - 1) * _ARM_CORRELATION**2), dtype=np.float64)

    def take(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> PastEffects:
        """Those rows."""
        return PastEffects(self.log_ratio[rows], self.se[rows], self.experiment[rows], self.about)


def learn_prior(effects: pd.DataFrame, *, metric: str = "", kind: str = "", df: float = 4.0) -> Prior:
    """The prior that past experiments suggest for the next one.

    Parameters
    ----------
    effects : DataFrame
        One row per past experiment, metric and treatment arm: its final result, whatever it was; experiments that were stopped belong in it. Columns `experiment`, `metric`, `kind`, `variant`,
        `log_ratio` (estimate of ``log(1 + effect_rel)``, without a prior) and `se` (its standard error); rows in which an optional column `randomised` is False are left out.
    metric, kind : str
        What the prior is for. The effects on `metric` are used where they come from at least 20 experiments; else those on metrics of `kind` (left out: that of `metric`); else all.
    df : float
        Degrees of freedom of the Student-t of effects that are not zero.

    Returns
    -------
    Prior
        Of family ``"learnt"``, with at most 5 scales.

    Raises
    ------
    PosteriorError
        If a column is missing, a row is given twice, a number cannot be used, or fewer than 20 experiments are left.
    SpecError
        If a kind is unknown, or `df` is not above 0.

    Notes
    -----
    ``log_ratio ~ (1 - null_share) * (StudentT(df, 0, tau) + Normal(0, se)) + null_share * Normal(0, se)`` with ``tau ~ half-StudentT(3, 0, 0.05)`` and ``null_share ~ Uniform(0, 1)``.

    References
    ----------
    .. [1] Azevedo, Deng, Montiel Olea, Rao, Weyl (2020), A/B testing with fat tails.
    .. [2] Deng (2015), Objective Bayesian two sample hypothesis testing for online controlled experiments.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> rng = np.random.default_rng(7)
    >>> truth = np.where(np.arange(60) % 3, 0.0, rng.normal(0, 0.03, 60))
    >>> past = pd.DataFrame({"experiment": np.arange(60), "metric": "signup", "kind": "conversion", "variant": "b",
    ...                      "log_ratio": rng.normal(truth, 0.01), "se": 0.01})
    >>> learn_prior(past, metric="signup").source
    'learnt from 60 past experiments on metric signup'
    """
    return learn(select(effects, metric=metric, kind=kind), df=df)


def select(effects: pd.DataFrame, *, metric: str = "", kind: str = "") -> PastEffects:
    """Past effects that are closest to a metric and come from at least 20 experiments: of its name, else of its kind, else all.

    Parameters
    ----------
    effects, metric, kind
        As in `learn_prior`.

    Raises
    ------
    PosteriorError, SpecError
        As `learn_prior`.
    """
    usable = check_effects(effects)
    found = closest(usable, metric=metric, kind=kind)
    if found is None:
        count = usable["experiment"].nunique()
        raise PosteriorError(
            f"{count} past experiment{' is' if count == 1 else 's are'} usable; a prior is learnt from {LEAST} on. Until then use the default, xb.Prior(), or collect more."
        )
    return found


def closest(usable: pd.DataFrame, *, metric: str = "", kind: str = "") -> PastEffects | None:
    """As `select`, of rows that `check_effects` let pass; None where even all of them come from fewer than 20 experiments."""
    if kind:
        check_choice("metric kind", kind, get_args(MetricKind))
    own_kind = kind or next(iter(usable.loc[usable["metric"] == metric, "kind"]), "")
    choices = (
        (usable["metric"] == metric, f"on metric {metric}"),
        (usable["kind"] == own_kind, f"on metrics of kind {own_kind}"),
        (usable["metric"].notna(), "on all metrics"),
    )
    for where, about in choices:
        chosen = usable[where]
        if chosen["experiment"].nunique() >= LEAST:
            return _arrays(chosen, about)
    return None


def check_effects(effects: pd.DataFrame) -> pd.DataFrame:
    """The rows of `effects` that come from randomised experiments.

    Raises
    ------
    PosteriorError, SpecError
        As `learn_prior`.
    """
    missing = [name for name in COLUMNS if name not in effects.columns]
    if missing:
        raise PosteriorError(
            f"past effects have no column {missing[0]!r}; they need {', '.join(COLUMNS)}. Rename or add it."
        )
    for kind in dict.fromkeys(effects["kind"]):
        check_choice("metric kind", kind, get_args(MetricKind))
    twice = effects.duplicated(["experiment", "metric", "variant"])
    if twice.any():
        first = effects[twice].iloc[0]
        raise PosteriorError(
            f"experiment {first['experiment']!r} has the arm {first['variant']!r} twice on metric {first['metric']!r}; an arm has one final result. Keep its last look."
        )
    for name, ok, rule in (
        ("log_ratio", np.isfinite(_numbers(effects, "log_ratio")), "finite; leave out arms in which nothing converted"),
        ("se", _positive(_numbers(effects, "se")), "finite and above 0; leave out arms without one"),
    ):
        if not ok.all():
            first = effects[~ok].iloc[0]
            raise PosteriorError(
                f"experiment {first['experiment']!r}, arm {first['variant']!r}: {name} is {first[name]}; it must be {rule}."
            )
    if "randomised" not in effects.columns:
        return effects
    return effects[effects["randomised"].ne(False)]


def _numbers(effects: pd.DataFrame, name: str) -> FloatArray:
    try:
        return effects[name].to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError) as error:
        raise PosteriorError(
            f"column {name!r} of the past effects holds {effects[name].dtype}, not numbers. Convert it, such as with pandas.to_numeric."
        ) from error


def _positive(values: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.isfinite(values) & (values > 0)


def _arrays(effects: pd.DataFrame, about: str) -> PastEffects:
    _, experiment = np.unique(effects["experiment"].astype(str).to_numpy(dtype=object), return_inverse=True)
    return PastEffects(_numbers(effects, "log_ratio"), _numbers(effects, "se"), experiment, about)


def learn(past: PastEffects, *, df: float = 4.0) -> Prior:
    """The prior of past effects, however few; its source says from how many."""
    Prior(df=df)  # refuses what is no number of degrees of freedom
    scale_posterior, null_share = _posterior(past, df)
    scales, weights = _few(_LOG_TAUS, scale_posterior)
    count = past.experiments
    return Prior(
        family="learnt",
        df=df,
        scales=scales,
        weights=weights,
        null_share=round(null_share, 4),
        source=f"learnt from {count} past experiment{'s' if count != 1 else ''} {past.about}",
    )


def _posterior(past: PastEffects, df: float) -> tuple[FloatArray, float]:
    """Weight of each tau among effects that are not zero, shape (tau,), and the mean share without effect."""
    null, effect = _likelihoods(past, df)
    weight = past.weight
    log_likelihood = np.stack(
        [weight @ np.log(share * null[:, None] + (1.0 - share) * effect) for share in _SHARES]
    )  # (share, tau)
    log_tau_prior = _LOG_TAUS - 2.0 * np.log1p((np.exp(_LOG_TAUS) / _TYPICAL) ** 2 / 3.0)
    log_joint = log_likelihood + log_tau_prior  # the share is uniform
    joint = np.exp(log_joint - log_joint.max())
    joint /= joint.sum()
    some = (1.0 - _SHARES) @ joint
    return some / some.sum(), float(_SHARES @ joint.sum(axis=1))


def _likelihoods(past: PastEffects, df: float) -> tuple[FloatArray, FloatArray]:
    """Density of every estimate without an effect, shape (effect,), and with one of scale tau, shape (effect, tau); in units of the larger."""
    mixing = mixing_weights(df)
    variances = np.exp(
        2 * _LOG_TAUS[0] + LOG_VARIANCES[0] + LOG_VARIANCE_STEP * np.arange(len(_LOG_TAUS) + len(mixing) - 1)
    )
    mix = np.zeros((len(variances), len(_LOG_TAUS)))
    for column in range(len(_LOG_TAUS)):
        mix[column : column + len(mixing), column] = mixing
    noise = past.se[:, None] ** 2
    log_density = -0.5 * (past.log_ratio[:, None] ** 2 / (noise + variances) + np.log(noise + variances))
    log_null = -0.5 * (past.log_ratio / past.se) ** 2 - np.log(past.se)
    largest = np.maximum(log_density.max(axis=1), log_null)
    return np.exp(log_null - largest), np.exp(log_density - largest[:, None]) @ mix


def _few(log_taus: FloatArray, weights: FloatArray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """A few scales with weights that stand for many: the Gauss quadrature of the weights over log tau.

    It keeps the first nine moments of log tau; the density of an effect, smooth in log tau, follows. Numbers are rounded, so that the same effects give the same prior on every machine.

    References
    ----------
    .. [1] Golub, Welsch (1969), Calculation of Gauss quadrature rules; Gragg, Harrod (1984), on discrete weights.
    """
    seen = weights > _BELOW_NOTICE * weights.max()
    x, mass = log_taus[seen], weights[seen] / weights[seen].sum()
    if len(x) > _MOST_SCALES:
        x, mass = _gauss(x, mass)
    shares = [round(float(share), 6) for share in mass]
    largest = int(np.argmax(shares))
    shares[largest] = round(1.0 - sum(shares[:largest] + shares[largest + 1 :]), 6)
    kept = [(float(f"{np.exp(at):.4g}"), share) for at, share in zip(x, shares, strict=True) if share > 0]
    return tuple(scale for scale, _ in kept), tuple(share for _, share in kept)


def _gauss(x: FloatArray, mass: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Nodes and weights of the quadrature, by Lanczos with full orthogonalisation."""
    basis: Sequence[FloatArray] = [np.sqrt(mass)]
    diagonal: list[float] = []
    beside: list[float] = []
    for step in range(_MOST_SCALES):
        ahead = x * basis[step]
        diagonal.append(float(ahead @ basis[step]))
        for _ in range(2):
            for vector in basis:
                ahead = ahead - (ahead @ vector) * vector
        size = float(np.linalg.norm(ahead))
        if step == _MOST_SCALES - 1 or size < _BELOW_NOTICE:
            break
        beside.append(size)
        basis = [*basis, ahead / size]
    nodes, vectors = np.linalg.eigh(np.diag(diagonal) + np.diag(beside, 1) + np.diag(beside, -1))
    return nodes, vectors[0] ** 2
