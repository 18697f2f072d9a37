"""Review: what changed since the last look, in counts and words, and never an effect that nobody looked at."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest
from tests.history.conftest import units
from tests.test_workspace import with_roles

import expnb as xb
from expnb import errors


def restate(shop, number, change):
    path = shop.root / "days" / f"day-{number:02d}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def test_new_days_are_counted_and_no_effect_is_shown(decided):
    shop, _ = decided
    shop.day(4, lift=-0.5)
    shop.day(5, lift=-0.5)
    before = shop.ws.ledger.head(), (shop.root / "flags.flagd.json").read_bytes()
    changed = xb.review("checkout", shop.ws)
    assert changed.data == ("After 2026-03-03, on 2026-03-04 to 2026-03-05: old 1,000, new 1,000 units.",)
    assert changed.looks == ()
    for text in (str(changed), changed._repr_html_(), changed.markdown()):
        assert not re.search(r"effect|probability|%", text)
    assert (shop.ws.ledger.head(), (shop.root / "flags.flagd.json").read_bytes()) == before
    assert not (shop.root / "decisions" / "checkout" / "2026-03-06.md").exists()


def test_small_numbers_of_new_units_are_not_shown(decided):
    shop, _ = decided
    shop.day(4, n=30)
    (line,) = xb.review("checkout", shop.ws).data
    assert line == "After 2026-03-03, on 2026-03-04: old fewer than 20, new fewer than 20 units."
    restate(shop, 1, lambda frame: frame.iloc[6:])
    data = " ".join(xb.review("checkout", shop.ws).data)
    assert "2026-03-01: old less by fewer than 20; new less by fewer than 20." in data
    assert "1,497" not in data


def test_known_days_that_changed_are_named(decided):
    shop, _ = decided
    restate(shop, 2, lambda frame: pd.concat([frame, units(99, 100).assign(seen=frame.seen[0])]))
    restate(shop, 3, lambda frame: frame.assign(spend=frame.spend + 1))
    assert xb.review("checkout", shop.ws).data == (
        "Units of old 1,500 then, 1,550 now.",
        "Units of new 1,500 then, 1,550 now.",
        "2026-03-02: old 500 then, 550 now; new 500 then, 550 now.",
        "Values changed while the number of units did not, on 1 day: 2026-03-03.",
    )


def test_another_segment_or_cap_is_no_restatement(decided):
    shop, _ = decided
    shop.edit('segments = ["city"]', "segments = []")
    shop.edit("cap = 0.95", "cap = 0.9")
    changed = xb.review("checkout", shop.ws)
    assert changed.data == ()
    assert changed.specification[0] == "segments went from city to (none). This loosens it."
    assert changed.metrics == ("metric 'spend': cap went from 0.95 to 0.9. This loosens it.",)


def test_many_days_that_changed_are_summed_up(shop):
    for number in range(1, 15):
        shop.day(number, n=200)
    shop.decide()
    for number in range(1, 15):
        restate(
            shop,
            number,
            lambda frame: pd.concat(
                [frame, units(99, 100).assign(seen=frame.seen[0], user=frame.user[0] + frame.user[:100])]
            ),
        )
    data = xb.review("checkout", shop.ws).data
    assert data[-1] == "Units changed on 4 more days."
    for number in range(1, 15):
        restate(shop, number, lambda frame: frame.iloc[:200].assign(spend=1.0))
    assert "on 14 days: 2026-03-01, " in xb.review("checkout", shop.ws).data[-1]
    assert xb.review("checkout", shop.ws).data[-1].endswith("2026-03-10 and 4 more.")


def test_edits_are_told_field_by_field(decided):
    shop, _ = decided
    assert xb.review("checkout", shop.ws).specification == ("It is the one that was registered on 2026-02-28.",)
    shop.edit("rope = 0.01", "rope = 0.02")
    shop.edit("min_units = 100", "min_units = 200\nrung_days = 2")
    shop.edit("ladder = [1, 5, 25, 50, 100]", "ladder = [1, {enrolled = 5, days = 3}, 100]")
    shop.edit('owner = "shop"', 'owner = "shop-2"')
    shop.edit(
        '\n[[metrics]]\nname = "median"\nkind = "quantile"\ncolumn = "spend"\nq = 0.5\n',
        '\n[[metrics]]\nname = "mean"\nkind = "mean"\ncolumn = "spend"\n[traffic]\nunits_per_day = 500\n',
    )
    changed = xb.review("checkout", shop.ws)
    assert changed.specification == (
        "owner went from shop to shop-2.",
        "policy.ladder went from 1, 5, 25, 50, 100 to 1, 5 (days 3), 100. This loosens it.",
        "policy.rung_days went from 1 to 2.",
        "policy.min_units went from 100 to 200.",
        "traffic went from (none) to units_per_day 500.",
        "metric 'median' was removed.",
        "metric 'bought': rope went from 0.01 to 0.02. This loosens it.",
        "metric 'bought': margin went from 0.01 to 0.02. This loosens it.",
        "metric 'mean' was added as info.",
        "It is not the one that was registered on 2026-02-28.",
    )
    assert changed.requests[0].startswith("The specification was loosened after the first look and is not registered")


def test_changes_of_the_flag_say_who_when_and_why(decided):
    shop, decision = decided
    assert "Unchanged." in str(xb.review("checkout", shop.ws))
    receipt = shop.ws.apply(shop.ws.plan(decision))
    shop.now += timedelta(hours=1)
    shop.as_("ben").roll_back(shop.ws.experiment("checkout"), reason="a complaint")
    shop.as_("cleo").kill("checkout")
    first, second, third = xb.review("checkout", shop.ws).flag
    assert first.startswith("2026-03-04 06:00 UTC, ana: pushed ramp_up: enrolled 5 %, treated 2.5 % -> enrolled 25 %")
    assert (
        second
        == "2026-03-04 07:00 UTC, ben: pushed roll_back: enrolled 25 %, treated 12.5 % -> enrolled 0 %, treated 0 %. Reason: a complaint"
    )
    assert third.startswith("2026-03-04 07:00 UTC, cleo: killed the flag")
    assert receipt.after.exposure.enrolled == 25


def test_a_flag_that_somebody_else_moved_is_told(decided):
    shop, _ = decided
    shop.open_to(50)
    (line,) = xb.review("checkout", shop.ws).flag
    assert re.match(
        r"The flag is at version \S+, changed at 2026-03-04 06:00 UTC, and the ledger does not know by whom: enrolled 50 %",
        line,
    )


def test_open_requests_say_who_asked_and_who_agreed(shop):
    for number in (1, 2, 3):
        shop.day(number)
    ana = with_roles(shop.ws, "ana", need=1)
    decision = shop.decide()
    plan = ana.plan(decision)
    assert xb.review("checkout", ana).requests == ()
    ana.request(plan)
    with_roles(ana, "ben", need=1).approve(plan)
    (line,) = xb.review("checkout", ana).requests
    assert line.startswith("ana asked for ramp_up: checkout in production: enrolled 5 %")
    assert "1 of 1 approvals (ben); void after 2026-03-05 06:00 UTC." in line
    ana.apply(plan)
    assert xb.review("checkout", ana).requests == ()


def test_the_last_two_looks_stand_side_by_side(decided):
    shop, first = decided
    for number in range(4, 10):
        shop.day(number, lift=0.5)
    second = shop.decide()
    experiment = shop.ws.experiment("checkout")
    effects = [
        100 * xb.fit(experiment, cells_of(shop, decision)).effect("bought", "new").effect_rel
        for decision in (first, second)
    ]
    looks = xb.review("checkout", shop.ws).looks
    assert looks[0] == "Look 1 said ramp up, look 2 said ramp up."
    assert f"bought under new: raw effect {effects[0]:+.2f} % then, {effects[1]:+.2f} % now." in looks
    assert any(line.startswith("Rule min_days was unknown, and is met") for line in looks)


def cells_of(shop, decision):
    from expnb.cohorts.cells_file import read_cells

    (path,) = (shop.root / ".expnb" / "looks" / "checkout").glob(f"{decision.fingerprint}.*")
    return read_cells(path)[0]


def test_before_the_first_look_units_are_counted(shop):
    shop.day(1)
    changed = xb.review("checkout", shop.ws)
    assert changed.title == "checkout: not looked at yet"
    assert changed.data == ("So far, on 2026-03-01: old 500, new 500 units.",)
    assert changed.specification == ("It is the one that was registered on 2026-02-28.",)


def test_forgotten_cells_and_a_lost_source_are_said(decided):
    shop, _ = decided
    shop.ws.forget("checkout")
    restate(shop, 2, lambda frame: pd.concat([frame, units(99, 100).assign(seen=frame.seen[0])]))
    data = xb.review("checkout", shop.ws).data
    assert "were forgotten by ana" in data[0]
    assert data[1:] == ("Units of old 1,500 then, 1,550 now.", "Units of new 1,500 then, 1,550 now.")
    for path in (shop.root / "days").iterdir():
        path.unlink()
    assert xb.review("checkout", shop.ws).data[0].startswith("The source cannot be read: ")
    (shop.root / "flags.flagd.json").unlink()
    assert xb.review("checkout", shop.ws).flag[0].startswith("The flag cannot be read: ")


def test_data_without_days_are_compared_as_a_whole(demo, players):
    experiment = demo.experiment("gate_position")
    demo.decide(experiment, xb.fit(experiment, demo.load(experiment)))
    assert xb.review("gate_position", demo).data == ()
    players.iloc[100:].assign(retention_7=players.retention_1).to_parquet(demo.root / "cookie_cats.parquet")
    data = xb.review("gate_position", demo).data
    assert data[0].startswith("Units of gate_30 44,700 then, ")
    assert data[-1] == "Units or values changed; the data carry no days, so it is not known when."


def test_an_unknown_experiment_offers_the_nearest(shop):
    with pytest.raises(errors.NameNotFoundError, match="no experiment is called 'chekout'. Did you mean 'checkout'"):
        xb.review("chekout", shop.ws)


def test_names_are_escaped(decided):
    shop, _ = decided
    changed = replace(xb.review("checkout", shop.ws), data=("a|b <b>*new*</b> _x_ [y](z) retention_7",))
    assert "<b>" not in changed._repr_html_()
    assert r"a\|b \<b\>\*new\*\</b\> \_x\_ \[y\](z) retention_7" in changed.markdown()


def test_the_command_prints_it(decided, capsys):
    from expnb.cli import main

    shop, _ = decided
    shop.day(4)
    for arguments in (["review", "checkout"], ["review", "checkout", "--json"]):
        with pytest.raises(SystemExit) as done:
            main([*arguments, "--workspace", str(shop.root)])
        assert done.value.code == 0
    out = capsys.readouterr().out
    assert "After 2026-03-03, on 2026-03-04: old 500, new 500 units." in out
    assert json.loads(out[out.index("{") :])["data"] == ["After 2026-03-03, on 2026-03-04: old 500, new 500 units."]
