"""Whatever people do to a flag, in whatever order, and wherever their kernels die: the promises hold."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from tests.faults.crash import roll_back_plan
from tests.faults.shop import APPROVED_ABOVE, LADDER, NAME, NOW, make_shop, receipts

from expnb.errors import ExpnbError
from expnb.ledger.approvals import same_person

UNITS = [f"user-{number}" for number in range(400)]
PEOPLE = ("ana", "ben", "Ana")  # the last is the first under another spelling
MINUTE = timedelta(minutes=1)


class Died(BaseException):
    """The kernel is gone: nothing of expnb may catch it."""


class Watched:
    """A backend that checks each push as it arrives, and lets kernels die around it."""

    def __init__(self, backend, ledger):
        self.backend, self.ledger = backend, ledger
        self.dies = ""

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def apply(self, plan, **how):
        last = self.ledger.entries()[-1]
        assert (last.kind, last.body.get("plan_id")) == ("intent", plan.id), "a push without its intent"
        entries = [one for one in self.ledger.entries(flag=plan.ref.flag) if one.body.get("plan_id") == plan.id]
        assert "declined" not in {one.kind for one in entries} or not plan.raises_treated, "a declined plan was pushed"
        if plan.raises_treated and plan.after.treated > APPROVED_ABOVE:
            authors = {same_person(one.body["actor"]) for one in entries if one.kind == "request"}
            others = {same_person(one.body["actor"]) for one in entries if one.kind == "approval"}
            assert others - authors, "a step without an approval of somebody else"
        return self._around(lambda: self.backend.apply(plan, **how))

    def kill(self, ref, **how):
        return self._around(lambda: self.backend.kill(ref, **how))

    def _around(self, write):
        if self.dies == "before":
            raise Died
        receipt = write()
        if self.dies == "after":
            raise Died
        return receipt


class Protocol(RuleBasedStateMachine):
    """Ana and Ben run one experiment; somebody edits the flag behind their backs; kernels die."""

    flags = "memory://{name}"

    @initialize()
    def open(self):
        self.folder = Path(tempfile.mkdtemp(prefix="expnb-protocol-"))
        self.shop = make_shop(self.folder / "shop", flags=self.flags.format(name=uuid4()))
        self.now, self.plans, self.foreign = NOW, [], False
        ws = self.shop.opened()
        self.served = {}
        ws.apply(ws.start(ws.experiment(NAME)))
        self.looked()

    def teardown(self):
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder)

    def ws(self, actor, dies=""):
        ws = self.shop.opened(actor, self.now)
        watched = Watched(ws.flags, ws.ledger)
        watched.dies = dies
        ws.__dict__["flags"] = watched  # where the workspace keeps its backend
        return ws

    def looked(self):
        """Who is served what now; people keep their variant while only the gate opens."""
        ws = self.ws("eve")
        state = ws.flags.read(self.shop.ref)
        served = dict(zip(UNITS, ws.flags.evaluate(self.shop.ref, UNITS), strict=True))
        known = self.served.setdefault((state.exposure.enrolled, state.exposure.serve), served) if state.enabled else {}
        if state.enabled:
            assert known == served, "the same exposure serves other people than before"
        lower = [
            was
            for (enrolled, serve), was in self.served.items()
            if not serve and not state.exposure.serve and enrolled < state.exposure.enrolled and state.enabled
        ]
        for was in lower:
            assert all(served[unit] == got for unit, got in was.items() if got != "off"), "somebody lost the variant"

    # --- what people do ---------------------------------------------------------------------------

    @rule(actor=st.sampled_from(PEOPLE), to=st.sampled_from([None, *LADDER]))
    def plan(self, actor, to):
        with suppress(ExpnbError):
            ws = self.ws(actor)
            decision = self.shop.decided(actor, self.now)
            self.plans.append(ws.plan(decision, to=to))

    @rule(actor=st.sampled_from(PEOPLE))
    def plan_restore(self, actor):
        with suppress(ExpnbError):
            ws = self.ws(actor)
            self.plans.append(ws.plan_restore(ws.last_receipt(ws.experiment(NAME))))

    @precondition(lambda self: self.plans)
    @rule(actor=st.sampled_from(PEOPLE), which=st.integers(-2, -1))
    def request(self, actor, which):
        with suppress(ExpnbError):
            self.ws(actor).request(self.plans[max(which, -len(self.plans))])

    @precondition(lambda self: self.plans)
    @rule(actor=st.sampled_from((*PEOPLE, "anonymous")), which=st.integers(-2, -1))
    def approve(self, actor, which):
        with suppress(ExpnbError):
            self.ws(actor).approve(self.plans[max(which, -len(self.plans))])

    @precondition(lambda self: self.plans)
    @rule(actor=st.sampled_from(PEOPLE))
    def decline(self, actor):
        with suppress(ExpnbError):
            self.ws(actor).decline(self.plans[-1], reason="Not today.")

    @precondition(lambda self: self.plans)
    @rule(
        actor=st.sampled_from(PEOPLE), which=st.integers(-2, -1), dies=st.sampled_from(["", "", "", "before", "after"])
    )
    def apply(self, actor, which, dies):
        with suppress(ExpnbError, Died):
            self.ws(actor, dies).apply(self.plans[max(which, -len(self.plans))])

    @rule(actor=st.sampled_from(PEOPLE))
    def step_up_as_agreed(self, actor):
        """The usual way, so that the ramp gets somewhere."""
        with suppress(ExpnbError):
            ws = self.ws(actor)
            plan = ws.plan(self.shop.decided(actor, self.now))
            if ws.approvals_needed(plan):
                ws.request(plan)
                self.ws("carl").approve(plan)
            ws.apply(plan)

    @precondition(lambda self: self.plans)
    @rule(percent=st.sampled_from(LADDER))
    def more_than_was_planned(self, percent):
        plan = self.plans[-1]
        with suppress(ExpnbError):
            self.ws("ana").apply(replace(plan, after=replace(plan.before, enrolled=percent)))

    @rule(actor=st.sampled_from(PEOPLE), dies=st.sampled_from(["", "", "before", "after"]))
    def roll_back(self, actor, dies):
        with suppress(ExpnbError, Died):
            ws = self.ws(actor, dies)
            ws.roll_back(ws.experiment(NAME), reason="It hurts.")

    @rule(actor=st.sampled_from(PEOPLE))
    def kill(self, actor):
        receipt = self.ws(actor).kill(NAME)
        assert not receipt.after.enabled
        assert receipt.after.exposure.treated == 0

    @rule()
    def edited_by_somebody_else(self):
        """Another program closes the gate; it asks nobody."""
        backend = self.shop.opened("eve", self.now).flags
        with suppress(ExpnbError):
            plan = roll_back_plan(self.shop.opened("eve", self.now), "Closed by hand.")
            if plan.changes:
                backend.apply(plan, now=self.now)
                self.foreign = True

    @rule(minutes=st.sampled_from([0, 2]))
    def time_passes_and_somebody_settles(self, minutes):
        self.now += minutes * MINUTE
        ws = self.ws("carl")
        ws.settle()
        assert all(self.now - entry.recorded_at < MINUTE for entry in ws.control.unsettled()), "left open"

    # --- what holds -------------------------------------------------------------------------------

    @invariant()
    def the_promises_hold(self):
        ws = self.ws("eve")
        ws.ledger.verify()
        state = ws.flags.read(self.shop.ref)
        assert state.exposure.enrolled in (0, *LADDER)
        assert state.exposure.serve in ("", "green")
        self.looked()
        self.outcomes_are_single()
        if not self.foreign and not ws.control.unsettled():
            said = receipts(ws, self.shop)[-1].after
            assert (said.exposure, said.enabled) == (state.exposure, state.enabled), (
                "the ledger does not know this state"
            )

    def outcomes_are_single(self):
        outcomes = self.ws("eve").ledger.entries(kind="outcome")
        intents = [one.body["intent"] for one in outcomes]
        assert len(intents) == len(set(intents)), "an intent with two outcomes"
        applied = [one.body["plan_id"] for one in outcomes if one.body["applied"]]
        assert len(applied) == len(set(applied)), "a plan that was applied twice"


class ProtocolOnAFile(Protocol):
    """The same on a flagd file."""

    flags = "flagd:flags.flagd.json"


def run(machine, examples, steps):
    """So many stories of so many steps, the same ones each time."""
    how = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        derandomize=True,
        database=None,
        phases=(Phase.generate,),  # a story of a few steps is short enough to read
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=how)


@pytest.mark.parametrize("machine", [Protocol, ProtocolOnAFile], ids=["memory", "file"])
def test_the_promises_hold_in_any_order_of_acts_and_deaths(machine):
    run(machine, examples=5, steps=15)
