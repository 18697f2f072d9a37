"""Triggered units: those that met what the experiment changed, whose effect is the main one."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from tests.cohorts.test_kinds import experiment_of, metric_of

import expnb as xb
from expnb.cohorts.cohort import load_cohort, load_cohorts
from expnb.errors import CohortError, ColumnNotFoundError
from expnb.posterior.fit import fit_exact
from expnb.spec.experiment import TRIGGER_KEY, Events, Totals
from expnb.spec.metric import TotalsColumns

N = 6_000
SAW = np.random.default_rng(1).random(N) < 0.3


def shop(**columns):
    """Users of which three in ten saw the checkout; only those can differ."""
    rng = np.random.default_rng(2)
    user = np.arange(N)
    y = rng.normal(10, 3, N) + 4.0 * SAW + np.where(SAW & (user % 2 == 1), 0.5, 0.0)
    frame = {"user": user, "arm": np.resize(["a", "b"], N), "yes": rng.integers(0, 2, N), "y": y, "saw": SAW}
    city = np.resize(["de", "fr", "nl"], N)
    return pd.DataFrame({**frame, "city": city, **columns})


def asked(**fields):
    return experiment_of(metric_of("mean"), **{"trigger": "saw", **fields})


def counts(cells):
    """Units by arm and whether they were triggered."""
    found = {}
    for arm, answer, n in zip(cells.variant, cells.segments[TRIGGER_KEY], cells.n, strict=True):
        found[str(arm), str(answer)] = found.get((str(arm), str(answer)), 0) + int(n)
    return found


def wanted(saw=SAW):
    odd = np.arange(N) % 2 == 1
    return {
        (arm, answer): int((own & (saw == (answer == "true"))).sum())
        for arm, own in (("a", ~odd), ("b", odd))
        for answer in ("true", "false")
    }


def check(cohort, name):
    return next((one for one in cohort.checks if one.name == name), None)


# --- who was triggered ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bool", "int8", "float", "float with NaN", "bool with NULL", "int with NULL"])
def test_yes_and_no_may_be_written_in_many_ways_and_nothing_means_no(kind):
    import pyarrow as pa

    table = pa.Table.from_pandas(shop(), preserve_index=False)
    values = [bool(one) for one in SAW]
    column = {
        "bool": pa.array(values),
        "int8": pa.array([int(one) for one in values], pa.int8()),
        "float": pa.array([float(one) for one in values]),
        "float with NaN": pa.array([1.0 if one else np.nan for one in values]),
        "bool with NULL": pa.array([one or None for one in values], pa.bool_()),
        "int with NULL": pa.array([1 if one else None for one in values], pa.int64()),
    }[kind]
    cells = load_cohort(asked(), table.set_column(table.column_names.index("saw"), "saw", column)).cells
    assert counts(cells) == wanted()


def test_a_trigger_that_is_neither_yes_nor_no_is_refused():
    with pytest.raises(ColumnNotFoundError, match="no column 'sow'"):
        load_cohort(asked(trigger="sow"), shop())
    with pytest.raises(CohortError, match=r"trigger column 'saw' holds string.*, not yes or no"):
        load_cohort(asked(), shop(saw=np.where(SAW, "true", "false")))
    with pytest.raises(CohortError, match="3 units have a value in the trigger column 'saw' that is neither 0 nor 1"):
        load_cohort(asked(), shop(saw=np.where(np.arange(N) < 3, 2, 0)))


def test_units_without_an_answer_are_said():
    saw = pd.Series(SAW).astype(object).where(np.arange(N) % 100 > 0, None).astype("boolean")
    found = check(load_cohort(asked(), shop(saw=saw)), "trigger_empty")
    assert found.sentence.startswith("60 units have no value in the trigger column 'saw', which counts as no")
    assert not [one for one in load_cohort(asked(), shop()).checks if one.name == "trigger_empty"]


def test_totals_have_no_triggered_units():
    goal = xb.Metric(name="goal", kind="conversion", role="goal", rope=0.01, totals=TotalsColumns(sum="y"))
    experiment = experiment_of(goal, shape="totals", totals=Totals(units="n"), trigger="saw")
    with pytest.raises(CohortError, match="trigger = 'saw' says of single units"):
        load_cohort(experiment, pd.DataFrame({"arm": ["a", "b"], "n": [100, 100], "y": [10, 12]}))


def test_a_unit_with_many_rows_is_triggered_by_any_of_them():
    frame = shop()
    visits = pd.concat([frame.assign(saw=False), frame, frame.assign(saw=None)]).sample(frac=1, random_state=3)
    cells = load_cohort(asked(shape="rows"), visits.astype({"saw": "boolean"})).cells
    assert counts(cells) == wanted()


def test_an_assignment_is_triggered_by_any_of_its_rows():
    people = shop(seen=pd.Timestamp("2026-03-01 12:00"))
    again = people.assign(saw=0, seen=pd.Timestamp("2026-03-02 12:00"))
    events = pd.DataFrame({"user": np.arange(N), "at": pd.Timestamp("2026-03-03"), "what": "buy"})
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.01, event="buy")
    experiment = experiment_of(
        goal, shape="events", exposed_at="seen", events=Events(at="at", kind="what"), trigger="saw"
    )
    people = pd.concat([people.assign(saw=SAW.astype(int)), again])
    assert counts(load_cohort(experiment, people, events=events).cells) == wanted()


# --- cells keep it --------------------------------------------------------------------------------


def test_cells_keep_who_was_triggered_through_sums_parts_and_files(tmp_path):
    frame, experiment = shop(), asked(segments=("city",))
    whole = load_cohort(experiment, frame).cells
    assert list(whole.segments) == ["city", TRIGGER_KEY]
    halves = [load_cohort(experiment, part).cells for part in (frame.iloc[:2500], frame.iloc[2500:])]
    assert (halves[0] + halves[1]).fingerprint == whole.fingerprint
    assert counts(whole.roll_up()) == counts(whole) == wanted()
    assert list(whole.roll_up().segments) == [TRIGGER_KEY]
    assert list(whole.roll_up(["city"]).segments) == ["city", TRIGGER_KEY]
    for number, part in enumerate((frame.iloc[:2500], frame.iloc[2500:])):
        part.to_parquet(tmp_path / f"part-{number}.parquet")
    for note in ("", "come from the cache"):
        kept = load_cohort(experiment, tmp_path / "*.parquet", cache=tmp_path / "cache")
        assert kept.cells.fingerprint == whole.fingerprint
        assert note in kept.note
    without = load_cohort(replace(experiment, trigger=""), tmp_path / "*.parquet", cache=tmp_path / "cache")
    assert list(without.cells.segments) == ["city"]


def test_experiments_with_a_trigger_share_a_scan():
    frame = pd.concat([shop(test="one"), shop(test="two", saw=~SAW)])
    experiments = [asked(name=name, experiment_column="test") for name in ("one", "two")]
    found = load_cohorts(experiments, frame)
    for one in experiments:
        alone = load_cohort(one, frame)
        assert found[one.name].cells.fingerprint == alone.cells.fingerprint
        assert [c.sentence for c in found[one.name].checks] == [c.sentence for c in alone.checks]
    assert counts(found["two"].cells) == wanted(~SAW)


# --- what is said ---------------------------------------------------------------------------------


def test_the_share_of_triggered_units_is_said_by_arm_and_their_split_is_tested():
    cohort = load_cohort(asked(segments=("city",)), shop())
    n = wanted()
    share = check(cohort, "triggered")
    assert share.value == SAW.mean()
    assert f"a {n['a', 'true'] / 30:.2f} %, b {n['b', 'true'] / 30:.2f} %" in share.sentence
    split = check(cohort, "triggered_ratio")
    assert split.outcome == "ok"
    assert f"a {n['a', 'true']:,} (expected {SAW.sum() / 2:,.0f})" in split.sentence
    assert "0.0005 blocks, half of 0.001" in split.sentence
    assert "0.0005 blocks, half of 0.001" in check(cohort, "sample_ratio").sentence
    assert not [one for one in cohort.checks if TRIGGER_KEY in one.name + one.sentence]
    assert {one.name for one in cohort.checks} >= {"sample_ratio:city"}
    assert check(load_cohort(asked(trigger=""), shop()), "triggered") is None


def test_a_trigger_that_depends_on_the_arm_blocks_though_the_arms_have_their_sizes():
    saw = SAW & ((np.arange(N) % 2 == 0) | (np.random.default_rng(4).random(N) < 0.75))
    cohort = load_cohort(asked(), shop(saw=saw))
    assert check(cohort, "sample_ratio").outcome == "ok"
    split = check(cohort, "triggered_ratio")
    assert split.outcome == "block"
    assert "give all arms the same trigger" in split.sentence


@pytest.mark.parametrize("of", ["triggered", "others"])
def test_few_triggered_or_untriggered_units_are_not_counted_for_anybody_to_see(of):
    few = np.isin(np.arange(N), [*range(0, 22, 2), *range(1, 400, 2)])  # 11 of a, 200 of b
    cohort = load_cohort(asked(), shop(saw=few if of == "triggered" else ~few))
    page = repr(cohort) + cohort._repr_html_()
    said = " ".join(one.sentence for one in cohort.checks)
    for number in ("11", "200", "2,989", "2,800", "211", "5,789"):
        assert f" {number} " not in page + said
    share, split = check(cohort, "triggered"), check(cohort, "triggered_ratio")
    assert share.value is None
    assert split.value in {0.0005, 1.0}


# --- end to end -----------------------------------------------------------------------------------


def test_main_rows_are_of_triggered_units_and_all_units_stand_beside_them():
    frame = shop()
    posterior = xb.fit(asked(segments=("city",)), load_cohort(asked(segments=("city",)), frame))
    for segment in ("all", "city=fr"):
        own = frame if segment == "all" else frame[frame.city == "fr"]
        main, every = (
            next(e for e in posterior.effects if (e.metric, e.estimate, e.segment) == ("m", estimate, segment))
            for estimate in ("main", "all units")
        )
        saw = own[own.saw]
        means, sizes = saw.groupby("arm").y.mean(), saw.groupby("arm").size()
        error = np.sqrt((saw.groupby("arm").y.var() / sizes).sum())
        assert (main.n_control, main.n_treatment) == (sizes.a, sizes.b)
        assert main.effect_abs == pytest.approx(means.b - means.a, rel=1e-10)
        assert main.ci_high - main.ci_low == pytest.approx(2 * 1.96 * error, rel=0.01)
        share = len(saw) / len(own)
        assert (every.n_control, every.n_treatment) == ((own.arm == "a").sum(), (own.arm == "b").sum())
        assert every.effect_abs == pytest.approx(share * (means.b - means.a), rel=1e-10)
        assert every.mean_control == pytest.approx(own[own.arm == "a"].y.mean(), rel=1e-10)
        assert every.ci_high - every.ci_low == pytest.approx(share * 2 * 1.96 * error, rel=0.01)


TESTS = 150


def test_without_an_effect_intervals_of_triggered_units_cover_none_as_often_as_they_say():
    rng = np.random.default_rng(5)
    n = TESTS * 1_000
    saw = rng.random(n) < 0.3
    frame = pd.DataFrame(
        {
            "user": np.arange(n),
            "arm": rng.choice(["a", "b"], n),
            "test": np.repeat([f"t{number}" for number in range(TESTS)], 1_000),
            "yes": rng.integers(0, 2, n),
            "y": rng.gamma(2, 3, n) + 5.0 * saw,
            "saw": saw,
        }
    )
    experiments = [asked(name=f"t{number}", experiment_column="test") for number in range(TESTS)]
    cohorts = load_cohorts(experiments, frame)
    covered = {"main": 0, "all units": 0}
    blocked = 0
    for one in experiments:
        cohort = cohorts[one.name]
        blocked += any(found.outcome == "block" for found in cohort.checks)
        for effect in fit_exact(one, cohort, prior=xb.Prior("flat")).effects:
            if effect.metric == "m":
                covered[effect.estimate] += effect.hdi_abs_low <= 0 <= effect.hdi_abs_high
    assert 0.89 * TESTS <= covered["main"] <= 0.995 * TESTS  # 95 %, give or take three standard errors
    assert covered["all units"] == covered["main"]
    assert blocked == 0
