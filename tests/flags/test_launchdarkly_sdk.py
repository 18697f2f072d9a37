"""The vendor's own SDK serves what `evaluate` says: the one part of LaunchDarkly that can be proven without an account."""

from dataclasses import replace

import pytest

from expnb.flags.launchdarkly_line import assigner, variants
from expnb.flags.launchdarkly_rules import targeting
from expnb.spec.flag import Eligibility, Exposure

ldclient = pytest.importorskip("ldclient", reason="launchdarkly-server-sdk is not installed")

UNITS = [f"user-{number}" for number in range(20_000)]
RAMP = Exposure({"a": 50, "b": 30, "c": 20}, "a", enrolled=25)
EXPOSURES = {
    "ramp": RAMP,
    "full": replace(RAMP, enrolled=100),
    "dropped": replace(RAMP, dropped=("b",)),
    "shipped": replace(RAMP, serve="b", holdback=10),
    "two arms": Exposure({"old": 1, "new": 2}, "old", enrolled=12.5),
    "audience": replace(RAMP, eligibility=Eligibility(audience={"country": ("DE", "AT")})),
}


def served_by_sdk(exposure):
    from ldclient.impl.evaluator import Evaluator
    from ldclient.impl.events.types import EventFactory
    from ldclient.impl.model import FeatureFlag

    order = variants(exposure)
    raw = {"key": "flag", "salt": "a1b2", "version": 1, "on": True, "variations": order, "offVariation": 1}
    flag = FeatureFlag({**raw, **targeting(exposure, order)})
    evaluator = Evaluator(lambda _: None, lambda _: None, lambda _: (None, ""))
    contexts = (
        ldclient.Context.builder(unit).set("country", "DE" if number % 2 else "FR").build()
        for number, unit in enumerate(UNITS)
    )
    return [evaluator.evaluate(flag, context, EventFactory(with_reasons=False)).detail.value for context in contexts]


@pytest.mark.parametrize("exposure", EXPOSURES.values(), ids=EXPOSURES)
def test_the_vendors_sdk_serves_20000_users_as_evaluate_says(exposure):
    assign = assigner("flag", "a1b2", exposure)
    ours = [assign(unit, {"country": "DE" if number % 2 else "FR"}) for number, unit in enumerate(UNITS)]
    assert served_by_sdk(exposure) == ours
