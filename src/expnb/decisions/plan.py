"""What will be pushed: one change of one flag, bound to the state and the evidence it was made from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import Literal

from expnb.decisions.decision import Decision
from expnb.errors import PercentError
from expnb.spec.canonical import digest
from expnb.spec.experiment import Experiment
from expnb.spec.flag import Exposure, FlagRef, FlagState

Verb = Literal["start", "ramp_up", "ramp_down", "drop", "roll_back", "ship", "conclude_flat", "restore", "hold"]


@dataclass(frozen=True, slots=True, repr=False)
class RampPlan:
    """One change of a flag: "set to", never "add to".

    Parameters
    ----------
    base_version : str
        Version of the flag that the decision saw; a push on any other version is refused.
    before, after : Exposure
        What the flag served then, and what it will serve.
    policy_hash, evidence_hash : str
        SHA-256 of the policy and of the decision; an approval is bound to both.
    expires_at : datetime
        After this time the plan is void, UTC.
    """

    verb: Verb
    experiment: str
    ref: FlagRef
    base_version: str
    before: Exposure
    after: Exposure
    reason: str
    policy_hash: str
    evidence_hash: str
    created_at: datetime
    expires_at: datetime

    @property
    def id(self) -> str:
        """Hash of everything the plan binds; the same plan has the same id."""
        return digest({field.name: getattr(self, field.name) for field in fields(self)})

    @property
    def raises_treated(self) -> bool:
        """Whether any treatment would reach more units than before."""
        if self.after.serve not in {"", self.after.control, self.before.serve}:
            return True  # a shipped variant is served by the gate alone: other people get it, whatever their share
        return self.after.treats_more_than(self.before)

    @property
    def changes(self) -> bool:
        """Whether a push would change the flag."""
        return self.after != self.before

    def __str__(self) -> str:
        return f"{self.verb}: {self.ref}: {self.before} -> {self.after}"

    def __repr__(self) -> str:
        return str(self)


def plan_ramp(
    experiment: Experiment,
    decision: Decision,
    *,
    now: datetime,
    to: float | None = None,
    valid_for: timedelta = timedelta(hours=24),
) -> RampPlan:
    """The change of the flag that a decision asks for, or a smaller one.

    Parameters
    ----------
    experiment : Experiment
    decision : Decision
    now : datetime
        With a time zone.
    to : float, optional
        Percent enrolled to go to instead; a rung of the ladder, or 0, and no higher than the decision allows.
    valid_for : timedelta
        Age at which the plan is void.

    Raises
    ------
    PercentError
        If `to` is no rung, or higher than the decision allows.
    """
    verb, after = _target(experiment, decision, to)
    return RampPlan(
        verb=verb,
        experiment=decision.experiment,
        ref=decision.flag.ref,
        base_version=decision.flag.version,
        before=decision.flag.exposure,
        after=after,
        reason=" ".join(decision.reasons),
        policy_hash=decision.policy_hash,
        evidence_hash=decision.evidence_hash,
        created_at=now,
        expires_at=now + valid_for,
    )


def _target(experiment: Experiment, decision: Decision, to: float | None) -> tuple[Verb, Exposure]:
    before = decision.flag.exposure
    if to is None:
        if decision.action == "hold" and decision.to != before:
            return "ramp_down", decision.to
        if decision.action == "roll_back" and decision.to.enrolled:
            return "drop", decision.to
        return decision.action, decision.to
    experiment.policy.check_rung(to)
    if before.serve and to:
        raise PercentError(to, f"the flag {before}; the ramp is over. Go to 0 to roll back.")
    after = replace(before, enrolled=float(to), serve="", holdback=0.0)
    if after.treated > max(before.treated, decision.to.treated):
        raise PercentError(
            to,
            f"the decision is {decision.action} and allows {decision.to}. Go no higher, or decide again on more data.",
        )
    if after == before:
        return "hold", after
    return ("ramp_up" if to > before.enrolled else "roll_back" if to == 0 else "ramp_down"), after


def plan_change(
    verb: Verb,
    experiment: Experiment,
    state: FlagState,
    after: Exposure,
    *,
    reason: str,
    now: datetime,
    valid_for: timedelta = timedelta(hours=24),
) -> RampPlan:
    """A change that a person asks for without a decision: a roll back, or the return to an audited state."""
    return RampPlan(
        verb=verb,
        experiment=experiment.name,
        ref=state.ref,
        base_version=state.version,
        before=state.exposure,
        after=after,
        reason=reason,
        policy_hash=experiment.policy_hash,
        evidence_hash="",
        created_at=now,
        expires_at=now + valid_for,
    )
