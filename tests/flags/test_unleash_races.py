"""Several people write one flag of a real Unleash at once: never two winners, every loser is told, and the winner's value stands."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from threading import Barrier

import pytest
from tests.flags.unleash_flag import NOW, UnleashFlag, plan_of

from expnb.errors import FlagConflictError, FlagError, FlagRaceError, PushUncertainError
from expnb.flags import unleash_rules as rules

PEOPLE = ("ana", "ben", "cem", "dia")


@pytest.fixture
def flags(unleash, monkeypatch):
    """One flag, and the notebooks of several people."""
    unleash.clear()
    for who in PEOPLE:
        monkeypatch.setenv(f"UNLEASH_{who.upper()}", unleash.person(who))
    flags = [UnleashFlag(unleash, token=f"UNLEASH_{who.upper()}") for who in PEOPLE]
    flags[0].create()
    return flags


def raced(flags, plans):
    """What each push came to, all of them sent after everybody has read the flag."""
    barrier = Barrier(len(plans))

    def push(flag, plan):
        backend = flag.backend
        send = backend._api.patch_strategy
        first = []

        def together(*arguments):
            if not first:
                first.append(True)
                barrier.wait(60)
            send(*arguments)

        backend._api.patch_strategy = together
        try:
            return backend.apply(plan, now=NOW)
        except (FlagConflictError, PushUncertainError) as error:
            return error
        finally:
            backend._api.patch_strategy = send

    with ThreadPoolExecutor(len(plans)) as pool:
        return list(pool.map(push, flags, plans))


@pytest.mark.parametrize("writers", [2, 4])
def test_of_several_who_push_at_once_one_wins_all_others_are_told_and_the_winner_stands(flags, writers):
    tally = Counter()
    for number in range(8):
        state = flags[0].read()
        percents = [1 + (state.exposure.enrolled + 7 * place + number) % 100 for place in range(writers)]
        plans = [plan_of(state, enrolled=percent) for percent in percents]
        outcomes = raced(flags[:writers], plans)
        won = [place for place, outcome in enumerate(outcomes) if not isinstance(outcome, Exception)]
        tally.update(type(outcome).__name__ for outcome in outcomes)
        assert len(won) == 1, outcomes
        (place,) = won
        assert all(isinstance(outcome, FlagConflictError) for outcome in outcomes if outcome is not outcomes[place])
        assert flags[0].read().exposure.enrolled == percents[place]
        assert flags[0].read().plan_id == plans[place].id
        first = next(event for event in flags[0].events if event["id"] > int(state.version))
        assert first["createdBy"] == PEOPLE[place]
    assert tally["FlagRaceError"] == 8 * (writers - 1)  # all of them wrote, so the race was a real one


def test_a_loser_is_told_who_came_first(flags):
    state = flags[0].read()
    outcomes = raced(flags[:2], [plan_of(state, enrolled=percent) for percent in (5, 10)])
    (lost,) = [outcome for outcome in outcomes if isinstance(outcome, FlagRaceError)]
    winner = PEOPLE[1 - outcomes.index(lost)]
    assert f"the change by {winner} came first" in str(lost)
    assert "taken back" in str(lost)
    assert lost.runbook == "conflict"


def test_one_plan_pushed_twice_at_once_has_one_receipt(flags):
    plan = plan_of(flags[0].read(), enrolled=5)
    outcomes = raced(flags[:2], [plan, plan])
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) == 1
    assert flags[0].read().exposure.enrolled == 5


def between(flag, act):
    """Let somebody act after the push has read the flag, before it writes."""
    send = flag.backend._api.patch_strategy
    done = []

    def late(*arguments):
        if not done:
            done.append(True)
            act()
        send(*arguments)

    flag.backend._api.patch_strategy = late


def test_an_edit_in_the_interface_that_came_first_is_put_back(flags):
    mine, plan = flags[0], flags[0].plan(enrolled=5)
    between(mine, lambda: mine.edit(("/parameters/rollout", "77"), who="ben"))
    with pytest.raises(FlagRaceError, match="the change by ben"):
        mine.backend.apply(plan, now=NOW)
    assert mine.strategy["parameters"]["rollout"] == "77"


def test_a_kill_that_came_first_stays(flags):
    flags[0].push(enrolled=50)
    plan = flags[0].plan(enrolled=100)
    between(flags[0], flags[1].kill)
    with pytest.raises(FlagConflictError):
        flags[0].backend.apply(plan, now=NOW)
    assert not flags[0].environment["enabled"]
    assert flags[0].strategy["parameters"]["rollout"] == "0"


def test_a_switch_in_the_interface_that_came_first_stays(flags):
    plan = flags[0].plan(enrolled=100)
    between(flags[0], lambda: flags[0].post("off"))
    with pytest.raises(FlagRaceError, match="switch"):
        flags[0].backend.apply(plan, now=NOW)
    assert not flags[0].environment["enabled"]
    assert flags[0].strategy["parameters"]["rollout"] == "0"


def test_a_change_right_after_ours_leaves_the_push_uncertain(flags):
    mine = flags[0]
    send = mine.backend._api.patch_strategy

    def then_ben(*arguments):
        send(*arguments)
        mine.edit(("/parameters/rollout", "77"), who="ben")

    plan = mine.plan(enrolled=5)
    mine.backend._api.patch_strategy = then_ben
    with pytest.raises(PushUncertainError, match="ben changed it right after"):
        mine.backend.apply(plan, now=NOW)
    assert mine.strategy["parameters"]["rollout"] == "77"


def test_who_came_first_puts_the_value_back_when_the_late_one_has_gone(flags):
    """The late writer's notebook died between its write and its look at the history."""
    mine, plan = flags[0], flags[0].plan(enrolled=5)
    mine.backend._pause = lambda _: None
    late = flags[1]
    late_plan = plan_of(late.read(), enrolled=90)
    send = mine.backend._api.patch_strategy
    done = []

    def then_late(*arguments):
        send(*arguments)
        if not done:
            done.append(True)
            seen = late_seen[0]
            new = late_rules(late, late_plan, seen)
            late.backend._api.patch_strategy(late.ref.flag, seen.strategy_id, new)

    late_seen = [late.backend._checked(late_plan, NOW)]
    mine.backend._api.patch_strategy = then_late
    receipt = mine.backend.apply(plan, now=NOW)
    assert receipt.after.exposure.enrolled == 5
    assert flags[2].read().exposure.enrolled == 5


def late_rules(flag, plan, seen):
    new = rules.strategy(flag.backend._planned(plan, seen, "deadbeef", ""))
    return rules.patch(seen.strategy, new)


def test_two_who_create_one_flag_at_once_make_one(flags):
    ref = replace(flags[0].ref, flag="new-flag")
    mine = [
        UnleashFlag(flag.server, token=f"UNLEASH_{who.upper()}", ref=ref)
        for flag, who in zip(flags[:2], PEOPLE, strict=False)
    ]
    barrier = Barrier(2)

    def create(flag):
        barrier.wait(60)
        try:
            return flag.create()
        except FlagError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        outcomes = list(pool.map(create, mine))
    assert sum(isinstance(outcome, Exception) for outcome in outcomes) <= 1, outcomes
    assert mine[0].read().exposure.enrolled == 0
