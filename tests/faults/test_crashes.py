"""Pushes whose kernel dies: wherever that was, the next one finds the truth, and goes on."""

import os
from datetime import timedelta

import pytest
from tests.faults.crash import (
    AFTERWARDS,
    Act,
    acts,
    chosen,
    crash,
    forked,
    functions,
    lost,
    recovered,
    roll_back_plan,
    soak,
    steps_of,
    stopped_when,
)
from tests.faults.shop import LATER, NAME, NOW, make_shop, receipts

ACTS = ("start", "ramp_up", "roll_back", "restore", "ship", "kill", "break glass", "settle")
# The functions in which something becomes true: here every line is a moment to die.
TURNS = (
    "apply",
    "_push",
    "append",
    "appending",
    "replace_file",
    "_write",
    "_commit",
    "_settled",
    "kill",
    "keep_for_later",
)


@pytest.fixture(scope="module")
def about_to(tmp_path_factory):
    """Shops that are just about to change their flag, by what they do."""
    folder = tmp_path_factory.mktemp("acts")
    shop = make_shop(folder / "shop")
    found = {act.name: act for act in acts(folder / "acts", shop)}
    return found | {"settle": lost(folder, found["ramp_up"])}


@pytest.mark.parametrize("name", ACTS)
def test_nothing_is_lost_wherever_the_process_is_killed(about_to, name, tmp_path):
    act = about_to[name]
    steps = steps_of(act, act.shop.copied(tmp_path / "dry"))
    turns = [number for number in chosen(steps, each=1) if steps[number].rpartition(" ")[2] in TURNS]
    entered = functions(steps)
    numbers = sorted({*turns[:: max(1, len(turns) // 10)], *entered[:: max(1, len(entered) // 5)]})
    assert len(numbers) >= 10, "too few steps to show anything"
    runs = [crash(act, number, steps[number], AFTERWARDS[number % 2], tmp_path) for number in numbers]
    assert all(run.killed for run in runs)
    assert [run for run in runs if run.wrong] == []


def die_in(act, where, shop):
    """The act, killed where a function of this name begins."""
    assert os.WIFSIGNALED(
        forked(lambda: stopped_when(lambda frame: frame.f_code.co_name == where, lambda: act.do(shop)))
    )


def test_a_crash_before_the_write_is_settled_as_not_applied(about_to, tmp_path):
    act = about_to["ramp_up"]
    shop = act.shop.copied(tmp_path / "shop")
    die_in(act, "replace_file", shop)
    (entry,) = shop.opened("carl", LATER).settle()
    assert entry.body["applied"] is False
    assert shop.opened().flags.read(shop.ref).exposure == act.plan.before


def test_a_crash_after_the_write_is_settled_as_applied_by_reading(about_to, tmp_path):
    act = about_to["ramp_up"]
    shop = act.shop.copied(tmp_path / "shop")
    die_in(act, "serve_sample", shop)
    version = shop.opened().flags.read(shop.ref).version
    (entry,) = shop.opened("carl", LATER).settle()
    assert entry.body["applied"] is True
    assert shop.opened().flags.read(shop.ref).version == version, "settled by a second write"


def test_an_open_push_is_shown_to_whoever_comes_next(about_to, tmp_path):
    act = about_to["ramp_up"]
    shop = act.shop.copied(tmp_path / "shop")
    die_in(act, "serve_sample", shop)
    assert shop.opened("carl", NOW + timedelta(seconds=30)).open_matters() == []  # it may be on its way
    (matter,) = shop.opened("carl", LATER).open_matters()
    assert "has no outcome" in matter


def test_the_last_receipt_is_of_the_last_change_also_when_an_earlier_push_was_found_later(about_to, tmp_path):
    act = about_to["ramp_up"]
    shop = act.shop.copied(tmp_path / "shop")
    die_in(act, "serve_sample", shop)
    soon = shop.opened("carl", NOW + timedelta(seconds=30))
    closed = soon.apply(roll_back_plan(soon))
    later = shop.opened("carl", LATER)
    assert [entry.body["applied"] for entry in later.settle()] == [True]
    assert later.last_receipt(later.experiment(NAME)) == closed


def test_the_same_plan_pushed_again_after_a_crash_is_applied_once_in_the_ledger(about_to, tmp_path):
    act = about_to["ramp_up"]
    shop = act.shop.copied(tmp_path / "shop")
    die_in(act, "replace_file", shop)
    shop.opened("carl", NOW + timedelta(seconds=30)).apply(act.plan)
    ws = shop.opened("carl", LATER)
    ws.settle()
    assert [one.body["applied"] for one in ws.ledger.entries(kind="outcome")].count(True) == len(receipts(ws, shop))
    outcomes = [one.body["applied"] for one in ws.ledger.entries(kind="outcome") if one.body["plan_id"] == act.plan.id]
    assert outcomes.count(True) == 1


@pytest.mark.parametrize("name", ["kill", "break glass"])
def test_a_kill_whose_kernel_died_before_it_was_recorded_is_found_and_can_be_undone(about_to, name, tmp_path):
    act = about_to[name]
    shop = act.shop.copied(tmp_path / "shop")
    die_in(act, {"kill": "record", "break glass": "keep_for_later"}[name], shop)
    ws = shop.opened("carl", LATER)
    assert not ws.flags.read(shop.ref).enabled
    ws.settle()
    receipt = ws.last_receipt(ws.experiment(NAME))
    assert (receipt.verb, receipt.after.enabled) == ("kill", False)
    assert recovered(act, shop, AFTERWARDS[0]) == []


@pytest.mark.parametrize("moment", ["step", "time"])
def test_a_shop_in_which_everybodys_kernel_dies_goes_on(tmp_path, moment):
    shop = make_shop(tmp_path / "shop").ramped(rungs=2)
    runs = list(soak(shop, runs=8, seed=5, moment=moment, started=NOW + timedelta(hours=1)))
    assert any(run.killed for run in runs)
    assert [run for run in runs if run.wrong] == []


def test_a_run_that_loses_something_is_noticed(about_to, tmp_path):
    """The instrument itself: a ledger that lost its last line, and a flag that moved behind everybody's back."""
    act = about_to["ramp_up"]
    cut = act.shop.copied(tmp_path / "cut")
    act.do(cut)
    cut.opened().flags.apply(roll_back_plan(cut.opened()), now=NOW)  # past the ledger
    assert recovered(Act("ramp_up", cut, act.plan), cut, AFTERWARDS[0]) != []
