"""The push: nothing is lost, nothing is done twice, and what is not known is said."""

from dataclasses import replace
from datetime import timedelta

import pandas as pd
import pytest
from tests.pushing.conftest import Wire, over

import expnb as xb
from expnb import errors
from expnb.flags.base import Receipt
from expnb.ledger.recorded import recorded
from expnb.pushing.kill import break_glass
from expnb.spec.flag import FlagRef


def enrolled(ws):
    return ws.flag(ws.experiment("email_campaign")).exposure.enrolled


def outcomes(ws):
    return [entry.body["applied"] for entry in ws.ledger.entries(kind="outcome")]


# --- what would be written ------------------------------------------------------------------------


def test_a_preview_shows_the_lines_that_change_and_changes_nothing(demo, planned):
    before = (demo.root / "flags.flagd.json").read_bytes()
    entries = len(demo.ledger.entries())
    shown = demo.preview(planned)
    assert '-        "enrolled": 25' in shown
    assert '+        "enrolled": 50' in shown
    assert (demo.root / "flags.flagd.json").read_bytes() == before
    assert len(demo.ledger.entries()) == entries


def test_a_preview_refuses_what_a_push_would_refuse(demo, planned):
    demo.roll_back(demo.experiment("email_campaign"), reason="a doubt")
    with pytest.raises(errors.FlagConflictError):
        demo.preview(planned)


# --- answers that get lost --------------------------------------------------------------------------


def test_a_lost_answer_is_found_by_reading_and_never_sent_again(demo, planned):
    shaky = over(demo, Wire(demo.flags, loses={"apply"}))
    receipt = shaky.apply(planned)
    assert receipt.after.exposure.enrolled == 50
    assert "found by reading" in receipt.note
    assert demo.flag(demo.experiment("email_campaign")).version.startswith("3-")  # created, opened, pushed once
    assert outcomes(demo) == [True]


def test_an_answer_that_stays_lost_leaves_the_intent_open_until_it_is_settled(demo, planned):
    class Silent(Wire):
        pushed = False

        def apply(self, *arguments, **named):
            self.pushed = True
            return super().apply(*arguments, **named)

        def read(self, *arguments, **named):
            if self.pushed:
                raise errors.FlagServerError("the flag server", "hangs.", "server-hangs")
            return super().read(*arguments, **named)

    with pytest.raises(errors.PushUncertainError, match="may be done.* Runbook: uncertain"):
        over(demo, Silent(demo.flags, loses={"apply"})).apply(planned)
    assert outcomes(demo) == []
    assert demo.open_matters() == []  # it may be on its way
    later = replace(demo, clock=lambda: demo.clock() + timedelta(minutes=2))
    assert "has no outcome" in later.open_matters()[0]
    (settled,) = later.settle()
    assert settled.body["applied"] is True
    assert recorded(Receipt, settled.body["receipt"]).after.exposure.enrolled == 50
    assert later.open_matters() == []
    assert later.settle() == []


def test_a_push_that_never_arrived_is_settled_as_not_applied(demo, planned):
    class Dead(Wire):
        def apply(self, *_arguments, **_named):
            raise errors.PushUncertainError("the connection broke after a change was sent; it may be done.")

    with pytest.raises(errors.PushUncertainError):
        over(demo, Dead(demo.flags)).apply(planned)
    later = replace(demo, clock=lambda: demo.clock() + timedelta(minutes=2))
    assert [entry.body["applied"] for entry in later.settle()] == [False]
    assert enrolled(demo) == 25


def test_a_lost_push_is_known_by_its_plan_even_after_others_moved_the_flag(demo, planned):
    class Silent(Wire):
        def apply(self, *arguments, **named):
            self.before.add("read")
            return super().apply(*arguments, **named)

    with pytest.raises(errors.PushUncertainError):
        over(demo, Silent(demo.flags, loses={"apply"})).apply(planned)
    demo.roll_back(demo.experiment("email_campaign"), reason="somebody else closed it")
    later = replace(demo, clock=lambda: demo.clock() + timedelta(minutes=2))
    assert [entry.body["applied"] for entry in later.settle()] == [True]
    assert later.last_receipt(later.experiment("email_campaign")).ref == FlagRef("email-campaign", "production")


def test_a_refused_push_is_closed_as_not_applied(demo, planned):
    with pytest.raises(errors.FlagServerError, match="Runbook: server-down"):
        over(demo, Wire(demo.flags, before={"apply"})).apply(planned)
    assert outcomes(demo) == [False]
    assert demo.open_matters() == []


def test_a_push_that_cannot_be_evaluated_is_recorded_and_said(demo, planned):
    with pytest.raises(errors.PushUncertainError, match="no sample unit could be evaluated"):
        over(demo, Wire(demo.flags, before={"evaluate"})).apply(planned)
    assert outcomes(demo) == [True]


# --- the decision is taken again --------------------------------------------------------------------


def test_worse_data_since_the_decision_void_a_plan(demo, planned):
    source = demo.source(demo.experiment("email_campaign"))
    rows = pd.read_parquet(source)
    treated = rows["segment"] != "No E-Mail"
    rows.loc[treated, ["visit", "conversion", "spend"]] = 0
    rows.to_parquet(source)
    with pytest.raises(errors.PlanVoidError, match="Runbook: void"):
        demo.apply(planned)
    assert enrolled(demo) == 25
    assert not demo.ledger.entries(kind="intent")


def test_the_same_data_written_again_let_a_plan_stand(demo, planned):
    source = demo.source(demo.experiment("email_campaign"))
    pd.read_parquet(source).to_parquet(source)
    assert demo.apply(planned).after.exposure.enrolled == 50


def test_kept_cells_that_were_changed_void_a_plan(demo, planned):
    (kept,) = (demo.root / ".expnb" / "looks" / "email_campaign").iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    with pytest.raises(errors.PlanVoidError, match="gone or were changed"):
        demo.apply(planned)


def test_another_specification_since_the_decision_voids_a_plan(demo, planned):
    path = demo.root / "experiments" / "email_campaign.toml"
    path.write_text(path.read_text().replace('hypothesis = "', 'hypothesis = "Not that ', 1))
    with pytest.raises(errors.PlanVoidError, match="the experiment was changed"):
        demo.apply(planned)


# --- the same people --------------------------------------------------------------------------------


def test_other_buckets_than_at_the_last_audited_change_stop_a_ramp_but_no_roll_back(demo, planned):
    class Salted(Wire):
        def read(self, *arguments, **named):
            return replace(super().read(*arguments, **named), bucketing="another salt")

    demo.apply(planned)
    exp, salted = demo.experiment("email_campaign"), over(demo, Salted(demo.flags))
    closed = salted.roll_back(exp, reason="to be safe")
    assert closed.after.exposure.enrolled == 0
    with pytest.raises(errors.RebucketedError, match="another salt"):
        salted.restore(closed)
    assert demo.restore(closed).after.exposure.enrolled == 50


# --- what people read -------------------------------------------------------------------------------


def test_a_receipt_says_that_nobody_enforced_the_roles(demo, planned):
    receipt = demo.apply(planned)
    assert "unenforced" in str(receipt)
    assert "unenforced" in receipt._repr_html_()
    assert demo.ledger.entries(kind="intent")[-1].body["enforcement"] == "unenforced"


# --- found by those who tried to break it ---------------------------------------------------------------


def test_a_newer_roll_back_is_not_undone_by_deciding_again_on_older_data(demo):
    exp = demo.experiment("email_campaign")
    old = xb.fit(exp, demo.load(exp))
    source = demo.source(exp)
    rows = pd.read_parquet(source)
    rows.loc[rows["segment"] != "No E-Mail", ["visit", "conversion", "spend"]] = 0
    rows.to_parquet(source)
    assert demo.decide(exp, xb.fit(exp, demo.load(exp))).action == "roll_back"
    again = demo.decide(exp, old)
    assert again.action == "ramp_up"
    with pytest.raises(errors.PlanVoidError):
        demo.apply(demo.plan(again))
    assert enrolled(demo) == 25


def test_a_decision_without_kept_cells_is_taken_again_from_the_source(demo):
    exp = demo.experiment("email_campaign")
    decision = demo.decide(exp, replace(xb.fit(exp, demo.load(exp)), cells=None))
    source = demo.source(exp)
    rows = pd.read_parquet(source)
    rows.loc[rows["segment"] != "No E-Mail", ["visit", "conversion", "spend"]] = 0
    rows.to_parquet(source)
    with pytest.raises(errors.PlanVoidError):
        demo.apply(demo.plan(decision))


def test_a_flag_that_was_disabled_by_hand_is_not_enabled_by_a_restore(demo, planned):
    demo.apply(planned)
    path = demo.root / "flags.flagd.json"
    before, _, rest = path.read_text().partition('"email-campaign"')
    path.write_text(before + '"email-campaign"' + rest.replace('"ENABLED"', '"DISABLED"', 1))
    exp = demo.experiment("email_campaign")
    with pytest.raises(errors.OpenIntentError, match="does not say yet who did it"):
        demo.last_receipt(exp)
    later = replace(demo, clock=lambda: demo.clock() + timedelta(minutes=2))
    later.settle()  # finds that it was switched off
    with pytest.raises(errors.FlagError, match="disabled outside expnb"):
        later.restore(later.last_receipt(exp))
    assert not demo.flag(exp).enabled


def test_killed_twice_the_way_back_is_still_there(demo, planned):
    served = demo.apply(planned).after.exposure
    exp = demo.experiment("email_campaign")
    demo.kill("email_campaign", reason="errors")
    demo.kill("email_campaign", reason="to be sure")
    assert demo.restore(demo.last_receipt(exp)).after.exposure == served


def test_after_a_break_glass_the_state_before_it_comes_back_and_no_older_one(demo):
    exp = demo.experiment("email_campaign")
    demo.roll_back(exp, reason="harm")
    break_glass(demo.root, exp.name, environment="production", actor="ops", now=demo.clock())
    assert demo.restore(demo.last_receipt(exp)).after.exposure.enrolled == 0


def test_a_killed_edited_flag_comes_back_as_the_ledger_last_knew_it(demo, planned):
    served = demo.apply(planned).after.exposure
    path = demo.root / "flags.flagd.json"
    path.write_text(path.read_text().replace('"enrolled": 50', '"enrolled": 77'))
    exp = demo.experiment("email_campaign")
    with pytest.raises(errors.FlagEditedError):
        demo.flag(exp)
    demo.kill(exp)
    assert demo.restore(demo.last_receipt(exp)).after.exposure == served


def test_a_flag_file_that_was_put_back_is_noticed_and_carries_no_step(demo, planned, run):
    path = demo.root / "flags.flagd.json"
    before = path.read_text()
    exp = demo.experiment("email_campaign")
    demo.kill(exp, reason="errors")
    path.write_text(before)
    assert "somebody changed it outside expnb" in run("flags")[1]
    with pytest.raises(errors.FlagError, match="was killed at .* and serves again"):
        demo.apply(planned)


def test_open_flags_of_one_layer_never_share_a_unit_whatever_the_files_say(demo):
    text = (demo.root / "experiments" / "email_campaign.toml").read_text()
    for name in ("one", "two"):
        file = demo.root / "experiments" / f"{name}.toml"
        file.write_text(
            text.replace('name = "email_campaign"', f'name = "{name}"')
            .replace('flag = "email-campaign"', f'flag = "{name}"\nlayer = "mail"\nslice = [0, 60]')
            .replace("source =", "# source =")
        )
        exp = demo.experiment(name)
        demo.register(exp)
        demo.create_flag(exp)
    demo.apply(demo.start(demo.experiment("one")))
    with pytest.raises(errors.FlagError, match="flag 'one' is open on 0 to 60 % of layer 'mail'"):
        demo.apply(demo.start(demo.experiment("two")))
    assert demo.flag(demo.experiment("two")).exposure.enrolled == 0


def test_a_start_opens_the_flag_of_its_experiment_only(demo):
    text = (demo.root / "experiments" / "email_campaign.toml").read_text()
    for name in ("one", "two"):
        file = demo.root / "experiments" / f"{name}.toml"
        file.write_text(
            text.replace('name = "email_campaign"', f'name = "{name}"').replace(
                'flag = "email-campaign"', f'flag = "{name}"'
            )
        )
        demo.create_flag(demo.experiment(name))
    demo.register(demo.experiment("one"))
    other = demo.flag(demo.experiment("two"))
    forged = replace(demo.start(demo.experiment("one")), ref=other.ref, base_version=other.version)
    with pytest.raises(errors.FlagError, match="is not the first rung of 'one'"):
        demo.apply(forged)


def test_an_outcome_that_cannot_be_recorded_is_not_called_unchanged(demo, planned):
    class Full(Wire):
        def apply(self, *arguments, **named):
            receipt = super().apply(*arguments, **named)
            (demo.root / ".expnb" / "ledger.sqlite").rename(demo.root / ".expnb" / "away")
            (demo.root / ".expnb" / "ledger.sqlite").mkdir()
            return receipt

    with pytest.raises(errors.PushUncertainError, match="was pushed and read back .* Do not push again"):
        over(demo, Full(demo.flags)).apply(planned)
    assert enrolled_of(demo.flags) == 50


def enrolled_of(flags):
    return flags.read(FlagRef("email-campaign", "production")).exposure.enrolled


def test_a_closed_gate_is_not_rolled_back_again(demo):
    exp = demo.experiment("email_campaign")
    demo.roll_back(exp, reason="harm")
    count = len(demo.ledger.entries())
    with pytest.raises(errors.FlagError, match="closed already"):
        demo.roll_back(exp, reason="again")
    assert len(demo.ledger.entries()) == count
