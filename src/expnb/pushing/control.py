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
from expnb.errors import (
    ApprovalError,
    ExpnbError,
    FlagConflictError,
    FlagError,
    LedgerError,
    NameNotFoundError,
    OpenIntentError,
    PlanExpiredError,
    PushUncertainError,
    SpecError,
)
from expnb.flags.base import Enforcement, FlagBackend, Receipt, check_granularity, describe
from expnb.flags.split import check_split, serve_sample
from expnb.ledger.approvals import (
    applying,
    approvals_needed,
    approvers,
    check_approvals,
    check_approver,
    check_declined,
    check_requires,
    check_role,
    same_person,
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
SKEW: Final = timedelta(minutes=1)  # by which the clocks of two machines may differ


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
        self._check_environment(plan)
        check_granularity(plan.after, self.flags.capabilities.granularity)
        if not plan.changes and self.flags.read(plan.ref).enabled:
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
        self._check_environment(plan)
        on_flag = self._on(plan.ref)
        check_approver(on_flag, plan, self.actor)
        check_declined(on_flag, plan)
        if same_person(self.actor) in approvers(on_flag, plan):
            raise ApprovalError(f"{self.actor!r} has approved this plan already; once is enough.")
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
        """What `apply` would write, after the same checks; what others still have to agree to is said below. Nothing is changed or recorded."""
        self._allow("comment")
        written = self.flags.preview(plan, now=self._now)
        try:
            self._check(plan, self._on(plan.ref))
        except ApprovalError as error:
            return f"{written.rstrip()}\n\nNot yet: {error.sentence}"
        return f"{written.rstrip()}\n\nEvery check passed; nothing was changed."

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
        try:
            outcome = self._record("outcome", facts | {"applied": True, "receipt": receipt, "sample": split})
        except (LedgerError, OSError) as error:
            raise PushUncertainError(
                f"flag {plan.ref.flag!r} was pushed and read back ({receipt.after.exposure}), but its outcome could not be recorded: {error} Do not push again; when the ledger can be written, `expnb settle` records it from the flag."
            ) from error
        try:
            check_split(receipt.after, split)
        finally:
            self._tell("roll_back" if plan.verb == "roll_back" else "push", plan, outcome)
        return receipt

    def _push(self, plan: RampPlan, intent: Entry, facts: dict[str, object]) -> Receipt:
        if self._now - intent.recorded_at >= IN_FLIGHT:  # this process slept; another one may have settled the intent
            raise OpenIntentError(
                f"the push of flag {plan.ref.flag!r} was held up for {(self._now - intent.recorded_at).total_seconds():.0f} s after its intent was recorded. Nothing was pushed. Plan again."
            )
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
        is_ours = state.plan_id == plan.id and state.enabled and state.exposure == plan.after
        return self._receipt(plan, state) if is_ours else None

    def roll_back(self, experiment: Experiment, *, reason: str) -> Receipt:
        """Close the gate now; needs no decision and no approval, but a reason."""
        if not reason.strip():
            raise SpecError("a roll back needs a reason, for those who read the ledger later. Write one sentence.")
        try:
            try:
                return self.apply(self._closing(experiment, reason))
            except FlagConflictError:  # somebody moved it meanwhile; the roll back holds for the new state too
                return self.apply(self._closing(experiment, reason))
        except LedgerError as error:
            raise LedgerError(
                f"{error.sentence} The gate of flag {experiment.flag!r} may still be open: `expnb kill {experiment.name}` closes it without a ledger."
            ) from error

    def _closing(self, experiment: Experiment, reason: str) -> RampPlan:
        state = self.flags.read(FlagRef(experiment.flag, self.environment))
        closed = state.exposure.closed()
        if state.enabled and closed == state.exposure:
            raise FlagError(f"flag {experiment.flag!r} is closed already: {closed}. There is nothing to roll back.")
        return plan_change("roll_back", experiment, state, closed, reason=reason, now=self._now)

    def last_receipt(self, experiment: Experiment) -> Receipt:
        """The receipt of the last change of the experiment's flag, as the flag still has it.

        Raises
        ------
        FlagError
            If the ledger knows none, or somebody changed the flag outside expnb since.
        """
        ref = FlagRef(experiment.flag, self.environment)
        self.recorder.flush()
        self._settle(self._on(ref))
        made, now = receipts(self._on(ref)), self.flags.read(ref)
        # A push that was found later is recorded after those that followed it.
        newest = next((place for place in reversed(range(len(made))) if made[place].after.version == now.version), None)
        if made and newest is None and (unsettled(self._on(ref)) or self._now - now.changed_at < IN_FLIGHT):
            raise OpenIntentError(
                f"flag {ref.flag!r} serves {describe(now)} since {now.changed_at:%Y-%m-%d %H:%M:%S} UTC, and the ledger does not say yet who did it: a push may be on its way. Try again in a minute; to close the gate, nothing has to be waited for."
            )
        if made and newest is None:
            raise FlagError(
                f"flag {ref.flag!r} serves {describe(now)}, which is not the ledger's last word ({made[-1].verb} at {made[-1].applied_at:%Y-%m-%d %H:%M} UTC: {describe(made[-1].after)}): somebody changed it outside expnb. Find out who; `expnb kill {experiment.name}` takes it under control, and then the last state on record can be restored."
            )
        found = checks.last_change(made[: (newest or 0) + 1]) if made else None
        if found is None:
            raise FlagError(
                f"the ledger knows no change of flag {experiment.flag!r} in {self.environment}; there is nothing to undo."
            )
        return found

    def plan_restore(self, receipt: Receipt) -> RampPlan:
        """The way back to the audited state before a receipt, such as after a roll back that was a mistake."""
        on_flag = self._on(receipt.ref)
        name = checks.experiment_of(on_flag, receipt)
        before = checks.audited_before(receipts(on_flag), receipt) if name else None
        if before is None:
            raise FlagError(
                f"the ledger holds no receipt of {receipt.verb} for flag {receipt.ref.flag!r} at {receipt.applied_at:%Y-%m-%d %H:%M} UTC with a known state before it; only an audited state can be restored."
            )
        state = self.flags.read(receipt.ref)
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
        except Exception:  # noqa: BLE001 - the kill is done, and must be told, whatever keeps it from being recorded
            with suppress(OSError):  # where nothing can be written, its receipt is all there is
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
        self.recorder.flush()
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
        self.recorder.flush()
        moved = self._ledger.entries(kind="intent", environment=self.environment)
        found: list[Entry] = []
        for flag, name in {str(one.body["flag"]): str(one.body["experiment"]) for one in moved}.items():
            ref = FlagRef(flag, self.environment)
            try:
                found += [*self._settle(self._on(ref)), *self._found_kill(ref, name)]
            except (FlagError, NameNotFoundError) as error:  # one that cannot be read must not hide the others
                warnings.warn(f"flag {flag!r} could not be settled: {error}", RuntimeWarning, stacklevel=3)
        return found

    def _found_kill(self, ref: FlagRef, name: str) -> list[Entry]:
        """A kill that nobody recorded: the kernel died, or somebody switched the flag off in its own place."""
        state, known = self.flags.read(ref), receipts(self._on(ref))
        recorded_too = any(not one.after.enabled and one.after.version == state.version for one in known)
        if state.enabled or recorded_too or not known or self._now - state.changed_at < IN_FLIGHT:
            return []
        before = max(known, key=lambda one: one.applied_at).after
        note = "Found by reading the flag; who switched it off is not known."
        receipt = Receipt(ref, "kill", before, state, state.changed_at, self.table.flags, note, self.enforcement)
        facts = {"experiment": name, "flag": ref.flag, "environment": self.environment, "actor": "unknown"}
        return [self._record("kill", facts | {"receipt": receipt})]

    def _settle(self, on_flag: Sequence[Entry]) -> list[Entry]:
        """The same for one flag."""
        return [
            self._settled(entry, on_flag) for entry in unsettled(on_flag) if self._now - entry.recorded_at >= IN_FLIGHT
        ]

    def _settled(self, intent: Entry, on_flag: Sequence[Entry]) -> Entry:
        plan = recorded(RampPlan, intent.body["plan"])
        state = self.flags.read(plan.ref)
        facts = self._facts(plan) | {"intent": intent.seq, "resolved_by_reading": state}
        pushed = [one for one in on_flag if one.kind == "outcome" and one.body["applied"]]
        if any(one.body["plan_id"] == plan.id for one in pushed):  # pushed again, and once only in effect
            return self._record(
                "outcome", facts | {"applied": False, "error": "Another push of this plan was applied."}
            )
        seen = [state] + [known for one in receipts(on_flag) for known in (one.before, one.after) if known]
        own = [one for one in seen if one.plan_id == plan.id]
        # A kill keeps the id of the plan before it: the state that the plan made is the one that serves its target.
        found = next((one for one in own if one.enabled and one.exposure == plan.after), None)
        if found is None and own:
            found = replace(own[0], exposure=plan.after, enabled=True)
        if (
            found is None
            and not state.plan_id
            and state.enabled
            and state.version != plan.base_version
            and state.exposure == plan.after
        ):
            found = state  # a backend that keeps no plan id
        if found is not None:
            return self._record("outcome", facts | {"applied": True, "receipt": self._receipt(plan, found)})
        # Where somebody moved the flag since, whether this push was there in between cannot be known.
        return self._record("outcome", facts | {"applied": False if state.version == plan.base_version else None})

    def _receipt(self, plan: RampPlan, after: FlagState) -> Receipt:
        before = replace(after, exposure=plan.before, version=plan.base_version, plan_id="", enabled=True)
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

    def _check_environment(self, plan: RampPlan) -> None:
        if plan.ref.environment != self.environment:
            raise FlagError(
                f"the plan is for {plan.ref.environment}, the workspace is open in {self.environment}. Open it in that environment."
            )

    def _check(self, plan: RampPlan, on_flag: Sequence[Entry]) -> None:
        self._check_environment(plan)
        state = self.flags.read(plan.ref)
        planned_on_it = state.version == plan.base_version  # one that moved since is a conflict
        if planned_on_it and not state.enabled and state.exposure.treated and plan.after.treated:
            raise FlagError(
                f"flag {plan.ref.flag!r} was disabled outside expnb while its gate stood at '{state.exposure}'; to enable it exposes people again. Nothing was pushed. Close it first, `expnb kill {plan.experiment}`, then restore it."
            )
        if plan.verb == "restore":
            checks.check_restore(on_flag, plan)
        elif planned_on_it and not state.enabled and (plan.verb != "start" or receipts(on_flag)):
            raise FlagError(
                f"flag {plan.ref.flag!r} was killed; only `expnb restore` switches it on again. Nothing was pushed."
            )
        if plan.raises_treated:
            self._check_raising(plan, state, on_flag)

    def _check_raising(self, plan: RampPlan, state: FlagState, on_flag: Sequence[Entry]) -> None:
        """What more exposure needs: a decision that still stands, an agreement, the same buckets, the flag to itself."""
        if (
            not timedelta() <= plan.expires_at - plan.created_at <= self._valid_for
            or plan.created_at > self._now + SKEW
        ):
            raise PlanExpiredError(plan.ref.flag, (plan.created_at + self._valid_for).isoformat())
        self._ledger.verify_new(self.recorder.spool.with_name("ledger-checked.json"))
        own = entries_of(self._ledger, plan.experiment, self.environment)
        checks.check_bucketing(on_flag, state)
        entry, decision = None, None
        if plan.verb == "start":
            experiment = self.experiment(plan.experiment)
            checks.check_start(on_flag, own, plan, experiment, approvals=bool(self.table.approvals))
        elif plan.verb == "restore":
            entry, decision = next(iter(reversed(decisions(own))), (None, None))
            if entry and decision and any(rule.requires for rule in applying(plan, self.table.approvals)):
                decision = self.retake(entry, decision, state)
            entry = None  # no step of that decision: only what is required is asked of it
        else:
            entry, decision = checks.check_recorded(on_flag, own, plan, self.experiment(plan.experiment))
        checks.check_not_reopened(on_flag, plan, state)
        checks.check_owner(on_flag, plan, state)
        if plan.after.eligibility.layer:
            moved = self._ledger.entries(kind="intent", environment=self.environment)
            checks.check_layer(moved, plan, self.flags.read)
        check_approvals(on_flag, plan, self.table.approvals, self.table.roles)
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
