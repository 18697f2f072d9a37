"""A workspace in memory, with a real check of versions."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from expnb.decisions.decision import Decision, Rule
from expnb.decisions.plan import RampPlan
from expnb.errors import ApprovalError
from expnb.flags.base import Receipt, check_push
from expnb.spec.flag import Exposure, FlagRef, FlagState

NOW = datetime(2017, 2, 20, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")
SPLIT = Exposure({"gate_30": 50, "gate_40": 50}, "gate_30", 50)


@dataclass
class FlagInMemory:
    """One flag; every write makes a new version."""

    state: FlagState

    def read(self, ref: FlagRef) -> FlagState:
        return self.state

    def set(self, exposure: Exposure, *, enabled: bool = True) -> FlagState:
        version = str(int(self.state.version) + 1)
        self.state = replace(self.state, exposure=exposure, version=version, enabled=enabled, changed_at=NOW)
        return self.state


@dataclass
class FakeWorkspace:
    """What a panel needs of a workspace."""

    flags: FlagInMemory
    actor: str = "ana"
    environment: str = "production"
    need: int = 0
    agreed: list[str] = field(default_factory=list)
    applied: list[RampPlan] = field(default_factory=list)
    fails: BaseException | None = None

    def approvals_needed(self, plan: RampPlan) -> int:
        return self.need if plan.raises_treated else 0

    def approvals(self, plan: RampPlan) -> list[str]:
        return self.agreed

    def apply(self, plan: RampPlan) -> Receipt:
        self.applied.append(plan)
        if self.fails:
            raise self.fails
        if len(set(self.agreed)) < self.approvals_needed(plan):
            raise ApprovalError("25 % treated in production needs 1 approval, 0 given. Nothing was pushed.")
        before = self.flags.read(plan.ref)
        check_push(plan, before, now=NOW)
        return Receipt(plan.ref, plan.verb, before, self.flags.set(plan.after), NOW, "memory")


@pytest.fixture
def workspace():
    """A flag at 50 percent enrolled."""
    return FakeWorkspace(FlagInMemory(FlagState(REF, SPLIT, "7", enabled=True, changed_at=NOW)))


@pytest.fixture
def plan_to():
    """A function that makes a plan from the flag at 50 percent."""

    def make(verb: str, after: Exposure, **changes: object) -> RampPlan:
        facts = {
            "verb": verb, "experiment": "gate_position", "ref": REF, "base_version": "7", "before": SPLIT, "after": after,
            "reason": "Goal retention_7 under gate_40 is harmed.", "policy_hash": "p", "evidence_hash": "e", "created_at": NOW, "expires_at": NOW + timedelta(hours=24),
        }  # fmt: skip
        return RampPlan(**(facts | changes))

    return make


@pytest.fixture
def roll_back(plan_to):
    return plan_to("roll_back", replace(SPLIT, enrolled=0))


@pytest.fixture
def ramp_up(plan_to):
    return plan_to("ramp_up", replace(SPLIT, enrolled=100))


@pytest.fixture
def decide_like():
    """A function that makes the decision behind a plan."""

    def make(plan: RampPlan, *, rules: int = 3, **changes: object) -> Decision:
        outcomes = ("met", "not met", "unknown")
        asked = tuple(
            Rule(
                name="harm",
                metric=f"metric_{n}",
                variant="gate_40",
                value=0.5,
                threshold=0.9,
                outcome=outcomes[n % 3],
                sentence=f"Sentence {n} of a rule. " + "x" * 500,
            )
            for n in range(rules)
        )
        facts = {
            "experiment": plan.experiment, "action": plan.verb, "variant": "gate_40", "reasons": ("First reason.", "Second reason."), "rules": asked, "notes": ("A note.",),
            "flag": FlagState(REF, plan.before, plan.base_version, enabled=True, changed_at=NOW), "to": plan.after, "looks": 2, "prior": "flat", "engine": "exact", "seed": 1,
            "fingerprint": "f" * 64, "first_day": None, "watermark": None, "versions": {}, "policy_hash": "p", "decided_at": NOW,
        }  # fmt: skip
        return Decision(**(facts | changes))

    return make
