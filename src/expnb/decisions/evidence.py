"""Whether a plan that treats more units is what a recorded decision asked for."""

from __future__ import annotations

from expnb.decisions.decision import PRECEDENCE, Decision
from expnb.decisions.plan import RampPlan
from expnb.errors import FlagError, PlanVoidError


def check_evidence(plan: RampPlan, decision: Decision, newest: Decision, policy_hash: str) -> None:
    """Raise unless `plan` does what `decision` says, and the newest decision is no worse.

    Parameters
    ----------
    decision : Decision
        The recorded one that the plan names as its evidence.
    newest : Decision
        The last one of the same experiment and environment.
    policy_hash : str
        Of the experiment as it is specified now.

    Raises
    ------
    FlagError
        If the plan does more than its decision, or something else.
    PlanVoidError
        If the policy changed since, or the newest decision is worse or picks another variant.
    """
    _check_binding(plan, decision)
    planned = f"{decision.action} {decision.variant}"
    if plan.policy_hash != policy_hash:
        raise PlanVoidError(
            plan.ref.flag,
            planned,
            "that the experiment was changed",
            "Its policy is not the one that was decided with.",
        )
    worse = PRECEDENCE.index(newest.action) < PRECEDENCE.index(decision.action)
    if worse or (plan.after.serve and newest.variant != decision.variant):
        raise PlanVoidError(plan.ref.flag, planned, f"{newest.action} {newest.variant}", " ".join(newest.reasons))


def _check_binding(plan: RampPlan, decision: Decision) -> None:
    bound = (
        plan.ref == decision.flag.ref
        and plan.base_version == decision.flag.version
        and plan.policy_hash == decision.policy_hash
        and plan.after.weights == decision.flag.exposure.weights
        and not plan.after.treats_more_than(decision.to)
    )
    if not bound:
        raise FlagError(
            f"the plan for flag {plan.ref.flag!r} ({plan.after}) is not what its decision allows ({decision.to}). "
            "Nothing was pushed. Plan from the decision: ws.plan(decision)."
        )
