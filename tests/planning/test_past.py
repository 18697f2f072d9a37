"""Replay of a policy on recorded data: the same verdicts as `simulate_policy` and `decide`, and sums that can be checked by hand."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import expnb as xb
from expnb.decisions.decision import PRECEDENCE
from expnb.decisions.rules import was_judged
from expnb.errors import CohortError, SourceError, SpecError
from expnb.planning.baseline import Baseline
from expnb.planning.rollouts import Draws, Run
from expnb.spec.flag import FlagRef, FlagState
from expnb.spec.policy import Ship

ANY_LOOK = xb.Policy(
    ladder=(100,), min_days=0, min_units=0, harm_alpha=1e-12, ship=Ship(p_above_rope=0.95, expected_loss=1)
)


def checkpoints(*streams, **columns):
    """Cumulative conversions of (experiment, control hits, treatment hits), with a hundred thousand units per arm and day."""
    rows = [
        {"experiment": name, "variant": variant, "day": day, "n": 100_000 * day, "mean": hits / (100_000 * day)}
        for name, *arms in streams
        for variant, counts in zip(("control", "new", "newer"), arms, strict=False)
        for day, hits in enumerate(np.cumsum(counts).tolist(), start=1)
    ]
    return pd.DataFrame(rows).assign(kind="conversion", **columns)


def test_recorded_days_of_a_simulated_rollout_get_the_verdicts_of_the_simulation(planned):
    experiment = planned(0, ladder=(100,))
    baseline = {"bought": Baseline(0.1, 0.3)}
    seen = set()
    for effect in (0.0, 0.08, -0.08):
        draws = Draws(experiment, np.full((5, 1, 1), effect), baseline, 20_000, [1])
        acted, rows = {}, []
        for look in Run(experiment, draws, stop=False).looks(28):
            for place, row in enumerate(look.rows.tolist()):
                acted[f"e{row}", float(look.day)] = PRECEDENCE[look.action[place]]
                for arm, name in enumerate(("control", "new")):
                    n = look.units[place, arm]
                    rows.append((f"e{row}", name, look.day, n, look.sums[place, 0, arm] / n, 1.0))
        frame = pd.DataFrame(rows, columns=["experiment", "variant", "time", "n", "mean", "weight"])
        found = xb.replay_policy(experiment, frame.sample(frac=1, random_state=0))
        assert {(each.experiment, each.day): each.action for each in found.checkpoints} == acted
        assert found.ratio_judged
        seen |= set(acted.values())
    assert seen == {"hold", "ship", "roll_back"}


@pytest.fixture(scope="module")
def visitors():
    """Thirty days of visitors in three arms, of which the second loses a fifth of the visits that are kept."""
    rng = np.random.default_rng(5)
    size = 60_000
    arm = rng.choice(["old", "new_0", "new_1"], size)
    return pd.DataFrame(
        {
            "user": np.arange(size),
            "arm": arm,
            "at": pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 30, size), unit="D"),
            "bought": rng.binomial(1, np.where(arm == "new_1", 0.115, 0.1)),
            "kept_0": rng.binomial(1, np.where(arm == "new_0", 0.4, 0.5)),
        }
    )


@pytest.fixture
def dated(planned):
    """The same experiment with a time of exposure."""

    def make(**policy):
        experiment = planned(1, treatments=2, **policy)
        metrics = (experiment.goal, replace(experiment.metrics[1], margin=0.08))
        return replace(experiment, exposed_at="at", start=None, end=None, metrics=metrics)

    return make


def test_every_checkpoint_of_a_cohort_gets_the_decision_that_would_have_been_taken(dated, visitors):
    experiment = dated(min_units=1_000)
    found = xb.replay_policy(experiment, xb.load_cohort(experiment, visitors))
    began, changed, judged, dropped = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), None, ()
    differ = []
    for each in found.checkpoints:
        last = date(2026, 1, 1) + timedelta(days=int(each.day) - 1)
        seen = visitors[visitors["at"] <= pd.Timestamp(last)]
        assert each.units == len(seen)
        posterior = xb.fit(experiment, xb.load_cohort(experiment, seen))
        exposure = replace(experiment.exposure(100), dropped=dropped)
        flag = FlagState(FlagRef("button", "production"), exposure, "1", enabled=True, changed_at=changed)
        now = began + timedelta(days=int(each.day) - 1, hours=23)
        decision = xb.decide(experiment, posterior, flag=flag, looks=1, now=now, judged=judged)
        if was_judged(decision):
            judged = decision
        if decision.action == "roll_back":
            dropped = decision.to.dropped
        if decision.action != each.action:
            differ.append((each.day, decision.action, each.action))
        effect = posterior.effect("bought", each.variant)
        assert each.effect_rel == pytest.approx(effect.effect_rel)
        assert each.p_improvement == pytest.approx(effect.p_improvement, abs=0.01)
        assert each.p_harm == pytest.approx(effect.p_harm, abs=0.01)
    assert not differ
    (run,) = found.runs
    assert (run.dropped, run.verdict, run.variant) == (("new_0",), "ship", "new_1")


def test_a_rule_that_ships_at_any_look_ships_at_the_first_z_of_1_645():
    rng = np.random.default_rng(2)
    streams = [(f"e{i}", *rng.binomial(100_000, 0.1, (2, 40))) for i in range(60)]
    frame = checkpoints(*streams)
    found = xb.replay_policy(ANY_LOOK, frame, rope=0.0, prior="flat")
    shipped = []
    for _, control, treatment in streams:
        n = 100_000 * np.arange(1, 41)
        a, b = np.cumsum(control), np.cumsum(treatment)
        z = (np.log(b) - np.log(a)) / np.sqrt(1 / a - 1 / n + 1 / b - 1 / n)
        passed = np.flatnonzero(stats.norm.cdf(z) >= 0.95)
        shipped.append(float(passed[0] + 1) if len(passed) else None)
    days = [run.day if run.verdict == "ship" else None for run in found.runs]
    assert sum(one != other for one, other in zip(days, shipped, strict=True)) <= 1  # a value beside its threshold
    assert 10 < sum(day is not None for day in shipped) < 40  # one in twenty if it looked once


def test_regret_is_what_the_verdict_lost_at_the_last_checkpoint():
    late, early = [10_000, 10_000], [10_400, 9_400]
    found = xb.replay_policy(
        ANY_LOOK,
        checkpoints(("fell", late, early), ("lasts", late, [10_400, 10_400]), ("late", late, [9_990, 10_100])),
        rope=0.0,
        prior="flat",
    )
    fell, lasts, missed = found.runs
    assert (fell.verdict, fell.day, fell.last, fell.flips) == ("ship", 1, "hold", 1)
    assert fell.improvement == pytest.approx(-0.01)
    assert fell.regret == pytest.approx(0.01)
    assert (lasts.verdict, lasts.flips, lasts.regret) == ("ship", 0, 0.0)
    assert (missed.verdict, missed.last) == ("hold", "hold")
    assert missed.regret == pytest.approx(0.0045)
    assert found.regret == pytest.approx((0.01 + 0.0045) / 3)
    assert found.regret_of_shipping == pytest.approx(0.01 / 3)
    assert (found.flipped, found.shipped_worse) == (0.5, 0.5)
    assert found.summary().ship.tolist() == [pytest.approx(2 / 3)]
    assert "ships in 2 (day 1, median), still runs at the end of the data in 1" in str(found)


def test_where_less_is_better_regret_and_probability_turn_round():
    frame = checkpoints(("errors", [10_000, 10_000], [9_700, 9_700]))
    (run,) = xb.replay_policy(ANY_LOOK, frame, rope=0.0, prior="flat", direction="decrease").runs
    assert run.verdict == "ship"
    assert run.improvement == pytest.approx(0.03)
    (up,) = xb.replay_policy(ANY_LOOK, frame, rope=0.0, prior="flat").runs
    assert (up.verdict, up.regret) == ("hold", 0.0)


def test_the_flag_stands_at_learn_at_and_the_default_policy_waits_a_week():
    frame = checkpoints(("lift", [10_000] * 8, [11_500] * 8))
    found = xb.replay_policy(xb.Policy(), frame, rope=0.005)
    assert [each.action for each in found.checkpoints] == ["hold"] * 6 + ["ship"] * 2
    assert "the flag stands at 100 % from the first day" in str(found)
    assert "the sample ratio is not judged" in str(found)
    assert found.table().shape == (8, 9)
    assert "In lift the policy ships on day 7 (new)." in found._repr_html_()


def test_promised_weights_let_the_sample_ratio_hold_what_looks_good():
    frame = checkpoints(("lift", [10_000] * 8, [11_500] * 8))
    uneven = frame.assign(weight=np.where(frame.variant == "new", 2.0, 1.0))
    assert xb.replay_policy(xb.Policy(), uneven, rope=0.005).share("hold") == 1
    assert xb.replay_policy(xb.Policy(), frame.assign(weight=1.0), rope=0.005).share("ship") == 1


def test_checkpoints_without_figures_of_every_arm_are_left_out_and_counted():
    frame = checkpoints(("some", [10_000] * 8, [11_500] * 8), ("none", [10_000] * 3, [10_000] * 3))
    frame.loc[(frame.experiment == "none") & (frame.variant == "new"), "mean"] = np.nan
    frame = frame.drop(index=frame.index[(frame.experiment == "some") & (frame.variant == "new") & (frame.day == 3)])
    found = xb.replay_policy(xb.Policy(), frame, rope=0.005)
    assert [run.experiment for run in found.runs] == ["some"]
    assert [each.day for each in found.checkpoints] == [1, 2, 4, 5, 6, 7, 8]
    assert found.left_out == 4
    assert "4 checkpoints that lack an arm, or usable figures of one, are left out" in str(found)


def test_experiments_keep_their_order_whatever_their_arms():
    two, three = ("b", [10_000], [10_100]), ("a", [10_000], [10_100], [10_050])
    found = xb.replay_policy(xb.Policy(), checkpoints(two, three, ("c", [9_000], [9_100])), rope=0.005)
    assert [run.experiment for run in found.runs] == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="mean"), "the table has no column 'mean'"),
        (lambda frame: frame.rename(columns={"n": "nn"}), "no column 'n'"),
        (lambda frame: frame.drop(columns="kind"), "no column 'variance'"),
        (lambda frame: frame.iloc[:0], "has no rows"),
        (lambda frame: pd.concat([frame, frame.iloc[:1]]), "has two rows of variant 'control' at day 1"),
        (lambda frame: frame.assign(mean=1.5), "a share lies between 0 and 1"),
        (lambda frame: frame.assign(n=-1), "units are counted from 0 on"),
        (lambda frame: frame.assign(kind="mean", variance=-1.0), "a variance is not negative"),
        (lambda frame: frame.assign(mean="much"), "column 'mean' holds"),
        (lambda frame: frame[frame.variant != "control"], "it needs the control 'control' and a treatment"),
        (lambda frame: frame[frame.variant == "control"], "it needs the control 'control' and a treatment"),
        (lambda frame: frame.assign(n=1), "no checkpoint has figures of every arm"),
        (lambda frame: frame.assign(kind=["conversion", "mean"], variance=1.0), "its metric has one"),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_a_way_out(change, message):
    with pytest.raises(SourceError, match=message):
        xb.replay_policy(xb.Policy(), change(checkpoints(("one", [10_000], [10_100]))), rope=0.005)


@pytest.mark.parametrize(
    ("n", "message"),
    [
        ([1_000] * 6, "n of experiment 'one' is the same at every checkpoint while days go on"),
        ([1_000, 990, 1_010, 1_005, 1_000, 1_012], "variant 'control' falls to 990 at day 2"),
        ([1_000, 2_000, 3_000, 5, 5_000, 6_000], "falls to 5 at day 4; n counts all units since the start"),
    ],
)
def test_units_of_single_days_are_not_taken_for_those_since_the_start(n, message):
    frame = checkpoints(("one", [10_000] * 6, [10_100] * 6)).sort_values(["variant", "day"])
    with pytest.raises(SourceError, match=message):
        xb.replay_policy(xb.Policy(), frame.assign(n=n * 2), rope=0.005)
    taken_back = frame.assign(n=[1_000, 2_000, 2_990, 2_980, 4_000, 5_000] * 2)
    assert len(xb.replay_policy(xb.Policy(), taken_back, rope=0.005).checkpoints) == 6


def test_what_an_experiment_has_of_its_own_is_not_given_beside_it(planned, dated, visitors):
    cohort = xb.load_cohort(dated(), visitors)
    for name, value in (("direction", "increase"), ("control", "old")):
        with pytest.raises(SpecError, match=f"{name} is '{value}', and the experiment .* has its own"):
            xb.replay_policy(dated(), cohort, **{name: value})
    with pytest.raises(SpecError, match="has its own, 'increase'"):
        xb.replay_policy(planned(0), checkpoints(("one", [10_000], [10_100])), direction="decrease")


def test_what_is_not_said_is_asked_for(planned, dated, visitors):
    frame = checkpoints(("one", [10_000], [10_100]))
    with pytest.raises(SpecError, match=r"Pass rope=0\.005"):
        xb.replay_policy(xb.Policy(), frame)
    with pytest.raises(SpecError, match="has its own, 0.005"):
        xb.replay_policy(planned(0), frame, rope=0.01)
    with pytest.raises(SpecError, match="kind is 'ratio'"):
        xb.replay_policy(planned(0), frame.assign(kind="ratio", variance=1.0))
    with pytest.raises(SourceError, match="got a dict"):
        xb.replay_policy(planned(0), {})
    cells = xb.load_cohort(dated(), visitors).cells
    with pytest.raises(SpecError, match="cells are judged by an experiment"):
        xb.replay_policy(xb.Policy(), cells, rope=0.005)
    undated = planned(1, treatments=2)
    with pytest.raises(CohortError, match="the cells carry no days"):
        xb.replay_policy(undated, xb.load_cohort(undated, visitors.drop(columns="at")))


def test_days_on_which_an_arm_may_not_be_shown_are_left_out(dated, visitors):
    few = visitors.iloc[:900]
    found = xb.replay_policy(dated(), xb.load_cohort(dated(), few))
    assert found.left_out > 0
    assert min(each.units for each in found.checkpoints) >= 60


# --- real experiments -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asos(real_data):
    from bench.policy import asos_checkpoints

    return asos_checkpoints(real_data / "asos" / "asos_experiments.parquet")


def test_of_173_asos_streams_51_end_below_5_percent_and_101_cross_it(asos):
    """Counts of the notes on these data, by a two-sided z test at each checkpoint."""
    found = xb.replay_policy(ANY_LOOK, asos, rope=0.0, prior="flat").table()
    crossed = (found.p_improvement - 0.5).abs() > 0.475
    assert found.experiment.nunique() == 173
    assert crossed.groupby(found.experiment).last().sum() == 51
    assert crossed.groupby(found.experiment).any().sum() == 101


def test_the_default_policy_takes_back_fewer_verdicts_on_asos_than_the_rule_that_ships_at_any_look(asos):
    default = xb.replay_policy(xb.Policy(), asos, rope=0.005)
    any_look = xb.replay_policy(ANY_LOOK, asos, rope=0.0, prior="flat")
    assert 2 * default.flipped < any_look.flipped
    assert 2 * default.shipped_worse < any_look.shipped_worse
    assert default.regret_of_shipping < any_look.regret_of_shipping
