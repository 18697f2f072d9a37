"""Replay: the same decision from the same cells, and a sentence wherever it cannot be."""

import json
import re
from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest
from tests.history.conftest import units

import expnb as xb
from expnb import errors
from expnb.cohorts.cells_file import read_cells, write_cells
from expnb.history import replay as module
from expnb.history.compare import flips, values


def look_file(shop):
    (path,) = (shop.root / ".expnb" / "looks" / "checkout").glob("*.parquet")
    return path


def restate(shop, number, change):
    """Write a day of the source again."""
    path = shop.root / "days" / f"day-{number:02d}.parquet"
    change(pd.read_parquet(path)).to_parquet(path)


def state(shop):
    """Everything that a reader may not change."""
    return shop.ws.ledger.head(), (shop.root / "flags.flagd.json").read_bytes()


# --- from the kept cells ----------------------------------------------------------------------------


def test_a_decision_is_the_same_weeks_later_whatever_became_of_its_source(decided):
    shop, decision = decided
    for number in range(4, 12):
        shop.day(number, lift=-0.5)
    shop.edit("rope = 0.01", "rope = 0.2")
    for path in (shop.root / "days").iterdir():
        path.unlink()
    before = state(shop)
    replayed = xb.replay(decision, workspace=shop.ws)
    assert replayed.same
    assert replayed.replayed.rules == decision.rules
    assert replayed.replayed.to == decision.to
    assert "is the same from its kept cells" in str(replayed)
    assert state(shop) == before


def test_a_receipt_leads_to_its_decision(decided):
    shop, decision = decided
    receipt = shop.ws.apply(shop.ws.plan(decision))
    shop.day(4)
    shop.decide()
    replayed = xb.replay(receipt, workspace=shop.root)
    assert replayed.same
    assert replayed.recorded == decision
    assert xb.replay(replayed.recorded, workspace=shop.ws).entry == replayed.entry == 3


def test_the_units_and_the_verdict_before_a_decision_are_those_of_then(shop):
    shop.edit("min_units = 100", "min_units = 100\nmin_days = 2\nverdict_days = 2")
    for number in (1, 2):
        shop.day(number, lift=0.4)
    receipt = shop.ws.apply(shop.ws.plan(shop.decide()))
    shop.day(3, lift=0.4)
    second = shop.decide()
    assert any("The goal is judged every 2 days" in note for note in second.notes)
    assert any("since this rung was reached" in rule.sentence for rule in second.rules)
    shop.day(4)
    shop.decide()
    for of in (receipt, second):
        assert xb.replay(of, workspace=shop.ws).differences == ()


def test_a_prior_that_the_fit_was_given_is_given_again(decided):
    shop, _ = decided
    ws = shop.ws
    experiment = ws.experiment("checkout")
    flat = ws.decide(experiment, xb.fit(experiment, ws.load(experiment), prior="flat"))
    replayed = xb.replay(flat, workspace=ws)
    assert flat.prior == replayed.replayed.prior == "flat"
    assert replayed.same


def test_a_rule_that_comes_out_otherwise_is_named(decided, monkeypatch):
    shop, decision = decided
    monkeypatch.setattr(
        module, "fit", lambda *a, seed, engine, prior: xb.fit(*a, seed=seed, engine=engine, prior="flat")
    )
    replayed = xb.replay(decision, workspace=shop.ws)
    assert not replayed.same
    assert any(
        re.match(r"Rule ship_above_rope of bought under new had the value [\d.]+, and has", one)
        for one in replayed.differences
    )
    assert "comes out otherwise" in replayed.title


def test_other_versions_are_said_and_no_difference(decided, monkeypatch):
    shop, decision = decided
    monkeypatch.setattr("expnb.posterior.fit.__version__", "9.9")
    replayed = xb.replay(decision, workspace=shop.ws)
    assert replayed.same
    assert replayed.notes == (f"expnb was {decision.versions['expnb']}, and is 9.9.",)


def test_values_are_the_same_up_to_rounding_and_of_draws_up_to_their_error(decided):
    _, decision = decided

    def moved(name, by, engine):
        rules = tuple(
            replace(rule, value=rule.value + by) if rule.name == name and rule.value is not None else rule
            for rule in decision.rules
        )
        return replace(decision, engine=engine), replace(decision, rules=rules, engine=engine)

    assert not list(values(*moved("ship_above_rope", 1e-8, "exact")))
    assert list(values(*moved("ship_above_rope", 1e-3, "exact")))
    assert not list(values(*moved("ship_above_rope", 1e-3, "pymc")))
    assert list(values(*moved("ship_above_rope", 0.2, "pymc")))
    assert not list(values(*moved("ship_expected_loss", 1e-3, "pymc")))
    assert list(values(*moved("harm", 1e-3, "pymc")))  # harm is judged by the exact engine


def test_another_threshold_is_a_difference_though_nothing_comes_out_otherwise(decided, monkeypatch):
    shop, decision = decided
    name = next(rule.name for rule in decision.rules if rule.name == "guardrail")
    monkeypatch.setattr("expnb.decisions.rules.GUARDRAIL_EARLY", 0.49)
    replayed = xb.replay(decision, workspace=shop.ws)
    assert not replayed.same
    assert f"Rule {name} of spend under new had the threshold 0.5, and has 0.51." in replayed.differences
    none = tuple(replace(rule, threshold=None) for rule in decision.rules)
    assert any("and has none." in one for one in values(decision, replace(decision, rules=none)))


def test_a_rule_that_only_one_of_two_decisions_asked_is_named(decided):
    _, decision = decided
    fewer = replace(decision, rules=decision.rules[1:])
    assert "and is not asked" in next(flips(decision, fewer))
    assert "was not asked, and is" in next(flips(fewer, decision))


def test_a_changed_file_of_cells_is_found(decided):
    shop, decision = decided
    path = look_file(shop)
    cells, _ = read_cells(path)
    column = cells.metrics["bought"]
    better = replace(column, s1=column.s1 * 1.01)
    write_cells(path, replace(cells, metrics={**cells.metrics, "bought": better}), {})
    with pytest.raises(errors.ReplayError, match="was changed or damaged since. Replay it from the source"):
        xb.replay(decision, workspace=shop.ws)
    write_cells(path, replace(cells, checks=()), {})
    with pytest.raises(errors.ReplayError, match="was changed or damaged since"):
        xb.replay(decision, workspace=shop.ws)


def test_forgotten_cells_say_who_forgot_them_and_when(decided):
    shop, decision = decided
    shop.now += timedelta(days=30)
    (forgotten,) = shop.as_("ben").forget("checkout")
    assert forgotten.looks == 1
    assert "1 file of cells of looks" in str(forgotten)
    with pytest.raises(
        errors.ReplayError,
        match="were forgotten by ben on 2026-04-03. Replay it from the source: `expnb replay checkout --decision 3 --from-source`",
    ):
        xb.replay(decision, workspace=shop.ws)


def test_cells_on_another_machine_or_past_their_retention_are_said(decided):
    shop, decision = decided
    look_file(shop).unlink()
    with pytest.raises(errors.ReplayError, match="kept on the machine where it was taken. Replay"):
        xb.replay(decision, workspace=shop.ws)
    path = shop.root / "expnb.toml"
    path.write_text(path.read_text().replace("min_cell = 20", "min_cell = 20\nretention_days = 30"))
    with pytest.raises(errors.ReplayError, match="or were deleted after retention_days = 30. Replay"):
        xb.replay(decision, workspace=shop.root)


def test_cells_older_than_the_retention_are_deleted(decided):
    shop, _ = decided
    path = shop.root / "expnb.toml"
    path.write_text(path.read_text().replace("min_cell = 20", "min_cell = 20\nretention_days = 30"))
    file = look_file(shop)
    shop.now += timedelta(days=365 * 50)
    assert shop.ws.root
    assert not file.exists()


def test_a_decision_stands_where_its_cells_cannot_be_kept(shop):
    shop.day(1)
    (shop.root / ".expnb" / "looks").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="the cells of this look could not be kept"):
        decision = shop.decide()
    with pytest.raises(errors.ReplayError, match="No cells were kept of the decision of 2026-03-02 06:00 UTC"):
        xb.replay(decision, workspace=shop.ws)
    assert xb.replay(decision, workspace=shop.ws, from_source=True).same


# --- decisions that are none -------------------------------------------------------------------------


def test_a_change_by_a_person_says_who_made_it_and_why(decided):
    shop, decision = decided
    pushed = shop.ws.apply(shop.ws.plan(decision))
    closed = shop.as_("ben").roll_back(shop.ws.experiment("checkout"), reason="a complaint")
    with pytest.raises(
        errors.ReplayError, match="ben made this change .*without a decision of the policy: a complaint"
    ):
        xb.replay(closed, workspace=shop.ws)
    restored = shop.as_("cleo").restore(closed)
    with pytest.raises(errors.ReplayError, match="cleo made this change .*Back to the audited state"):
        xb.replay(restored, workspace=shop.ws)
    killed = shop.as_("dora").kill("checkout")
    with pytest.raises(errors.ReplayError, match=r"dora made this change \(kill of flag 'checkout'"):
        xb.replay(killed, workspace=shop.ws)
    assert xb.replay(pushed, workspace=shop.ws).same


def test_a_receipt_or_decision_of_elsewhere_is_refused(decided):
    shop, decision = decided
    receipt = shop.ws.apply(shop.ws.plan(decision))
    with pytest.raises(errors.ReplayError, match="the ledger holds no receipt of ramp_up"):
        xb.replay(replace(receipt, backend="elsewhere"), workspace=shop.ws)
    with pytest.raises(errors.ReplayError, match="is not in the ledger of production"):
        xb.replay(replace(decision, looks=9), workspace=shop.ws)


def test_a_decision_of_an_older_expnb_is_refused(decided):
    shop, decision = decided
    ws = shop.ws
    other = replace(decision, looks=9)
    body = {"experiment": "checkout", "environment": "production", "evidence_hash": other.evidence_hash}
    ws._record("decision", {**body, "action": other.action, "decision": other})
    with pytest.raises(errors.ReplayError, match="kept neither its cells nor its specification"):
        xb.replay(other, workspace=ws)


# --- from the source ---------------------------------------------------------------------------------


def test_a_source_that_only_went_on_changes_nothing(decided):
    shop, decision = decided
    for number in (4, 5):
        shop.day(number, lift=-0.5)
    replayed = xb.replay(decision, workspace=shop.ws, from_source=True)
    assert replayed.same
    assert replayed.data == ("The source holds the same data as then.",)
    assert replayed.replayed.fingerprint == decision.fingerprint


def test_a_cohort_until_a_day_is_the_cohort_of_those_days(shop):
    for number in (1, 2):
        shop.day(number)
    known = shop.ws.load("checkout").cells
    shop.day(3, n=4000, rate=0.9)
    again = shop.ws.load("checkout").until((shop.now - timedelta(days=2)).date()).cells
    assert again.fingerprint == known.fingerprint
    assert again.checks == known.checks
    assert again.metrics["spend"].cap == known.metrics["spend"].cap


def test_late_units_and_restated_values_are_named_by_day(decided):
    shop, decision = decided
    shop.day(4)
    restate(shop, 2, lambda frame: pd.concat([frame, units(99, 100).assign(seen=frame.seen[0])]))
    restate(shop, 1, lambda frame: frame.assign(spend=frame.spend * 2))
    replayed = xb.replay(decision, workspace=shop.ws, from_source=True)
    assert replayed.data[:4] == (
        "Units of old 1,500 then, 1,550 now.",
        "Units of new 1,500 then, 1,550 now.",
        "2026-03-02: old 500 then, 550 now; new 500 then, 550 now.",
        "Values changed while the number of units did not, on 1 day: 2026-03-01.",
    )
    assert any(re.match(r"spend under new: raw effect .* then, .* now\.", line) for line in replayed.data)


def test_a_handful_of_late_units_is_not_counted_out(decided):
    shop, decision = decided
    restate(shop, 2, lambda frame: pd.concat([frame, units(99, 6).assign(seen=frame.seen[0])]))
    data = " ".join(xb.replay(decision, workspace=shop.ws, from_source=True).data)
    assert "2026-03-02: old more by fewer than 20; new more by fewer than 20." in data
    assert "1,503" not in data


def test_restated_data_that_change_the_decision_are_a_difference(decided):
    shop, decision = decided
    assert decision.action == "ramp_up"
    for number in (1, 2, 3):
        restate(shop, number, lambda frame: frame.assign(bought=frame.bought.where(frame.arm == "old", 0)))
    replayed = xb.replay(decision, workspace=shop.ws, from_source=True)
    assert not replayed.same
    assert replayed.replayed.action == "roll_back"
    assert replayed.differences[0].startswith(
        "The action was ramp up, and is roll back: Goal bought under new is harmed"
    )
    assert any(line.startswith("Rule harm of bought under new was met, and is not met") for line in replayed.data)
    assert "would be another on the source as it is now" in replayed.title


def test_forgotten_cells_still_leave_the_source(decided):
    shop, decision = decided
    shop.ws.forget("checkout")
    restate(shop, 2, lambda frame: pd.concat([frame, units(99, 100).assign(seen=frame.seen[0])]))
    replayed = xb.replay(decision, workspace=shop.ws, from_source=True)
    assert replayed.data[0] == "Units of old 1,500 then, 1,550 now."
    assert "were forgotten by ana on 2026-03-04. What changed is therefore known by arm" in replayed.notes[0]


def test_data_without_days_are_read_whole_and_say_so(demo):
    experiment = demo.experiment("gate_position")
    decision = demo.decide(experiment, xb.fit(experiment, demo.load(experiment)))
    assert xb.replay(decision, workspace=demo).same
    replayed = xb.replay(decision, workspace=demo, from_source=True)
    assert replayed.same
    assert replayed.notes == ("The data carry no days: all of the source was read, also what is newer.",)


# --- how it is shown --------------------------------------------------------------------------------


def test_a_page_escapes_what_it_shows(decided):
    shop, decision = decided
    replayed = xb.replay(decision, workspace=shop.ws)
    marked = replace(replayed, differences=("<script>",))
    assert "<script>" not in marked._repr_html_()
    assert "&lt;script&gt;" in marked._repr_html_()
    assert str(marked) == repr(marked)


@pytest.fixture
def run(decided, capsys):
    """Run a command in the shop; exit code, output, errors."""
    from expnb.cli import main

    shop, decision = decided

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main([*arguments, "--workspace", str(shop.root)])
        return done.value.code, *capsys.readouterr()

    return shop, decision, call


def test_the_command_says_whether_it_is_the_same(run):
    shop, decision, call = run
    code, out, _ = call("replay", "checkout")
    assert (code, "is the same from its kept cells" in out) == (0, True)
    assert json.loads(call("replay", "checkout", "--json")[1])["same"] is True
    shop.ws.apply(shop.ws.plan(decision))
    shop.day(4)
    shop.decide()
    assert "ledger entry 3" in call("replay", "checkout")[1]  # the one behind the push, not the last
    assert "ledger entry 7" in call("replay", "checkout", "--decision", "7")[1]
    restate(shop, 2, lambda frame: frame.assign(bought=frame.bought.where(frame.arm == "old", 0)))
    code, out, _ = call("replay", "checkout", "--decision", "3", "--from-source")
    assert (code, "would be another" in out) == (1, True)
    code, _, err = call("replay", "checkout", "--decision", "4")
    assert (code, err) == (
        2,
        "expnb: ledger entry 4 is no decision on 'checkout' in production; the entries with its decisions are: 3, 7. Write one of them, or `expnb decide checkout` first.\n",
    )


def test_the_command_names_an_unknown_experiment_and_one_without_decisions(run, shop):
    _, _, call = run
    assert call("replay", "chekout")[2] == "expnb: no experiment is called 'chekout'. Did you mean 'checkout'?\n"


@pytest.mark.slow
def test_a_sampled_decision_is_the_same_within_its_error(shop):
    shop.edit('\n[[metrics]]\nname = "median"\nkind = "quantile"\ncolumn = "spend"\nq = 0.5\n', "")
    shop.edit(
        '\n[[metrics]]\nname = "spend"\nkind = "revenue"\nrole = "guardrail"\nmargin = 0.05\ncap = 0.95\ncovariate = "before"\n',
        "",
    )
    shop.edit('segments = ["city"]\n', "")
    shop.day(1)
    decision = shop.decide(engine="pymc", seed=3)
    replayed = xb.replay(decision, workspace=shop.ws)
    assert replayed.replayed.engine == "pymc"
    assert replayed.same
