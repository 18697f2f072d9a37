"""The order in which a policy acts, for one decision or for thousands of simulated ones at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from expnb.decisions.decision import PRECEDENCE, Action
from expnb.spec.policy import Policy

BoolArray = NDArray[np.bool_]
GUARDRAIL_EARLY = 0.5
"""P(no harm) from which on a guardrail is not doubted, below `learn_at`."""
GUARDRAIL_LATE = 0.95
"""P(no harm), with and without the prior, from which on a guardrail is shown to be within its margin."""

SEGMENT_HARM = 0.98
"""P(harm) in one segment, pooled with the others, from which on the ramp holds."""


def code(action: Action) -> int:
    """Number of an action, from worst to best for the treatment."""
    return PRECEDENCE.index(action)


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What the rules found, each a bool or an array of one shape.

    Parameters
    ----------
    harmed
        The harm rule fired on a goal or guardrail of a treatment that is served.
    blocked
        Something is unknown, or speaks against any step up.
    wary
        From `learn_at` on: the same of a treatment that is not the best one. It holds the next step up, which would reach its users too, and no verdict.
    judged
        Enough days of data are in for a verdict on the goal.
    flat, better
        The goals' rules to conclude flat are met, and those to ship.
    learnt
        The flag is at `learn_at` or above.
    waited
        The time of this rung is over.
    top
        There is no higher rung.
    """

    harmed: BoolArray | bool
    blocked: BoolArray | bool
    wary: BoolArray | bool
    judged: BoolArray | bool
    flat: BoolArray | bool
    better: BoolArray | bool
    learnt: BoolArray | bool
    waited: BoolArray | bool
    top: BoolArray | bool


def first_action(policy: Policy, found: Conditions) -> NDArray[np.intp]:
    """The first action whose conditions hold, as its `code`, of the shape of the conditions."""
    ship = np.asarray(found.judged) & found.learnt & found.better
    # Under non-inferiority a flat effect ships, so it has to pass the ship rule too: the sceptical prior alone may not.
    conclude = (np.asarray(found.judged) & found.flat) if policy.aim == "superiority" else ship & found.flat
    stay = np.asarray(found.top) | ~np.asarray(found.waited) | found.wary
    conditions = [np.asarray(found.harmed), np.asarray(found.blocked), conclude, ship, stay]
    actions: list[Action] = ["roll_back", "hold", "conclude_flat", "ship", "hold"]
    out: NDArray[np.intp] = np.select(conditions, [np.asarray(code(action)) for action in actions], code("ramp_up"))
    return out
