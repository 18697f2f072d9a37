"""What is kept of an experiment for the prior of later ones: one log ratio and standard error per metric and arm."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from expnb.posterior.effect import Effect
from expnb.posterior.frequentist import Z95
from expnb.posterior.posterior import Posterior
from expnb.posterior.priors.learn import COLUMNS, check_effects, closest, learn
from expnb.spec.experiment import Experiment
from expnb.spec.metric import SHARES, Metric
from expnb.spec.prior import Prior
from expnb.stats.cells import ALL

if TYPE_CHECKING:
    import pandas as pd

Record = Mapping[str, str | float]


def records(posterior: Posterior) -> Iterator[Record]:
    """What the ledger keeps of every effect on all units that has a log ratio: metric, kind, variant, log ratio and its standard error."""
    for effect in posterior.main:
        estimate = log_ratio(effect) if effect.segment == ALL else None
        if estimate is not None:
            yield {
                "metric": effect.metric,
                "kind": effect.kind,
                "variant": effect.variant,
                "log_ratio": estimate[0],
                "se": estimate[1],
            }


def log_ratio(effect: Effect) -> tuple[float, float] | None:
    """Raw ``log(1 + effect_rel)`` and its standard error by the delta method; None where an arm may not be shown or has no log.

    The variance of the difference is that of the 95 % interval. It is split between the arms as for independent units: by ``p (1 - p) / n`` for shares, and
    by ``mean / n`` for means, which is exact for counts and sums of rare values, and off by a share of the effect elsewhere.

    References
    ----------
    .. [1] Deng, Knoblich, Lu (2018), Applying the delta method in metric analytics.
    """
    if effect.effect_rel is None or effect.effect_rel <= -1 or effect.ci_low is None or effect.ci_high is None:
        return None
    if not effect.mean_control or not effect.mean_treatment or not effect.n_control or not effect.n_treatment:
        return None
    variance = ((effect.ci_high - effect.ci_low) / (2 * Z95)) ** 2
    spread_c, spread_t = (
        (mean * (1 - mean) if effect.kind in SHARES else mean) / n
        for mean, n in ((effect.mean_control, effect.n_control), (effect.mean_treatment, effect.n_treatment))
    )
    if not variance > 0 or not spread_c + spread_t > 0:
        return None
    both = (spread_c / effect.mean_control**2 + spread_t / effect.mean_treatment**2) / (spread_c + spread_t)
    return math.log1p(effect.effect_rel), math.sqrt(variance * both)


def frame(looks: Iterable[tuple[str, bool, Iterable[Record]]]) -> pd.DataFrame:
    """Records as the table that `learn_prior` takes.

    Parameters
    ----------
    looks : iterable of (experiment, randomised, records)
        One per experiment: its newest look.
    """
    import pandas as pd  # noqa: PLC0415 - 1.5 s, only when a frame is asked for

    rows = [
        {"experiment": name, **record, "randomised": randomised} for name, randomised, kept in looks for record in kept
    ]
    table = pd.DataFrame(rows, columns=[*COLUMNS, "randomised"])
    return table.astype({"log_ratio": "float64", "se": "float64", "randomised": "bool"})


def learnt_or_default(effects: pd.DataFrame, metric: str, kind: str) -> Prior:
    """The prior that past effects suggest for a metric; the default where they come from fewer than 20 experiments."""
    past = closest(check_effects(effects), metric=metric, kind=kind)
    return Prior() if past is None else learn(past)


def with_priors(experiment: Experiment, priors: Mapping[str, Prior]) -> Experiment:
    """The experiment under priors by metric; a metric that names its own keeps it.

    The goal's prior becomes that of the experiment; metrics with another one carry it themselves.
    """
    goal = priors.get(experiment.goal.name, experiment.prior)

    def under(metric: Metric) -> Metric:
        own = priors.get(metric.name, experiment.prior)
        return metric if metric.prior or own == goal else replace(metric, prior=own)

    return replace(experiment, prior=goal, metrics=tuple(under(metric) for metric in experiment.metrics))
