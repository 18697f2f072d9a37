"""What a plan has to satisfy before its intent is recorded; nothing here changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from expnb.decisions.decision import Decision
from expnb.decisions.evidence import check_evidence
from expnb.decisions.plan import RampPlan
from expnb.errors import FlagError, NameNotFoundError, PlanVoidError, RebucketedError
from expnb.flags.base import Receipt
from expnb.ledger.agreement import agreement, newest_registration
from expnb.ledger.ledger import Entry
from expnb.ledger.reading import decisions, last_step, receipts
from expnb.ledger.recorded import recorded
from expnb.spec.experiment import Experiment
from expnb.spec.flag import Exposure, FlagRef, FlagState
from expnb.spec.layers import common


def check_bucketing(on_flag: Sequence[Entry], state: FlagState) -> None:
    """Raise `RebucketedError` if units are put into other buckets than at the last audited change.

    A changed salt or stickiness keeps every percentage, and exposes other people: no split check sees it.
    """
    known = [receipt.after.bucketing for receipt in receipts(on_flag) if receipt.after.bucketing]
    if known and state.bucketing != known[-1]:
        raise RebucketedError(
            f"flag {state.ref.flag!r} puts units into buckets by {state.bucketing!r}; at its last audited change it was {known[-1]!r}. Other people are exposed than before. Nothing was pushed. Put it back as it was, or close the gate and begin a new experiment on a new flag."
        )


def check_owner(on_flag: Sequence[Entry], plan: RampPlan, state: FlagState) -> None:
    """Raise `FlagError` if the flag is open for another experiment: what one learns there would not be its own."""
    pushed = [entry for entry in on_flag if entry.kind == "outcome" and entry.body["applied"]]
    other = str(pushed[-1].body["experiment"]) if pushed else plan.experiment
    if other != plan.experiment and (state.exposure.treated or state.exposure.serve):
        raise FlagError(
            f"flag {plan.ref.flag!r} is open in {plan.ref.environment} for the experiment {other!r}; one experiment at a time moves it. Nothing was pushed. Give {plan.experiment!r} a flag of its own, or close that ramp first: `expnb rollback {other}`."
        )


def check_layer(intents: Sequence[Entry], plan: RampPlan, read: Callable[[FlagRef], FlagState]) -> None:
    """Raise `FlagError` if another open flag holds a part of the plan's slice of its layer: units would be in two experiments.

    What flags serve is asked, not what files say: a file can be edited while its flag is open.
    """
    own = plan.after.eligibility
    if not own.layer or plan.after.serve:
        return
    for flag in dict.fromkeys(str(entry.body["flag"]) for entry in intents):
        if flag == plan.ref.flag:
            continue
        try:
            other = read(FlagRef(flag, plan.ref.environment))
        except NameNotFoundError:  # deleted since
            continue
        who = other.exposure.eligibility
        both = common(own.slice, who.slice)
        is_open = other.enabled and other.exposure.enrolled and not other.exposure.serve
        if is_open and who.layer == own.layer and both:
            raise FlagError(
                f"flag {flag!r} is open on {both[0]:g} to {both[1]:g} % of layer {own.layer!r}, which the plan for {plan.experiment!r} would open too; experiments of one layer never share a unit. Nothing was pushed. `expnb layers` shows what is free: give {plan.experiment!r} another slice, on a flag of its own, or close that ramp first."
            )


def check_not_reopened(on_flag: Sequence[Entry], plan: RampPlan, state: FlagState) -> None:
    """Raise `FlagError` if the ledger's last word on a flag is a kill, and somebody switched it on outside expnb."""
    known = receipts(on_flag)
    if plan.verb != "restore" and state.enabled and known and known[-1].verb == "kill":
        raise FlagError(
            f"flag {plan.ref.flag!r} was killed at {known[-1].applied_at:%Y-%m-%d %H:%M} UTC, and serves again: somebody switched it on outside expnb. Nothing was pushed. Find out who and why; `expnb kill {plan.experiment}`, then `expnb restore {plan.experiment}` brings it back on record."
        )


def check_start(
    on_flag: Sequence[Entry], own: Sequence[Entry], plan: RampPlan, experiment: Experiment, *, approvals: bool
) -> None:
    """Raise `FlagError` unless the plan is the first rung of what was registered, on a flag that was never open."""
    registered = newest_registration(own)
    if registered is None or registered.body["spec_hash"] != experiment.spec_hash:
        raise FlagError(
            f"the specification of {experiment.name!r} is not registered as it stands now; what is tested is agreed before anybody is exposed. Nothing was pushed. Register it: `expnb register {experiment.name}`."
        )
    states = [state for receipt in receipts(on_flag) for state in (receipt.before, receipt.after) if state]
    if plan.before.treated or any(state.exposure.treated or state.exposure.serve for state in states):
        raise FlagError(
            f"flag {plan.ref.flag!r} was open in {plan.ref.environment} before; the first rung is where nobody was exposed yet. Nothing was pushed. Decide on the data, or go back to an audited state: `expnb restore {experiment.name}`."
        )
    missing = agreement(experiment, own, first_day=None, approvals=approvals).missing
    if missing:
        raise FlagError(f"{missing[0]} Nothing was pushed.")
    _check_first_rung(plan, experiment, own)


def _check_first_rung(plan: RampPlan, experiment: Experiment, own: Sequence[Entry]) -> None:
    newest = next((entry for entry in reversed(own) if entry.kind == "decision"), None)
    if newest and newest.body["action"] == "roll_back":
        raise FlagError(
            f"the newest decision on {experiment.name!r} is to roll back; nobody is exposed on that. Nothing was pushed. Decide again on newer data."
        )
    first = replace(plan.before, enrolled=experiment.policy.percents[0])
    if (
        plan.ref.flag != experiment.flag
        or plan.before.serve
        or (plan.after, plan.policy_hash) != (first, experiment.policy_hash)
    ):
        raise FlagError(
            f"the plan ({plan.after}) is not the first rung of {experiment.name!r} as it stands now, {experiment.policy.percents[0]:g} %. Nothing was pushed. Plan again: ws.start(exp)."
        )


def check_restore(on_flag: Sequence[Entry], plan: RampPlan) -> None:
    """Raise `FlagError` unless a receipt shows the state that is to come back."""
    made = receipts(on_flag)
    known = [audited_before(made, receipt) for receipt in made]
    if plan.after not in known:
        raise FlagError(
            f"no receipt of flag {plan.ref.flag!r} shows '{plan.after}'; only an audited state can be restored."
        )


def check_recorded(
    on_flag: Sequence[Entry], own: Sequence[Entry], plan: RampPlan, experiment: Experiment
) -> tuple[Entry, Decision]:
    """The recorded decision behind a plan, once the plan is no more than it says, and no newer decision is worse.

    Raises
    ------
    FlagError
        If the decision is not in the ledger, allows less, or its data carried a step already.
    PlanVoidError
        If the policy was changed, or a newer decision is worse.
    """
    decided = decisions(own)
    found = next((one for one in decided if one[0].body["evidence_hash"] == plan.evidence_hash), None)
    if found is None:
        raise FlagError(
            f"the decision behind this plan for {plan.experiment!r} is not in the ledger. Nothing was pushed. Decide through the workspace: ws.decide(exp, posterior)."
        )
    # A newer decision on older data takes nothing back.
    looked = {str(entry.body["fingerprint"]): entry.seq for entry in own if entry.kind == "look"}
    on_newest = max(decided, key=lambda one: (looked.get(one[1].fingerprint, 0), one[0].seq))[1]
    for newest in (on_newest, decided[-1][1]):
        check_evidence(plan, found[1], newest, experiment.policy_hash)
    last = last_step(on_flag, decided)
    if last and last.fingerprint == found[1].fingerprint:
        raise FlagError(
            f"these data already carried a step of flag {plan.ref.flag!r}; the next one needs data that were taken there. Nothing was pushed. Decide again on newer data."
        )
    return found


def check_again(plan: RampPlan, decision: Decision, again: Decision) -> None:
    """Raise `PlanVoidError` unless the decision of now allows what the plan does: the same or better stands, worse voids it."""
    if plan.after.treats_more_than(again.to) or (plan.after.serve and again.to.serve != plan.after.serve):
        raise PlanVoidError(
            plan.ref.flag,
            f"{decision.action} {decision.variant}".strip(),
            f"{again.action} {again.variant}".strip(),
            " ".join(again.reasons),
        )


def last_change(made: Sequence[Receipt]) -> Receipt | None:
    """The receipt to undo: the newest that changed what a flag serves; a kill of a killed flag changed nothing."""
    for receipt in reversed(made):
        before, after = receipt.before, receipt.after
        if before is None or (before.exposure, before.enabled) != (after.exposure, after.enabled):
            return receipt
    return None


def audited_before(made: Sequence[Receipt], receipt: Receipt) -> Exposure | None:
    """What a flag served before a receipt, as the ledger knows it: a state that somebody made outside expnb, or that could not be read, is none."""
    place = made.index(receipt)
    earlier = [one.after.exposure for one in made[:place]]
    if receipt.before and (
        not earlier or receipt.before.exposure in [*earlier, made[0].before and made[0].before.exposure]
    ):
        return receipt.before.exposure
    return earlier[-1] if earlier else None


def experiment_of(on_flag: Sequence[Entry], receipt: Receipt) -> str:
    """The experiment under which a receipt stands in the ledger; empty if it does not."""
    for entry in reversed(on_flag):
        # Compared as values: an older expnb recorded fewer fields.
        if entry.body.get("receipt") and recorded(Receipt, entry.body["receipt"]) == receipt:
            return str(entry.body["experiment"])
    return ""
