"""Services see what was pushed: the real OpenFeature provider reads the file that expnb writes."""

import subprocess
import sys
import threading
import time
from collections import Counter

import pytest
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.flag_evaluation import Reason
from tests.flags.golden.evaluate import attributes

from expnb.spec.flag import Eligibility, FlagRef, FlagSpec

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

    def ask(self, unit, flag=FLAG, about=None):
        return self.provider.resolve_string_details(flag, "code default", EvaluationContext(unit, about or {}))

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


def test_a_service_agrees_on_audience_layer_and_holdout_through_drop_ship_and_restore(ramp, make_plan, service):
    ref = FlagRef("narrow", "production")
    narrow = Eligibility({"country": ("DE", "AT")}, "checkout", (20, 70), 5)
    ramp.backend.create(FlagSpec(ref, {"a": 40, "b": 25, "c": 35}, "a", narrow), now=ramp.now)
    about = [attributes(unit) for unit in UNITS]
    countries = {"country": [unit.get("country", "") for unit in about]}
    seen = []
    for verb, changes in (
        ("ramp_up", {"enrolled": 60}),
        ("drop", {"dropped": ("b",)}),
        ("ship", {"serve": "c", "holdback": 10}),
        ("restore", {"serve": "", "holdback": 0, "dropped": ()}),
    ):
        receipt = ramp.backend.apply(make_plan(ramp.backend.read(ref), verb, **changes), now=ramp.now)
        revision = int(receipt.after.version.partition("-")[0])
        service.wait_until(lambda now=revision: service.ask("u", ref.flag).flag_metadata.get("revision") == now)
        seen.append([service.ask(unit, ref.flag, said).value for unit, said in zip(UNITS, about, strict=True)])
        assert seen[-1] == list(ramp.backend.evaluate(ref, UNITS, countries))
        assert {"a", "c", "off"} <= set(seen[-1])
    assert seen[3] == seen[0]
    assert seen[1] == ["off" if variant == "b" else variant for variant in seen[0]]


RUNNING_SERVICE = """
import logging, sys, time
logging.disable(logging.CRITICAL)
from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import ResolverType
from openfeature.evaluation_context import EvaluationContext
from openfeature.provider import ProviderStatus
api.set_provider(FlagdProvider(resolver_type=ResolverType.FILE, offline_flag_source_path=sys.argv[1], deadline_ms=20))
client, said = api.get_client(), ""
while client.get_provider_status() != ProviderStatus.READY:
    time.sleep(0.005)
while True:
    answer = client.get_string_details("gate-position", "code default", EvaluationContext("user-1"))
    says = f"{answer.flag_metadata.get('revision')} {answer.value} {answer.reason}"
    if says != said:
        print(says, flush=True)
    said = says
    time.sleep(0.005)
"""


def test_a_running_service_in_another_process_sees_a_push_a_kill_and_a_restore(ramp):
    process = subprocess.Popen([sys.executable, "-c", RUNNING_SERVICE, ramp.path], stdout=subprocess.PIPE, text=True)
    watchdog = threading.Timer(60, process.kill)  # a service that says nothing more ends the test
    watchdog.start()
    try:
        assert process.stdout.readline().split() == ["1", "off", "TARGETING_MATCH"]
        ramp.push(enrolled=100)
        (variant,) = ramp.backend.evaluate(ramp.ref, ["user-1"])
        assert process.stdout.readline().split() == ["2", variant, "TARGETING_MATCH"]
        killed = ramp.kill()
        assert process.stdout.readline().split(maxsplit=1) == ["3", "code default DISABLED\n"]
        ramp.push("restore", enrolled=killed.before.exposure.enrolled)
        assert process.stdout.readline().split() == ["4", variant, "TARGETING_MATCH"]
    finally:
        watchdog.cancel()
        process.kill()
        process.communicate()
