"""A real Unleash with one flag, driven in one line per step."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from expnb.decisions.plan import RampPlan
from expnb.flags.address import connect
from expnb.spec.flag import FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
ANA = "UNLEASH_ANA"  # name of a token
REF = FlagRef("gate-position", "production")


def plan_of(state, verb="ramp_up", **changes):
    """A plan from a state that was read."""
    times = {"created_at": NOW, "expires_at": NOW + timedelta(hours=1)}
    hashes = {"policy_hash": "p" * 64, "evidence_hash": "e" * 64}
    after = replace(state.exposure, **changes)
    return RampPlan(verb, "gate_position", state.ref, state.version, state.exposure, after, "Guardrails met.", **hashes, **times)  # fmt: skip


class UnleashFlag:
    """One flag of a server, as expnb and as people in Unleash's own interface see it."""

    def __init__(self, server, address=None, *, token=ANA, ref=REF):
        self.server, self.ref = server, ref
        self.backend = connect(address or server.address, environment=ref.environment, token=token)

    def create(self, weights=None, control="gate_30", **eligibility):
        spec = FlagSpec(self.ref, weights or {"gate_30": 50, "gate_40": 50}, control, **eligibility)
        return self.backend.create(spec, now=NOW)

    def read(self):
        return self.backend.read(self.ref)

    def plan(self, verb="ramp_up", **changes):
        return plan_of(self.read(), verb, **changes)

    def push(self, verb="ramp_up", **changes):
        return self.backend.apply(self.plan(verb, **changes), now=NOW)

    def kill(self):
        return self.backend.kill(self.ref, now=NOW)

    # --- as others see it ---

    @property
    def path(self):
        return self.server.flag(self.ref.flag)

    @property
    def environment(self):
        found = self.server.call("GET", self.path).json()["environments"]
        return next(one for one in found if one["name"] == self.ref.environment)

    @property
    def strategy(self):
        (found,) = self.environment["strategies"]
        return found

    @property
    def events(self):
        found = self.server.events(self.ref.flag)
        return [event for event in found if event["environment"] == self.ref.environment]

    def edit(self, *changes, who="ben", number=0):
        """Change the strategy as somebody does in the interface."""
        sid = self.environment["strategies"][number]["id"]
        patch = [{"op": "add", "path": path, "value": value} for path, value in changes]
        place = f"{self.path}/environments/{self.ref.environment}/strategies/{sid}"
        self.server.call("PATCH", place, patch, token=self.server.person(who)).raise_for_status()

    def post(self, rest, body=None, who="ben"):
        place = f"{self.path}/environments/{self.ref.environment}/{rest}"
        return self.server.call("POST", place, body, token=self.server.person(who)).raise_for_status()
