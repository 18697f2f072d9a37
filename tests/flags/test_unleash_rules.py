"""From exposure to strategy and back, without a server: what holds for every flag."""

import ast
import json
import random
import shutil
import subprocess
from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.servers import untested

from expnb.errors import FlagEditedError, FlagError
from expnb.flags import unleash_race
from expnb.flags.base import OFF
from expnb.flags.unleash_api import CHANGED, DISABLED, Event
from expnb.flags.unleash_rules import Bucketing, Rule, Stamp, assigner, closed, patch, read_strategy, strategy
from expnb.flags.unleash_split import dropped_name, in_order, per_mille
from expnb.spec.flag import UNIT, Eligibility, Exposure

BUCKETS = Bucketing("gate-position", "userId", "userId")
HALVES = Exposure({"a": 50, "b": 50}, "a", enrolled=25)
SIGNS = "_-!.'()*~09azAZbBmM"
names = st.text(SIGNS, min_size=1, max_size=6).filter(lambda name: set(name) != {"."})
several = st.lists(names, min_size=2, max_size=6, unique_by=str.lower)


def rule(exposure=HALVES, **stamp):
    return Rule(exposure, Stamp("00ff", **stamp), BUCKETS)


@st.composite
def exposures(draw):
    arms = draw(st.lists(st.sampled_from(["a", "b", "c", "new", "new-2"]), min_size=2, max_size=5, unique=True))
    cuts = sorted(draw(st.lists(st.integers(0, 1000), min_size=len(arms) - 1, max_size=len(arms) - 1)))
    weights = {name: high - low for name, low, high in zip(arms, [0, *cuts], [*cuts, 1000], strict=True)}
    treatments = draw(st.sets(st.sampled_from(arms[1:]), max_size=len(arms) - 2))
    serve = draw(st.sampled_from(["", *(name for name in arms if name not in treatments)]))
    audience = draw(
        st.dictionaries(st.sampled_from(["country", UNIT]), st.lists(names, min_size=1, max_size=3).map(tuple))
    )
    return Exposure(
        weights,
        arms[0],
        enrolled=draw(st.integers(0, 100)),
        serve=serve,
        holdback=draw(st.integers(0, 100)) if serve else 0,
        dropped=tuple(treatments),
        eligibility=Eligibility(audience),
    )


@given(exposures(), st.integers(0, 10**9), st.text(max_size=64), st.text(max_size=64))
def test_what_is_written_is_what_is_read(exposure, base, plan_id, head):
    written = rule(exposure, base=base, plan_id=plan_id, ledger_head=head)
    assert read_strategy("f", json.loads(json.dumps(strategy(written)))) == written


@given(exposures())
def test_weights_add_up_and_exactly_one_variant_takes_the_rest(exposure):
    variants = strategy(rule(exposure))["variants"]
    assert sum(one["weight"] for one in variants) == 1000
    assert [one["weightType"] for one in variants].count("variable") == 1
    assert len({one["name"] for one in variants}) == len(variants)


@given(exposures(), exposures())
def test_a_patch_leads_from_one_strategy_to_the_other(one, other):
    old, new = strategy(rule(one)), strategy(rule(other))
    assert applied(old, patch(old, new)) == new
    assert patch(new, new) == []


def applied(document, changes):
    """JSON Patch (RFC 6902) as far as it is used: members are set, or taken away."""
    document = json.loads(json.dumps(document))
    for change in changes:
        *path, last = change["path"].strip("/").split("/")
        place = document
        for step in path:
            place = place[step]
        if change["op"] == "remove":
            del place[last]
        else:
            place[last] = change["value"]
    return document


@given(st.integers(0, 100), st.integers(0, 100))
def test_a_ramp_touches_nothing_but_the_rollout_and_the_title(low, high):
    old, new = (Exposure({"a": 50, "b": 50}, "a", enrolled=percent) for percent in (low, high))
    paths = {change["path"] for change in patch(strategy(rule(old)), strategy(rule(new, base=1)))}
    assert paths <= {"/parameters/rollout", "/title"}


@given(exposures(), st.lists(st.text(min_size=1, max_size=8).filter(lambda text: text.isprintable()), max_size=30))
def test_a_dropped_treatment_moves_nobody_else(exposure, units):
    exposure = replace(exposure, serve="", holdback=0, eligibility=Eligibility())
    whole = replace(exposure, dropped=())
    before, after = (assigner(strategy(rule(one)), rule(one)) for one in (whole, exposure))
    for unit in units:
        was = before(unit, {})
        assert after(unit, {}) == (OFF if was in exposure.dropped else was)


@given(several, st.integers(0, 5))
@example(["a", "a_a"], 0)
@example(["a", "a__a", "a_dropped"], 0)
def test_the_mark_of_a_dropped_one_sorts_where_it_stood(arms, place):
    name = arms[place % len(arms)]
    marked = dropped_name(name, arms)
    assert marked not in arms
    assert in_order([marked if arm == name else arm for arm in arms]).index(marked) == in_order(arms).index(name)


def test_variants_are_sorted_as_the_server_sorts_them():
    """The server calls localeCompare of its JavaScript."""
    if not shutil.which("node"):
        untested("the order of variants in JavaScript", "no node here. Install Node.js 20.")
    rng = random.Random(20)  # noqa: S311 - names, not secrets
    made = [["".join(rng.choices(SIGNS, k=rng.randint(1, 4))) for _ in range(6)] for _ in range(3000)]
    lists = [list({name.lower(): name for name in names}.values()) for names in made]
    program = "const all = JSON.parse(require('fs').readFileSync(0)); console.log(JSON.stringify(all.map(one => one.sort((a, b) => a.localeCompare(b)))))"
    done = subprocess.run(["node", "-e", program], input=json.dumps(lists), capture_output=True, text=True, check=True)
    assert [in_order(names) for names in lists] == json.loads(done.stdout)


@given(st.dictionaries(names, st.integers(1, 10**6), min_size=2, max_size=6))
def test_weights_are_thousandths_or_refused_with_the_nearest_ones(weights):
    try:
        parts = per_mille(weights)
    except FlagError as error:
        near = ast.literal_eval(str(error).partition("Write ")[2].partition("}")[0] + "}")
        assert sum(near.values()) == 1000
        total = sum(weights.values())
        assert all(abs(near[name] - 1000 * weight / total) < 1 for name, weight in weights.items())
    else:
        total = sum(weights.values())
        assert all(parts[name] * total == 1000 * weight for name, weight in weights.items())


@pytest.mark.parametrize(
    "title",
    [
        "expnb []",
        "expnb {",
        "expnb {}",
        'expnb {"weights": {"a": "x"}, "control": "a", "enrolled": 0}',
        'expnb {"weights": {"a": 1}, "control": "b", "enrolled": 0}',
        'expnb {"weights": {"a": 1}, "control": "a", "enrolled": 101}',
        'expnb {"weights": {"a": 1}, "control": "a", "enrolled": null}',
        'expnb {"weights": {"a": 1, "b": 2}, "control": "a", "enrolled": 0}',
        'expnb {"weights": {"a": 50, "b": 50}, "control": "a", "enrolled": 25, "base": "x"}',
    ],
)
def test_a_title_that_cannot_be_true_is_an_edit_and_still_closes(title):
    raw = {**strategy(rule()), "title": title}
    with pytest.raises(FlagEditedError):
        read_strategy("f", raw)
    assert closed("f", raw).enrolled == 0


def test_constraints_as_the_interface_saves_them_are_no_edit():
    saved = strategy(rule(Exposure({"a": 50, "b": 50}, "a", eligibility=Eligibility({"country": ("DE",)}))))
    saved["constraints"][0] |= {"inverted": False, "caseInsensitive": False}
    assert read_strategy("f", saved).exposure.eligibility == Eligibility({"country": ("DE",)})


# --- the race ------------------------------------------------------------------------------------


def push(number, enrolled, base, nonce):
    data = strategy(Rule(Exposure({"a": 50, "b": 50}, "a", enrolled=enrolled), Stamp(nonce, base, "p"), BUCKETS))
    return Event(number, CHANGED, f"who-{nonce}", 1, None, data)


def by_hand(event, number, **parameters):
    data = {**event.data, "parameters": {**event.data["parameters"], **parameters}}
    return Event(number, CHANGED, "ui", 1, None, data)


START = push(5, 1, 4, "start")


def test_the_first_push_on_a_version_stands_and_all_later_ones_are_late():
    newer = [push(6, 10, 5, "x"), push(7, 20, 5, "y"), push(8, 30, 5, "z")]
    race = unleash_race.run(5, START.data, newer)
    assert (race.winner, race.lost, race.settled) == (newer[0], {7, 8}, False)
    put_back = Event(9, CHANGED, "who-z", 1, None, newer[0].data)
    assert unleash_race.run(5, START.data, [*newer, put_back]).settled


def test_a_push_that_was_planned_on_a_late_one_adopts_it():
    newer = [push(6, 10, 5, "x"), push(7, 20, 5, "y"), push(8, 30, 7, "z")]
    race = unleash_race.run(5, START.data, newer)
    assert (race.winner, race.settled) == (newer[2], True)


def test_an_edit_by_hand_stands_whatever_title_it_carries():
    late = push(7, 20, 5, "y")
    newer = [push(6, 10, 5, "x"), late, by_hand(late, 8, rollout="77")]
    race = unleash_race.run(5, START.data, newer)
    assert (race.winner, race.settled, race.lost) == (newer[2], True, {7})


def test_a_switch_that_came_first_makes_a_push_late():
    newer = [Event(6, DISABLED, "ui", 1, None, None), push(7, 20, 5, "y")]
    race = unleash_race.run(5, START.data, newer)
    assert (race.winner, race.lost, race.standing) == (None, {7}, START.data)
