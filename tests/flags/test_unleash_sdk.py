"""The evaluator of expnb and Unleash's own Python SDK give 20,000 users the same, at every step of a flag's life."""

import tempfile
from collections import Counter
from dataclasses import replace

import httpx
import pytest
from tests.flags.unleash_flag import NOW, UnleashFlag, plan_of
from tests.flags.unleash_server import CLIENTS

from expnb.spec.flag import UNIT, Eligibility

unleash_client = pytest.importorskip("UnleashClient")
FileCache = pytest.importorskip("UnleashClient.cache").FileCache
utils = pytest.importorskip("UnleashClient.utils")
USERS = [f"user-{number}" for number in range(20_000)]
COUNTRIES = ["DE", "AT", "de", " DE", "", "FR"]


@pytest.fixture
def server(unleash, monkeypatch):
    unleash.clear()
    monkeypatch.setenv("UNLEASH_ANA", unleash.person("ana"))
    return unleash


@pytest.fixture
def sdk(server, tmp_path):
    """What services serve: the SDK over the feed of the server as it is now."""

    def served(flag, users=USERS, **properties):
        cache = FileCache("expnb-tests", tempfile.mkdtemp(dir=tmp_path))
        cache.bootstrap_from_dict(fresh_feed(server, flag))
        client = unleash_client.UnleashClient(
            url=f"{server.url}/api",
            app_name="expnb-tests",
            refresh_interval=3600,
            disable_metrics=True,
            disable_registration=True,
            custom_headers={"Authorization": CLIENTS["production"]},
            cache=cache,
            multiple_instance_mode=utils.InstanceAllowType.SILENTLY_ALLOW,
        )
        client.initialize_client(fetch_toggles=False)
        try:
            found = []
            for place, user in enumerate(users):
                context = {"userId": user, "properties": {name: values[place] for name, values in properties.items()}}
                found.append(client.get_variant(flag.ref.flag, context))
        finally:
            client.destroy()
        known = set(flag.read().exposure.weights)
        return [one["name"] if one["enabled"] and one["name"] in known else "off" for one in found]

    return served


def fresh_feed(server, flag):
    """The feed for SDKs, once it has the newest change: the server renews it now and then."""
    wanted = flag.strategy
    headers = {"Authorization": CLIENTS["production"]}
    for _ in range(600):
        feed = httpx.get(f"{server.url}/api/client/features", headers=headers, timeout=20).raise_for_status().json()
        found = [one["strategies"] for one in feed["features"] if one["name"] == flag.ref.flag and one["enabled"]]
        if (
            found
            and found[0]
            and all(found[0][0][part] == wanted[part] for part in ("parameters", "variants", "constraints"))
        ):
            return feed
    raise AssertionError(feed)


def evaluated(flag, users=USERS, **attributes):
    return list(flag.backend.evaluate(flag.ref, users, attributes or None))


def test_the_sdk_and_our_evaluator_agree_from_0_to_100_and_nobody_is_lost_or_switched(server, sdk):
    flag = UnleashFlag(server)
    flag.create()
    seen = {0: sdk(flag)}
    assert seen[0] == evaluated(flag) == ["off"] * len(USERS)
    for percent in (1, 5, 25, 50, 100, 25):
        flag.push("ramp_up" if percent != 25 else "ramp_down", enrolled=percent)
        served = sdk(flag)
        assert served == evaluated(flag)
        assert sum(name != "off" for name in served) / len(USERS) == pytest.approx(percent / 100, abs=0.015)
        if percent in seen:
            assert served == seen[percent]  # lowered: the same people as before
        else:
            before = seen[max(seen)]
            assert all(was in ("off", now) for was, now in zip(before, served, strict=True))
            seen[percent] = served


def test_after_ship_everybody_gets_the_winner_but_the_holdback_and_undo_brings_the_same_people_back(server, sdk):
    flag = UnleashFlag(server)
    flag.create()
    split = sdk_at_half = None
    flag.push(enrolled=50)
    split, sdk_at_half = evaluated(flag), sdk(flag)
    before = flag.read().exposure
    flag.push("ship", serve="gate_40", holdback=10)
    served = sdk(flag)
    assert served == evaluated(flag)
    assert Counter(served)["gate_30"] == pytest.approx(2000, abs=170)  # 4 standard deviations
    assert set(served) == {"gate_30", "gate_40"}
    flag.backend.apply(replace(plan_of(flag.read(), "restore"), after=before), now=NOW)
    assert sdk(flag) == sdk_at_half == split == evaluated(flag)


def test_dropped_treatments_are_outside_the_gate_and_all_others_stay(server, sdk):
    """Names on purpose: the second of two dropped ones begins like one that stays, and one sorts behind another."""
    flag = UnleashFlag(server)
    flag.create({"new": 20, "new-2": 30, "a": 25, "Z": 25}, "a")
    flag.push(enrolled=80)
    whole = sdk(flag)
    assert whole == evaluated(flag)
    for dropped in (("new",), ("Z", "new"), ("new-2",), ()):
        flag.push("drop", dropped=dropped)
        served = sdk(flag)
        assert served == evaluated(flag)
        assert served == ["off" if name in dropped else name for name in whole]


def test_after_a_kill_nobody_is_served_and_restore_brings_the_same_people_back(server, sdk):
    flag = UnleashFlag(server)
    flag.create()
    flag.push(enrolled=25)
    exposed = sdk(flag)
    receipt = flag.kill()
    assert evaluated(flag) == [""] * len(USERS)
    flag.backend.apply(replace(plan_of(flag.read(), "restore"), after=receipt.before.exposure), now=NOW)
    assert sdk(flag) == evaluated(flag) == exposed


def test_an_audience_and_an_allow_list_let_in_the_same_people_in_both(server, sdk):
    countries = [COUNTRIES[number % len(COUNTRIES)] for number in range(len(USERS))]
    listed = tuple(USERS[:200])
    flag = UnleashFlag(server)
    flag.create(eligibility=Eligibility({"country": ("DE", "AT"), UNIT: listed}))
    flag.push(enrolled=50)
    served = sdk(flag, country=countries)
    assert served == evaluated(flag, country=countries)
    let_in = {user for user, name in zip(USERS, served, strict=True) if name != "off"}
    assert 0 < len(let_in) < 100
    assert let_in <= {user for user, country in zip(listed, countries, strict=False) if country in ("DE", "AT")}


def test_strange_units_and_uneven_weights_are_hashed_alike(server, sdk):
    units = ["ü-💶", " ", "a:b", "0", "x" * 300, "line\nbreak", "\x7f", *USERS[:3000]]
    flag = UnleashFlag(server)
    flag.create({"gate_30": 1, "gate_40": 998, "zero": 0, "rest": 1})
    flag.push(enrolled=99)
    assert sdk(flag, units) == evaluated(flag, units)


def test_another_context_field_can_name_the_unit(server, sdk):
    flag = UnleashFlag(server, f"{server.address}?stickiness=accountId")
    flag.create()
    flag.push(enrolled=50)
    served = sdk(flag, ["somebody"] * 2000, accountId=USERS[:2000])
    assert served == evaluated(flag, USERS[:2000])
    assert {"off", "gate_30", "gate_40"} == set(served)


def test_the_sdk_exposes_an_empty_user_id_as_the_documentation_warns(server, sdk):
    flag = UnleashFlag(server)
    flag.create()
    flag.push(enrolled=100)
    assert sdk(flag, [""]) != ["off"]
    assert evaluated(flag, [""]) == ["off"]
