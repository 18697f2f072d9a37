"""Plans as LaunchDarkly's own approval requests: what one says, and whether it may be applied."""

from __future__ import annotations

from collections.abc import Sequence

from expnb.decisions.plan import RampPlan
from expnb.errors import ApprovalError, FlagError
from expnb.flags.launchdarkly_api import Approval
from expnb.flags.launchdarkly_line import stretches
from expnb.flags.launchdarkly_rules import Object, Opened, Record, as_list, as_object, clauses
from expnb.spec.canonical import Json, digest
from expnb.spec.flag import Exposure


def instructions(opened: Opened, after: Exposure) -> list[Json]:
    """The change as a request takes it: there, each variation can be named once only, in the flag's own order."""
    order = opened.order
    places = [order.index(name) for name, _ in stretches(after)]
    if places != sorted(set(places)):
        raise FlagError(
            f"an approval request of LaunchDarkly cannot say '{after}': it names each variation once, and with {len(after.arms)} arms 'off' stands between them several times. Nothing was changed. Ramp two arms, or keep the flag in an environment that requires no approvals there."
        )
    weights: Object = {opened.variation_id(name): width for name, width in stretches(after)}
    what: Object = (
        {"variationId": next(iter(weights))}
        if len(weights) == 1
        else {"rolloutContextKind": "user", "rolloutWeights": weights}
    )
    found = as_list(opened.config.get("rules"))
    instruction: Object = {"kind": "updateFallthroughVariationOrRollout", **what}
    if after.eligibility.audience and found:
        instruction = {"kind": "updateRuleVariationOrRollout", "ruleId": as_object(found[0]).get("_id"), **what}
    elif after.eligibility.audience:
        instruction = {"kind": "addRule", "clauses": clauses(after), **what}
    turn: list[Json] = [] if opened.on else [{"kind": "turnFlagOn"}]
    return [instruction, *turn]


def approved(approvals: Sequence[Approval], opened: Opened, plan: RampPlan, old: Record, page: str) -> Approval:
    """The approved request of exactly this plan, made on the state `old`.

    Raises
    ------
    ApprovalError
        If there is none, it waits, was declined, or says something else by now.
    """
    start = (
        f"environment {plan.ref.environment!r} takes changes of flag {plan.ref.flag!r} through LaunchDarkly's approvals"
    )
    found = next((approval for approval in approvals if approval.plan_id == plan.id), None)
    if found is None:
        raise ApprovalError(
            f"{start}, and none was requested for this plan. Nothing was pushed. Request it, and have it approved there."
        )
    if found.review == "declined" or found.status == "failed":
        what = "was declined" if found.review == "declined" else "failed there"
        raise ApprovalError(
            f"{start}, and the request of this plan {what}. Nothing was pushed. Read why, then decide and plan again: {page}"
        )
    if found.review != "approved" or found.status != "pending":
        raise ApprovalError(
            f"{start}, and the request of this plan waits: it is {found.review} ({found.status}). Nothing was pushed. Have somebody else approve it: {page}"
        )
    if found.base != base_of(old) or not says(found, instructions(opened, plan.after)):
        raise ApprovalError(
            f"{start}, and the request of this plan was changed since expnb made it. Nothing was pushed. Look at it, decline it and request again: {page}"
        )
    return found


def base_of(record: Record) -> str:
    """What a request says about the state it follows."""
    return digest(record.text)[:12]


def says(approval: Approval, instructions: Sequence[Json]) -> bool:
    """Whether a request holds these instructions and no others; the vendor may have added identifiers to them."""
    return len(approval.instructions) == len(instructions) and all(
        all(found.get(key) == value for key, value in as_object(wanted).items())
        for found, wanted in zip(approval.instructions, instructions, strict=True)
    )
