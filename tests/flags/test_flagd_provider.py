"""Services see what was pushed: the real OpenFeature provider reads the file that expnb writes."""

import time
from collections import Counter

import pytest
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import Reason

from expnb.spec.flag import FlagRef, FlagSpec

UNITS = [f"user-{number}" for number in range(19_990)] + [
    "0",
    "false",
    " ",
    "ü",
    "💶",
    "a.b",
    '"',
    "\n",
    "null",
    "x" * 500,
]
FLAG = "gate-position"


class Service:
    """A service with the flagd provider in file mode."""

    def __init__(self, path):
        self.provider = FlagdProvider(
            resolver_type=ResolverType.FILE, offline_flag_source_path=str(path), deadline_ms=20
        )
        self.provider.initialize(EvaluationContext())

    def ask(self, unit, flag=FLAG):
        return self.provider.resolve_string_details(flag, "code default", EvaluationContext(targeting_key=unit))

    def ask_all(self, units):
        return [self.ask(unit).value for unit in units]

    def wait_for(self, version):
        """Ask until the service reports the revision of `version`; the provider polls."""
        revision = int(version.partition("-")[0])
        self.wait_until(lambda: self.ask("user-1").flag_metadata.get("revision") == revision)

    def wait_until(self, seen, seconds=10.0):
        deadline = time.monotonic() + seconds
        while not seen():
            assert time.monotonic() < deadline, f"the service still answers {self.ask('user-1')}"
            time.sleep(0.005)


@pytest.fixture
def service(ramp):
    service = Service(ramp.path)
    yield service
    service.provider.shutdown()


def test_a_service_sees_each_push_and_agrees_with_expnb_on_20_000_units(ramp, service):
    for changes in ({"enrolled": 0.5}, {"enrolled": 50}, {"serve": "gate_40", "holdback": 5}):
        receipt = ramp.push(**changes)
        service.wait_for(receipt.after.version)
        expected = list(ramp.backend.evaluate(ramp.ref, UNITS))
        assert service.ask_all(UNITS) == expected
        exposed = 20_000 - Counter(expected)["off"]
        wanted = 20_000 if changes.get("serve") else changes["enrolled"] * 200
        assert exposed == pytest.approx(wanted, abs=4 * (wanted * 0.5 + 1) ** 0.5)


def test_a_service_sees_every_rung_up_and_down(ramp, service):
    some = UNITS[:500]
    for percent in (1, 5, 25, 99.99, 100, 12.34, 0):
        receipt = ramp.push(enrolled=percent)
        service.wait_for(receipt.after.version)
        assert service.ask_all(some) == list(ramp.backend.evaluate(ramp.ref, some))


@pytest.mark.parametrize("changes", [{"enrolled": 100}, {"serve": "gate_40"}], ids=["all enrolled", "shipped"])
def test_a_caller_without_a_targeting_key_is_never_exposed(ramp, service, changes):
    service.wait_for(ramp.push(**changes).after.version)
    for key in (None, ""):
        assert service.ask(key).value == "off"
    assert service.provider.resolve_string_details(FLAG, "code default", None).value == "off"


def test_a_service_gets_its_code_default_after_a_kill_and_the_variants_back_after_a_restore(ramp, service):
    receipt = ramp.push(enrolled=100)
    service.wait_for(receipt.after.version)
    exposed = service.ask_all(UNITS[:200])
    killed = ramp.kill()
    service.wait_for(killed.after.version)
    answer = service.ask("user-1")
    assert (answer.value, answer.reason) == ("code default", Reason.DISABLED)
    restored = ramp.push("restore", enrolled=killed.before.exposure.enrolled)
    service.wait_for(restored.after.version)
    assert service.ask_all(UNITS[:200]) == exposed


def test_a_service_sees_the_kill_of_a_flag_with_torn_metadata(ramp, service):
    service.wait_for(ramp.push(enrolled=100).after.version)
    ramp.edit(lambda flag: flag.update(metadata={"enrolled": "fi"}))
    ramp.kill()
    service.wait_until(lambda: service.ask("user-1").reason == Reason.DISABLED)


@pytest.mark.parametrize(
    "weights", [{"a": 33.3, "b": 66.7}, {"a": 1, "b": 1, "c": 1}, {"a": 0, "b": 1}, {"only": 1}], ids=str
)
def test_a_service_agrees_with_expnb_for_any_weights(ramp, make_plan, weights):
    ref, some = FlagRef("other", "production"), UNITS[-500:]
    state = ramp.backend.create(FlagSpec(ref, weights, min(weights)), now=ramp.now)
    ramp.backend.apply(make_plan(state, enrolled=60), now=ramp.now)
    service = Service(ramp.path)
    try:
        answers = [service.ask(unit, "other").value for unit in some]
    finally:
        service.provider.shutdown()
    assert answers == list(ramp.backend.evaluate(ref, some))
    assert set(answers) == {"off", *(name for name, weight in weights.items() if weight)}


def test_a_service_serves_dropped_treatments_to_nobody_and_moves_nobody_else(ramp, make_plan):
    ref, some = FlagRef("other", "production"), UNITS[-2000:]
    weights = {"a": 40, "b": 20, "c": 25, "d": 15}
    state = ramp.backend.create(FlagSpec(ref, weights, "a"), now=ramp.now)
    before = ramp.backend.apply(make_plan(state, enrolled=80), now=ramp.now).after
    served = list(ramp.backend.evaluate(ref, some))
    after = ramp.backend.apply(make_plan(before, "drop", dropped=("b", "d")), now=ramp.now).after
    service = Service(ramp.path)
    try:
        answers = [service.ask(unit, "other").value for unit in some]
    finally:
        service.provider.shutdown()
    assert answers == ["off" if name in {"b", "d"} else name for name in served]
    assert answers == list(ramp.backend.evaluate(ref, some))
    assert after == ramp.backend.read(ref)
    assert after.exposure.dropped == ("b", "d")
