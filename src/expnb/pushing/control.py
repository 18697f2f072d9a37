"""Change control: who asks, who agrees, the push itself, and what is left after a crash.

A push is INTENT -> push -> read back -> sample units -> OUTCOME. A lost answer is looked up in the flag; nothing is ever sent twice.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan, plan_change
from expnb.errors import ExpnbError, FlagError, LedgerError, PushUncertainError, SpecError
from expnb.flags.base import Enforcement, FlagBackend, Receipt, describe
from expnb.flags.split import check_split, serve_sample
from expnb.ledger.approvals import (
    approvals_needed,
    approvers,
    check_approvals,
    check_approver,
    check_requires,
    check_role,
)
from expnb.ledger.ledger import Entry, EntryKind, Ledger
from expnb.ledger.notify import Act, Event, Notifier
from expnb.ledger.reading import decisions, entries_of, entries_on, receipts, unsettled
from expnb.ledger.recorded import recorded
from expnb.ledger.recorder import Recorder, keep_for_later
from expnb.ledger.requests import ChangeRequest, change_requests
from expnb.pushing import checks
from expnb.spec.experiment import Experiment
from expnb.spec.flag import FlagRef, FlagState
from expnb.spec.workspace_file import Environment

IN_FLIGHT: Final = timedelta(minutes=1)  # longer than any push may take


@dataclass(frozen=True, kw_only=True)
class ChangeControl:
    """What may change the flags of one environment, and how; for one person.

    Parameters
    ----------
    table : Environment
        Roles and approval rules.
    experiment : callable
        An experiment of the workspace by its name.
    retake : callable
        Takes a recorded decision again: on the data of now, at this time.
    notifier : Notifier
        Tells others what was done; that it cannot is a warning, and stops nothing.
    """

    flags: FlagBackend
    recorder: Recorder
    table: Environment
    environment: str
    actor: str
    experiment: Callable[[str], Experiment]
    retake: Callable[[Entry, Decision, FlagState], Decision]
    notifier: Notifier
    enforcement: Enforcement = "unenforced"

    # --- requests -------------------------------------------------------------------------------

    def requests(self) -> list[ChangeRequest]:
        """What others were asked to agree to and can still be pushed, oldest first."""
        closed = {entry.body["plan_id"] for entry in self._ledger.entries(kind="outcome") if entry.body["applied"]}
        asked = change_requests(self._ledger, self.environment)
        return [one for one in asked if one.plan.expires_at > self._now and one.plan.id not in closed]

    def request(self, plan: RampPlan) -> Entry:
        """Ask others to agree to a plan; where the backend has approvals of its own, also there."""
        self._allow("request")
        if not plan.changes:
            raise SpecError(
                f"the plan for {plan.experiment!r} changes nothing: {plan.after}. There is nothing to agree to."
            )
        entry = self._record("request", self._facts(plan) | {"plan": plan})
        if plan.raises_treated and self.flags.capabilities.approvals:
            self._record("vendor_request", self._facts(plan) | {"vendor": self.flags.request(plan)})
        self._tell("request", plan, entry)
        return entry

    def approve(self, plan: RampPlan, *, comment: str = "") -> Entry:
        """Agree to a plan that somebody else requested."""
        self._allow("approve")
        check_approver(self._on(plan.ref), plan, self.actor)
        entry = self._record("approval", self._facts(plan) | {"text": comment})
        self._tell("approval", plan, entry)
        return entry

    def decline(self, plan: RampPlan, *, reason: str) -> Entry:
        """Stop a plan that was requested; it cannot be pushed any more."""
        self._allow("decline")
        self._check_requested(plan)
        if not reason.strip():
            raise SpecError("a decline needs a reason, for the one who asked. Write one sentence.")
        return self._record("declined", self._facts(plan) | {"text": reason})

    def comment(self, plan: RampPlan, text: str) -> Entry:
        """Say something about a plan that was requested; kept with it."""
        self._allow("comment")
        self._check_requested(plan)
        if not text.strip():
            raise SpecError("the comment is empty. Write one sentence.")
        return self._record("comment", self._facts(plan) | {"text": text})

    def approvals_needed(self, plan: RampPlan) -> int:
        """How many others must agree; lowering exposure never needs anybody."""
        return approvals_needed(plan, self.table.approvals)

    def approvals(self, plan: RampPlan) -> list[str]:
        """Who has agreed to exactly this plan."""
        return approvers(self._on(plan.ref), plan)

    # --- the push -------------------------------------------------------------------------------

    def preview(self, plan: RampPlan) -> str:
        """What `apply` would write, after the same checks; nothing is changed or recorded."""
        self._allow("apply")
        self._check(plan, self._on(plan.ref))
        return self.flags.preview(plan, now=self._now)

    def apply(self, plan: RampPlan) -> Receipt:
        """Push a plan: intent, push, read back, evaluate sample units, outcome.

        Raises
        ------
        ApprovalError, PlanVoidError, FlagError, LedgerError
            Before the push; the flag is unchanged.
        PushUncertainError
            After the push, when its answer was lost, or the flag does not serve what was asked for.
        """
        self._allow("apply")
        on_flag = self._on(plan.ref)
        if self._settle(on_flag):
            on_flag = self._on(plan.ref)
        self._check(plan, on_flag)
        facts = self._facts(plan)
        intent = self._record("intent", facts | {"plan": plan})
        facts |= {"intent": intent.seq}
        receipt = replace(self._push(plan, intent, facts), enforcement=self.enforcement)
        try:
            split = serve_sample(self.flags, receipt.ref, receipt.after)
        except ExpnbError as error:
            self._record("outcome", facts | {"applied": True, "receipt": receipt, "error": str(error)})
            raise PushUncertainError(
                f"flag {plan.ref.flag!r} was pushed and read back ({receipt.after.exposure}), but no sample unit could be evaluated: {error} The push is recorded; look at the flag before anything else moves."
            ) from error
        outcome = self._record("outcome", facts | {"applied": True, "receipt": receipt, "sample": split})
        self._tell("roll_back" if plan.verb == "roll_back" else "push", plan, outcome)
        check_split(receipt.after, split)
        return receipt

    def _push(self, plan: RampPlan, intent: Entry, facts: dict[str, object]) -> Receipt:
        try:
            return self.flags.apply(plan, now=self._now, ledger_head=intent.hash)
        except PushUncertainError:
            receipt = self._found(plan)
            if receipt is None:
                raise  # the intent stays open, and is settled by reading
            return receipt
        except ExpnbError as error:
            self._record("outcome", facts | {"applied": False, "error": str(error)})
            raise

    def _found(self, plan: RampPlan) -> Receipt | None:
        """The receipt of a push whose answer was lost, if the flag shows it; never by a second push."""
        try:
            state = self.flags.read(plan.ref)
        except ExpnbError:
            return None
        return self._receipt(plan, state) if state.plan_id == plan.id else None

    def roll_back(self, experiment: Experiment, *, reason: str) -> Receipt:
        """Close the gate now; needs no decision and no approval, but a reason."""
        if not reason.strip():
            raise SpecError("a roll back needs a reason, for those who read the ledger later. Write one sentence.")
        state = self.flags.read(FlagRef(experiment.flag, self.environment))
        closed = replace(state.exposure, enrolled=0.0, serve="", holdback=0.0)
        plan = plan_change("roll_back", experiment, state, closed, reason=reason, now=self._now)
        try:
            return self.apply(plan)
        except LedgerError as error:
            raise LedgerError(
                f"{error.sentence} The gate of flag {experiment.flag!r} may still be open: `expnb kill {experiment.name}` closes it without a ledger."
            ) from error

    def last_receipt(self, experiment: Experiment) -> Receipt:
        """The receipt of the last change of the experiment's flag."""
        ref = FlagRef(experiment.flag, self.environment)
        self._settle(self._on(ref))
        known = receipts(self._on(ref))
        if not known:
            raise FlagError(
                f"the ledger knows no change of flag {experiment.flag!r} in {self.environment}; there is nothing to undo."
            )
        return known[-1]

    def plan_restore(self, receipt: Receipt) -> RampPlan:
        """The way back to the state before a receipt, such as after a roll back that was a mistake."""
        name = checks.audited(self._on(receipt.ref), receipt)
        if not name or receipt.before is None:
            raise FlagError(
                f"the ledger holds no receipt of {receipt.verb} for flag {receipt.ref.flag!r} at {receipt.applied_at:%Y-%m-%d %H:%M} UTC with a known state before it; only an audited state can be restored."
            )
        state, before = self.flags.read(receipt.ref), receipt.before.exposure
        reason = f"Back to the audited state: {before}."
        return plan_change(
            "restore", self.experiment(name), state, before, reason=reason, now=self._now, valid_for=self._valid_for
        )

    # --- kill -------------------------------------------------------------------------------------

    def kill(self, name: str, flag: str, *, reason: str = "") -> Receipt:
        """Close the gate of a flag and disable it, at once; needs no plan, no approval, no fresh data and no ledger.

        Where the ledger cannot be written, the kill waits in a file beside it and is recorded before the next entry. A reason can be given afterwards: `explain_kill`.
        """
        self._allow("kill")
        now = self._now
        receipt = replace(self.flags.kill(FlagRef(flag, self.environment), now=now), enforcement=self.enforcement)
        facts: dict[str, object] = {
            "experiment": name,
            "flag": flag,
            "environment": self.environment,
            "actor": self.actor,
            "receipt": receipt,
        }
        facts |= {"reason": reason} if reason.strip() else {}
        head = "not recorded yet"
        try:
            head = self._record("kill", facts).hash
        except (LedgerError, OSError):
            with suppress(OSError):  # the kill is done; where nothing can be written, its receipt is all there is
                keep_for_later(self.recorder.spool, facts, now)
        self._say(
            Event(
                act="kill",
                experiment=name,
                flag=flag,
                environment=self.environment,
                verb="kill",
                before=describe(receipt.before),
                after=describe(receipt.after),
                actor=self.actor,
                ledger_head=head,
                enforcement=self.enforcement,
                reason=reason,
            )
        )
        return receipt

    def unexplained_kills(self, flag: str = "") -> list[Entry]:
        """Kills of this environment that nobody gave a reason for, oldest first; of one flag, or all."""
        explained = {entry.body["kill"] for entry in self._ledger.entries(kind="reason")}
        return [
            entry
            for entry in self._ledger.entries(kind="kill", environment=self.environment)
            if not entry.body.get("reason") and entry.seq not in explained and flag in ("", entry.body.get("flag"))
        ]

    def explain_kill(self, flag: str, reason: str) -> list[Entry]:
        """Say why a flag was killed, for those who read the ledger later.

        Raises
        ------
        SpecError
            If the reason is empty, or no kill of that flag lacks one.
        """
        self._allow("kill")
        if not reason.strip():
            raise SpecError("the reason of a kill is empty. Write one sentence.")
        waiting = self.unexplained_kills(flag)
        if not waiting:
            raise SpecError(
                f"no kill of flag {flag!r} in {self.environment} waits for a reason; `expnb ledger list` shows them."
            )
        facts = {"flag": flag, "environment": self.environment, "actor": self.actor, "reason": reason}
        return [
            self._record("reason", facts | {"experiment": entry.body["experiment"], "kill": entry.seq})
            for entry in waiting
        ]

    # --- after a crash ----------------------------------------------------------------------------

    def unsettled(self) -> list[Entry]:
        """Intents of this environment without an outcome, oldest first; one may still be on its way."""
        kinds: tuple[EntryKind, ...] = ("intent", "outcome")
        return unsettled(
            [one for kind in kinds for one in self._ledger.entries(kind=kind, environment=self.environment)]
        )

    def settle(self) -> list[Entry]:
        """Outcomes of pushes that a crash or a lost answer left open, by reading their flags.

        Those younger than a minute are left: they may be on their way in another process.
        """
        flags = {str(entry.body["flag"]): None for entry in self.unsettled()}
        return [entry for flag in flags for entry in self._settle(self._on(FlagRef(flag, self.environment)))]

    def _settle(self, on_flag: Sequence[Entry]) -> list[Entry]:
        """The same for one flag."""
        return [
            self._settled(entry, on_flag) for entry in unsettled(on_flag) if self._now - entry.recorded_at >= IN_FLIGHT
        ]

    def _settled(self, intent: Entry, on_flag: Sequence[Entry]) -> Entry:
        plan = recorded(RampPlan, intent.body["plan"])
        state = self.flags.read(plan.ref)
        facts = self._facts(plan) | {"intent": intent.seq, "resolved_by_reading": state}
        seen = [state] + [known for one in receipts(on_flag) for known in (one.before, one.after) if known]
        found = next((one for one in seen if one.plan_id == plan.id), None)
        if found is None and not state.plan_id and state.version != plan.base_version and state.exposure == plan.after:
            found = state  # a backend that keeps no plan id
        if found is not None:
            return self._record("outcome", facts | {"applied": True, "receipt": self._receipt(plan, found)})
        # Where somebody moved the flag since, whether this push was there in between cannot be known.
        return self._record("outcome", facts | {"applied": False if state.version == plan.base_version else None})

    def _receipt(self, plan: RampPlan, after: FlagState) -> Receipt:
        before = replace(after, exposure=plan.before, version=plan.base_version, plan_id="")
        return Receipt(
            plan.ref,
            plan.verb,
            before,
            after,
            after.changed_at,
            self.table.flags,
            "The answer was lost; found by reading the flag.",
            self.enforcement,
        )

    # --- checks -----------------------------------------------------------------------------------

    def _check(self, plan: RampPlan, on_flag: Sequence[Entry]) -> None:
        if plan.ref.environment != self.environment:
            raise FlagError(
                f"the plan is for {plan.ref.environment}, the workspace is open in {self.environment}. Open it in that environment."
            )
        state = self.flags.read(plan.ref)
        if plan.verb == "restore":
            checks.check_restore(on_flag, plan)
        elif not state.enabled and state.version == plan.base_version:
            raise FlagError(
                f"flag {plan.ref.flag!r} was killed; only `expnb restore` switches it on again. Nothing was pushed."
            )
        if plan.raises_treated:
            self._check_raising(plan, state, on_flag)

    def _check_raising(self, plan: RampPlan, state: FlagState, on_flag: Sequence[Entry]) -> None:
        """What more exposure needs: a decision that still stands, an agreement, the same buckets, the flag to itself."""
        self._ledger.verify_new(self.recorder.spool.with_name("ledger-checked.json"))
        own = entries_of(self._ledger, plan.experiment, self.environment)
        checks.check_bucketing(on_flag, state)
        entry, decision = None, None
        if plan.verb == "start":
            experiment = self.experiment(plan.experiment)
            checks.check_start(on_flag, own, plan, experiment, approvals=bool(self.table.approvals))
        elif plan.verb == "restore":
            decision = next((one for _, one in reversed(decisions(own))), None)
        else:
            entry, decision = checks.check_recorded(on_flag, own, plan, self.experiment(plan.experiment))
        checks.check_owner(on_flag, plan, state)
        check_approvals(on_flag, plan, self.table.approvals)
        if entry and decision and state.version == plan.base_version:  # on another one the backend says what changed
            again = self.retake(entry, decision, state)
            checks.check_again(plan, decision, again)
            decision = again
        check_requires(plan, self.table.approvals, decision)

    def _check_requested(self, plan: RampPlan) -> None:
        if not any(one.plan.id == plan.id for one in change_requests(self._ledger, self.environment)):
            raise FlagError(
                f"nobody requested the plan {plan.id[:12]}; there is nothing to answer. Ask its author to request it."
            )

    # --- the parts --------------------------------------------------------------------------------

    @property
    def _ledger(self) -> Ledger:
        return self.recorder.ledger

    @property
    def _now(self) -> datetime:
        return self.recorder.clock()

    @property
    def _valid_for(self) -> timedelta:
        return timedelta(hours=self.table.max_age_hours)

    def _on(self, ref: FlagRef) -> list[Entry]:
        return entries_on(self._ledger, ref)

    def _allow(self, act: str) -> None:
        check_role(act, self.actor, self.table.roles, self.environment)

    def _record(self, kind: EntryKind, body: dict[str, object]) -> Entry:
        return self.recorder.record(kind, body)

    def _facts(self, plan: RampPlan) -> dict[str, object]:
        """What every entry about a plan says."""
        return {
            "experiment": plan.experiment,
            "flag": plan.ref.flag,
            "environment": plan.ref.environment,
            "actor": self.actor,
            "plan_id": plan.id,
            "enforcement": self.enforcement,
        }

    def _tell(self, act: Act, plan: RampPlan, entry: Entry) -> None:
        self._say(Event.of_plan(act, plan, actor=self.actor, ledger_head=entry.hash, enforcement=self.enforcement))

    def _say(self, event: Event) -> None:
        problem = self.notifier.tell(event)
        if problem:
            warnings.warn(problem, RuntimeWarning, stacklevel=5)
