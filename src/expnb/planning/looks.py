"""What having looked so often means: how often a treatment without any effect would have met the ship rule by now."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.fft import irfft, next_fast_len, rfft
from scipy.special import ndtr, ndtri

from expnb.planning.belief import FloatArray
from expnb.planning.goal import GoalRule
from expnb.posterior.posterior import Posterior
from expnb.posterior.priors.past import log_ratio
from expnb.spec.experiment import Experiment
from expnb.stats.cells import ALL

CONTRAST = 0.95
"""P(improvement), without a prior, of the rule that looks are contrasted with."""

_REACH, _STEPS = 6.5, 2_048  # of the grid: standard deviations at the last look on each side, and points
_TAIL = 6.5  # standard deviations of one step
_MOST = 60  # verdicts beyond which the earlier ones are thinned out


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseShips:
    """Treatments that shipping would be a mistake for, and how many of them met a rule at one of several looks.

    Parameters
    ----------
    verdicts : int
        Looks that judged the goal.
    share : float in [0, 1]
        Met the ship rule of the policy at one of them.
    share_flat : float in [0, 1]
        Had P(improvement), or under non-inferiority P(within the margin), of at least 0.95 without a prior at one of them.
    """

    verdicts: int
    share: float
    share_flat: float


def looks_in_words(experiment: Experiment, posterior: Posterior, looks: int) -> str:
    """What so many looks mean under the prior in force, in one sentence; never raises.

    Parameters
    ----------
    looks : int
        At this experiment so far, this one included.

    Notes
    -----
    See `false_ships`.
    """
    policy, goal = experiment.policy, experiment.goal.name
    found = false_ships(experiment, posterior, looks)
    if found is None:
        return f"Look {looks}: how often a treatment without any effect would have met the ship rule is not known, because {goal} has no log ratio or no relative rope."
    if not found.verdicts:
        return f"Look {looks}: the goal {goal} was not judged yet, which takes {policy.min_days} days of data; looks before that cannot ship anything."
    who = "without any effect" if policy.aim == "superiority" else f"as bad as the margin of {goal}"
    if found.verdicts == looks:
        those = "this look" if looks == 1 else f"one of {looks} such looks"
        number = f"Look {looks}"
    else:
        those = "then" if found.verdicts == 1 else "one of those times"
        times = "once" if found.verdicts == 1 else f"{found.verdicts} times"
        number = f"Look {looks}; the goal is judged every {policy.verdict_days} days, so far {times}"
    at = "" if those == "then" else "at "
    return f"{number}: of treatments {who}, {_percent(found.share)} would have met the ship rule {at}{those} (under a flat prior at {CONTRAST:g} it would be {_percent(found.share_flat)})."


def false_ships(experiment: Experiment, posterior: Posterior, looks: int) -> FalseShips | None:
    """How often a treatment without any effect would have met the ship rule at one of the looks so far; exact, without random numbers.

    Parameters
    ----------
    looks : int
        At this experiment so far, this one included.

    Returns
    -------
    FalseShips or None
        None where the goal has no log ratio or no relative rope. Of non-inferiority: of treatments that are as bad as the margin.

    Notes
    -----
    The model of looking: each verdict on the goal adds the same amount of information, up to the present standard error of the log ratio. Where days are counted, a verdict stands until `verdict_days` more are complete, so there is
    one at `min_days` and one per whole multiple of `verdict_days` after it, however often somebody looks. Of several treatments the one with the most information counts; more than 60 verdicts count as 60.
    The log ratio times its information is then a random walk, whose first passage over the boundary of the rule is followed from look to look [1]_.

    References
    ----------
    .. [1] Armitage, McPherson and Rowe (1969), Repeated significance tests on accumulating data, JRSS A 132, 235-244.
    """
    goals = [one for one in posterior.main if one.metric == experiment.goal.name and one.segment == ALL]
    bells = [bell for bell in map(log_ratio, goals) if bell is not None]
    rule = GoalRule.of(experiment)
    if rule is None or not bells:
        return None
    verdicts = _verdicts(experiment, posterior, looks)
    if not verdicts:
        return FalseShips(verdicts=0, share=0.0, share_flat=0.0)
    steps = min(verdicts, _MOST)
    error = min(error for _, error in bells) / np.sqrt(np.arange(1, steps + 1) / steps)
    sign = 1.0 if rule.up else -1.0
    bound = sign * (rule.cut(error) - rule.worst) / error
    return FalseShips(
        verdicts=verdicts, share=ever_above(bound), share_flat=ever_above(np.full(steps, ndtri(CONTRAST)))
    )


def _verdicts(experiment: Experiment, posterior: Posterior, looks: int) -> int:
    """Looks at which the goal was judged, at most."""
    policy = experiment.policy
    if posterior.first_day is None or posterior.last_day is None or policy.min_days == 0:
        return looks
    days = (posterior.last_day - posterior.first_day).days + 1
    if days < policy.min_days:
        return 0
    return min(looks, 1 + days // policy.verdict_days - policy.min_days // policy.verdict_days)


def ever_above(upper: FloatArray, lower: FloatArray | None = None) -> float:
    """P(a standardised sum of independent Normals is beyond a bound at any look), by following its density from look to look.

    Parameters
    ----------
    upper : ndarray, shape (look,)
        Standard errors above which it counts at each of evenly spaced looks; ``inf`` where it cannot.
    lower : ndarray, shape (look,), optional
        Likewise, below which it counts.

    Returns
    -------
    float in [0, 1]
        Its error is below 1e-4 at up to 60 looks.

    References
    ----------
    .. [1] Armitage, McPherson and Rowe (1969), section 3; Jennison and Turnbull (2000), Group Sequential Methods, chapter 19.
    """
    looks = len(upper)
    root = np.sqrt(np.arange(1, looks + 1))  # the sum has a standard deviation of 1 per look
    reach = _REACH * root[-1]
    width = 2 * reach / _STEPS
    centers = (np.arange(_STEPS) + 0.5) * width - reach
    half = int(np.ceil(_TAIL / width))
    edges = (np.arange(-half, half + 2) - 0.5) * width
    step = np.diff(ndtr(edges))
    size = next_fast_len(_STEPS + 2 * half, real=True)
    factor = rfft(step, size)
    mass = np.diff(ndtr((np.arange(_STEPS + 1)) * width - reach))
    inside = 0.0
    for look in range(looks):
        if look:
            mass = np.maximum(irfft(rfft(mass, size) * factor, size)[half : half + _STEPS], 0.0)
        kept = (upper[look] * root[look] - centers) / width + 0.5  # share of each cell below the bound
        if lower is not None:
            kept = np.minimum(kept, (centers - lower[look] * root[look]) / width + 0.5)
        mass = mass * np.clip(kept, 0.0, 1.0)
        inside = float(mass.sum())
    return min(1.0, max(0.0, 1.0 - inside))


def _percent(share: float) -> str:
    """A share with two digits, never rounded to none or all."""
    if share < 1e-4:
        return "under 0.01 %"
    return "over 99.9 %" if share > 0.999 else f"{100 * share:.2g} %"
