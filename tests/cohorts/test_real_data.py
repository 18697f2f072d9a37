"""Real experiments: every trap that their notes name is caught, and published figures come out.

Figures are those of the notes beside the data, or worked out here with pandas, NumPy and SciPy.
"""

import math
from dataclasses import replace
from datetime import date

import ibis
import numpy as np
import pandas as pd
import pytest
from scipy import stats

import expnb as xb
from expnb import errors
from expnb.spec.experiment import Expectation, Totals
from expnb.spec.metric import TotalsColumns
from expnb.stats.sample_ratio import sample_ratio_p

FLAT = xb.Prior(family="flat")


def experiment(name, variant, weights, metrics, **changes):
    """An experiment whose first arm is the control and whose first metric is the goal."""
    first, *others = metrics
    fields = {
        "name": name,
        "hypothesis": "It gets better.",
        "owner": "tests",
        "flag": name,
        "unit": "row",
        "variant": variant,
        "control": next(iter(weights)),
        "weights": weights,
        "metrics": (replace(first, role="goal", rope=0.01), *others),
        "policy": xb.Policy(ladder=(1, 100), learn_at=100, min_days=0, min_units=100),
    }
    return xb.Experiment(**(fields | changes))


def conversion(name, **changes):
    return xb.Metric(name=name, kind="conversion", **changes)


def check(cohort, name):
    """The check of that name, or None."""
    return next((found for found in cohort.checks if found.name == name), None)


def welch_se(cells, metric, *arms):
    return math.hypot(*(cells.moments(metric, arm).se for arm in arms))


# --- Cookie Cats ------------------------------------------------------------------------------

GATES = {"gate_30": 50, "gate_40": 50}
ROUNDS = xb.Metric(name="rounds", kind="count", column="sum_gamerounds")
RETENTION = (conversion("retention_7"), conversion("retention_1"))


@pytest.fixture(scope="module")
def cookie_cats(real_data):
    return real_data / "cookie_cats" / "cookie_cats.parquet"


def cats(*metrics, **changes):
    return experiment("cats", "version", GATES, metrics or RETENTION, unit="userid", **changes)


def test_cookie_cats_says_that_its_arms_are_uneven(cookie_cats):
    found = check(xb.load_cohort(cats(), cookie_cats), "sample_ratio")
    assert found.outcome == "warn"
    assert "gate_30 44,700" in found.sentence
    assert "gate_40 45,489" in found.sentence
    assert "p = 0.0086" in found.sentence


def test_cookie_cats_gives_the_published_retention(cookie_cats):
    posterior = xb.fit(cats(), xb.load_cohort(cats(), cookie_cats), prior=FLAT)
    first, seventh = (posterior.effect(name, "gate_40") for name in ("retention_1", "retention_7"))
    assert (first.mean_control, first.mean_treatment) == pytest.approx((0.4482, 0.4423), abs=5e-5)
    assert (seventh.mean_control, seventh.mean_treatment) == pytest.approx((0.1902, 0.1820), abs=5e-5)
    assert seventh.p_value == pytest.approx(0.0016, abs=5e-5)
    assert 1 - first.p_improvement == pytest.approx(0.96, abs=0.006)
    assert 0.998 <= 1 - seventh.p_improvement <= 0.9995


def test_cookie_cats_reports_the_player_with_49854_rounds(cookie_cats):
    cohort = xb.load_cohort(cats(*RETENTION, ROUNDS), cookie_cats)
    assert cohort.cells.metrics["rounds"].bins is not None
    assert cohort.cells.moments("rounds", "gate_30").high == 49_854
    assert "one unit of gate_30 has 49,854" in check(cohort, "outlier:rounds").sentence


@pytest.mark.parametrize("cap", [0.99, 0.999])
def test_a_cap_takes_the_weight_off_the_outlier(cap, cookie_cats):
    cohort = xb.load_cohort(cats(*RETENTION, replace(ROUNDS, cap=cap)), cookie_cats)
    frame = pd.read_parquet(cookie_cats)
    positive = frame.sum_gamerounds[frame.sum_gamerounds > 0]
    edge = cohort.cells.metrics["rounds"].cap
    assert 1 <= edge / np.quantile(positive, cap) <= 1.03  # a bin is 2 % wide
    capped = frame.sum_gamerounds.clip(upper=edge)
    for arm in GATES:
        found, own = cohort.cells.moments("rounds", arm), capped[frame.version == arm]
        assert found.high == pytest.approx(edge)
        assert found.mean == pytest.approx(own.mean(), rel=1e-12)
        assert found.variance == pytest.approx(own.var(), rel=1e-9)
    assert check(cohort, "outlier:rounds") is None
    raw = cohort.cells.capped("rounds", None).moments("rounds", "gate_30")
    assert raw.mean == pytest.approx(frame.sum_gamerounds[frame.version == "gate_30"].mean(), rel=1e-12)


@pytest.mark.parametrize("how", ["sql", "ibis"])
def test_players_who_came_back_without_a_round_are_counted(how, cookie_cats):
    text = {"sql": "NOT retention_7 OR sum_gamerounds > 0", "ibis": "~_.retention_7 | (_.sum_gamerounds > 0)"}
    cohort = xb.load_cohort(cats(expect=(Expectation(name="played", **{how: text[how]}),)), cookie_cats)
    assert cohort.cells.broken["played"].sum() == 29
    assert "29 of 90,189 exposed units" in check(cohort, "expect:played").sentence


def test_cookie_cats_has_no_times_to_count_days_with(cookie_cats):
    with pytest.raises(errors.SpecError, match="neither exposed_at nor start and end, so days cannot be counted"):
        cats(policy=xb.Policy(ladder=(1, 100), learn_at=100, min_days=7, min_units=100))
    assert xb.load_cohort(cats(), cookie_cats).cells.days() is None


# --- Hillstrom --------------------------------------------------------------------------------

MAILS = {"No E-Mail": 1, "Mens E-Mail": 1, "Womens E-Mail": 1}
SPEND = xb.Metric(name="spend", kind="revenue")
MAIL_METRICS = (conversion("visit"), conversion("conversion"), SPEND)


@pytest.fixture(scope="module")
def hillstrom(real_data):
    return real_data / "hillstrom" / "hillstrom.parquet"


def mails(*metrics, **changes):
    return experiment("mails", "segment", MAILS, metrics or MAIL_METRICS, **changes)


def test_hillstrom_keeps_its_identical_rows_which_are_different_people(hillstrom):
    assert pd.read_parquet(hillstrom).duplicated().sum() == 6_562
    cohort = xb.load_cohort(mails(), hillstrom)
    assert cohort.cells.units == 64_000
    assert check(cohort, "sample_ratio").outcome == "ok"


def test_hillstrom_gives_the_published_rates_of_three_arms(hillstrom):
    cells = xb.load_cohort(mails(), hillstrom).cells
    for metric, published, digits in (
        ("visit", (0.1062, 0.1828, 0.1514), 5e-5),
        ("conversion", (0.0057, 0.0125, 0.0088), 5e-5),
        ("spend", (0.65, 1.42, 1.08), 5e-3),
    ):
        assert [cells.moments(metric, arm).mean for arm in MAILS] == pytest.approx(published, abs=digits)


def test_an_arm_that_beats_control_need_not_be_the_best_of_three(hillstrom):
    posterior = xb.fit(mails(), xb.load_cohort(mails(), hillstrom))
    men, women = (posterior.effect("visit", arm) for arm in ("Mens E-Mail", "Womens E-Mail"))
    assert men.p_improvement > 0.999
    assert women.p_improvement > 0.999
    assert men.p_best > 0.999
    assert women.p_best < 0.001


def test_a_cap_on_a_metric_that_is_mostly_zero_is_not_zero(hillstrom):
    cohort = xb.load_cohort(mails(*MAIL_METRICS[:2], replace(SPEND, cap=0.99)), hillstrom)
    frame = pd.read_parquet(hillstrom)
    assert (frame.spend > 0).sum() == 578
    assert np.quantile(frame.spend, 0.99) == 0  # a quantile of all values would remove everything
    edge = cohort.cells.metrics["spend"].cap
    assert 1 <= edge / np.quantile(frame.spend[frame.spend > 0], 0.99, method="inverted_cdf") <= 1.021
    for arm in MAILS:
        own = frame.spend[frame.segment == arm].clip(upper=edge)
        assert cohort.cells.moments("spend", arm).mean == pytest.approx(own.mean(), rel=1e-12)


def test_a_covariate_that_hardly_predicts_claims_no_gain(hillstrom):
    cells = xb.load_cohort(mails(*MAIL_METRICS[:2], replace(SPEND, covariate="history")), hillstrom).cells
    adjusted = cells.adjusted("spend")
    for arm in MAILS:
        raw = cells.moments("spend", arm)
        assert abs(1 - adjusted[arm].variance / raw.variance) < 0.002
        assert abs(adjusted[arm].mean - raw.mean) < 0.01


@pytest.mark.parametrize("segment", ["zip_code", "channel"])
def test_segments_of_hillstrom_are_those_of_the_rows(segment, hillstrom):
    cohort = xb.load_cohort(mails(segments=(segment,)), hillstrom)
    cells, frame = cohort.cells, pd.read_parquet(hillstrom)
    assert cells.segment_values(segment) == sorted(frame[segment].unique())  # with "Surburban", as the source spells it
    for (value, arm), own in frame.groupby([segment, "segment"]):
        found = cells.moments("spend", arm, cells.segments[segment] == value)
        assert (found.n, found.mean) == (len(own), pytest.approx(own.spend.mean(), rel=1e-12))
    assert check(cohort, f"sample_ratio:{segment}").outcome == "ok"


# --- Udacity landing page ---------------------------------------------------------------------

GROUPS = {"control": 50, "treatment": 50}
AGREE = {
    "sql": """("group" = 'control') = (landing_page = 'old_page')""",
    "ibis": "(_.group == 'control') == (_.landing_page == 'old_page')",
}


@pytest.fixture(scope="module")
def pages(real_data):
    return real_data / "udacity_pages_partial" / "ab_data_first_57828.parquet"


@pytest.fixture(scope="module")
def clean_pages(pages):
    """Rows whose group and page agree."""
    frame = pd.read_parquet(pages)
    return frame[(frame.group == "control") == (frame.landing_page == "old_page")]


def landing(**changes):
    return experiment("landing", "group", GROUPS, [conversion("converted")], **({"unit": "user_id"} | changes))


@pytest.mark.parametrize("how", AGREE)
def test_rows_whose_group_and_page_contradict_each_other_are_found_and_block(how, pages):
    exp = landing(unit="row", expect=(Expectation(name="page", **{how: AGREE[how]}),))
    cohort = xb.load_cohort(exp, pages)
    broken = {arm: cohort.cells.broken["page"][cohort.cells.variant == arm].sum() for arm in GROUPS}
    assert broken == {"control": 385, "treatment": 406}
    found = check(cohort, "expect:page")
    assert found.outcome == "block"
    assert "791 of 57,828 exposed units (1.37 %)" in found.sentence


def test_repeated_ids_are_refused_with_their_number(pages):
    with pytest.raises(errors.UnitError) as caught:
        xb.load_cohort(landing(), pages)
    frame = pd.read_parquet(pages)
    crossed = frame.drop_duplicates(["user_id", "group"]).user_id.duplicated().sum()
    assert f"148 units of column 'user_id' occur more than once, {crossed} of them in two arms" in str(caught.value)
    assert "(57,828 rows, 57,680 units)" in str(caught.value)


def test_summing_rows_does_not_hide_that_users_saw_both_arms(pages):
    frame = pd.read_parquet(pages)
    crossed = frame.drop_duplicates(["user_id", "group"]).user_id.duplicated().sum()
    with pytest.raises(errors.UnitError, match=f"{crossed} units of column 'user_id' were seen in two arms"):
        xb.load_cohort(landing(shape="rows"), pages)


def test_one_repeated_id_is_left_without_the_contradictions(clean_pages):
    with pytest.raises(errors.UnitError, match=r"1 unit of column 'user_id' occurs more than once \(") as caught:
        xb.load_cohort(landing(), clean_pages)
    assert "773192" not in str(caught.value)
    once = clean_pages.drop_duplicates("user_id")
    agrees = landing(expect=(Expectation(name="page", ibis=AGREE["ibis"]),))
    cohort = xb.load_cohort(agrees, once)
    assert cohort.cells.units == len(clean_pages) - 1
    assert check(cohort, "expect:page").outcome == "ok"


def test_text_times_are_refused_and_converted_ones_give_the_days(clean_pages):
    once = clean_pages.drop_duplicates("user_id")
    with pytest.raises(errors.CohortError, match="column 'timestamp' holds string, not times"):
        xb.load_cohort(landing(exposed_at="timestamp"), once)
    dated = once.assign(timestamp=pd.to_datetime(once.timestamp))
    assert not dated.timestamp.is_monotonic_increasing
    cells = xb.load_cohort(landing(exposed_at="timestamp"), dated).cells
    assert cells.days() == (date(2017, 1, 2), date(2017, 1, 24))
    by_day = dated.groupby([dated.timestamp.dt.date, "group"]).size()
    assert {
        (day.item(), arm): n for day, arm, n in zip(cells.day, cells.variant, cells.n, strict=True)
    } == by_day.to_dict()


def test_a_left_join_from_the_log_gives_the_countries_of_its_users(clean_pages, real_data):
    once = clean_pages.drop_duplicates("user_id")
    countries = real_data / "udacity_pages_partial" / "countries.parquet"
    joined = ibis.memtable(once).left_join(ibis.read_parquet(countries), "user_id")
    cells = xb.load_cohort(landing(segments=("country",)), joined).cells
    assert cells.units == len(once)
    frame = once.merge(pd.read_parquet(countries), on="user_id", how="left")
    for (country, arm), own in frame.groupby(["country", "group"]):
        found = cells.moments("converted", arm, cells.segments["country"] == country)
        assert (found.n, found.mean) == (len(own), pytest.approx(own.converted.mean(), rel=1e-12))


def test_a_left_join_from_the_countries_is_refused(clean_pages, real_data):
    once = clean_pages.drop_duplicates("user_id")
    countries = ibis.read_parquet(real_data / "udacity_pages_partial" / "countries.parquet")
    with pytest.raises(errors.NullArmError, match=f"{290_584 - len(once):,} rows have no value in the arm column"):
        xb.load_cohort(landing(segments=("country",)), countries.left_join(ibis.memtable(once), "user_id"))


def test_published_counts_of_the_whole_landing_page_test_give_the_published_z():
    frame = pd.DataFrame({"group": list(GROUPS), "n": [145_274, 145_310], "converted": [17_489, 17_264]})
    exp = landing(shape="totals", totals=Totals(units="n"))
    effect = xb.fit(exp, xb.load_cohort(exp, frame)).effect("converted", "treatment")
    assert effect.mean_control == pytest.approx(0.1203863045004612, rel=1e-12)
    assert effect.mean_treatment == pytest.approx(0.11880806551510564, rel=1e-12)
    assert effect.p_value == pytest.approx(0.190, abs=5e-4)


# --- Udacity free trial -----------------------------------------------------------------------

TRIAL_METRICS = (
    conversion("gross", totals=TotalsColumns(units="Clicks", sum="Enrollments")),
    conversion("net", totals=TotalsColumns(units="Clicks", sum="Payments")),
)


@pytest.fixture(scope="module")
def free_trial(real_data):
    return real_data / "udacity_free_trial" / "free_trial_daily.csv.gz"


def trial(*metrics, **changes):
    fields = {"shape": "totals", "totals": Totals(units="Pageviews"), "exposed_at": "Date", "unit": "cookie"}
    weights = {"control": 50, "experiment": 50}
    return experiment("trial", "group", weights, metrics or TRIAL_METRICS, **(fields | changes))


def test_daily_totals_give_the_published_conversions_of_the_mature_days(free_trial):
    posterior = xb.fit(trial(), xb.load_cohort(trial(), free_trial), prior=FLAT)
    for metric, effect, low, high in (("gross", -0.0206, -0.0291, -0.0120), ("net", -0.0049, -0.0116, 0.0019)):
        found = posterior.effect(metric, "experiment")
        assert (found.effect_abs, found.ci_low, found.ci_high) == pytest.approx((effect, low, high), abs=5e-5)


def test_days_without_totals_are_immature_and_left_out(free_trial):
    cohort, frame = xb.load_cohort(trial(), free_trial), pd.read_csv(free_trial)
    late = frame.Date >= "2014-11-03"
    assert late.sum() == 28  # two arms
    assert f"{frame.Clicks[late].sum():,} of {frame.Clicks.sum():,} units" in check(cohort, "immature:gross").sentence
    for arm in ("control", "experiment"):
        own = frame[(frame.group == arm) & ~late]
        found = cohort.cells.moments("gross", arm)
        assert (found.n, found.mean) == (own.Clicks.sum(), pytest.approx(own.Enrollments.sum() / own.Clicks.sum()))
    assert cohort.cells.days() == (date(2014, 10, 11), date(2014, 11, 16))
    assert check(cohort, "sample_ratio").outcome == "ok"
    assert check(cohort, "cumulative:Pageviews") is None


def test_units_that_are_missing_with_their_totals_are_told(free_trial):
    kept = conversion("kept", totals=TotalsColumns(units="Enrollments", sum="Payments"))
    cohort, frame = xb.load_cohort(trial(kept), free_trial), pd.read_csv(free_trial)
    own = frame[frame.group == "control"]
    assert cohort.cells.moments("kept", "control").mean == pytest.approx(own.Payments.sum() / own.Enrollments.sum())
    assert "28 of 74 rows do not say how many units they hold" in check(cohort, "uncounted:kept").sentence


def test_a_frame_with_text_dates_of_totals_says_how_to_convert_them(free_trial):
    frame = pd.read_csv(free_trial)
    with pytest.raises(errors.CohortError, match="column 'Date' holds string, not times.*pandas.to_datetime"):
        xb.load_cohort(trial(), frame)
    assert xb.load_cohort(trial(), frame.assign(Date=pd.to_datetime(frame.Date))).cells.units == frame.Pageviews.sum()


# --- National Supported Work ------------------------------------------------------------------

EARNED = xb.Metric(name="re78", kind="revenue", unit="USD")


@pytest.fixture(scope="module")
def nsw(real_data):
    return real_data / "nsw" / "nsw.csv.gz"


def training(*metrics, weights=None):
    return experiment("training", "treat", weights or {"0": 260, "1": 185}, metrics or [EARNED])


def test_uneven_arms_alarm_only_when_equal_ones_were_declared(nsw):
    assert check(xb.load_cohort(training(), nsw), "sample_ratio").outcome == "ok"
    wrong = check(xb.load_cohort(training(weights={"0": 50, "1": 50}), nsw), "sample_ratio")
    assert wrong.outcome != "ok"
    assert "0 260 (expected 222), 1 185 (expected 222)" in wrong.sentence


def test_training_raised_earnings_by_the_published_amount(nsw):
    cells = xb.load_cohort(training(), nsw).cells
    effect = xb.fit(training(), cells).effect("re78", "1")
    assert effect.effect_abs == pytest.approx(1794, abs=0.5)
    assert welch_se(cells, "re78", "0", "1") == pytest.approx(671, abs=0.5)
    frame = pd.read_csv(nsw)
    control, treated = (frame.re78[frame.treat == arm] for arm in (0, 1))
    welch = stats.ttest_ind(treated, control, equal_var=False)
    assert effect.p_value == pytest.approx(welch.pvalue, rel=1e-6)
    assert (effect.ci_low, effect.ci_high) == pytest.approx(tuple(welch.confidence_interval(0.95)), rel=1e-6)


@pytest.mark.parametrize("before", ["re74", "re75"])
def test_earnings_of_the_years_before_adjust_as_a_regression_within_arms(before, nsw):
    cohort, frame = xb.load_cohort(training(replace(EARNED, covariate=before)), nsw), pd.read_csv(nsw)
    within = frame[["re78", before]] - frame.groupby("treat")[["re78", before]].transform("mean")
    theta = (within.re78 * within[before]).sum() / (within[before] ** 2).sum()
    adjusted = cohort.cells.adjusted("re78")
    means = (frame.re78 - theta * (frame[before] - frame[before].mean())).groupby(frame.treat).mean()
    assert [adjusted[arm].mean for arm in ("0", "1")] == pytest.approx(means.tolist(), rel=1e-9)
    assert not [found for found in cohort.checks if found.outcome == "block"]  # placebo differences are small


# --- ASOS -------------------------------------------------------------------------------------

ASOS_METRICS = (
    conversion("m1", totals=TotalsColumns(mean="mean_1", variance="variance_1")),
    *(
        xb.Metric(name=f"m{k}", kind="mean", totals=TotalsColumns(mean=f"mean_{k}", variance=f"variance_{k}"))
        for k in (2, 3, 4)
    ),
)


@pytest.fixture(scope="module")
def asos(real_data):
    return pd.read_parquet(real_data / "asos" / "asos_experiments.parquet")


def looks(asos, name):
    """One row per arm and look of an experiment; the control comes once, with the times that every treatment has."""
    own = asos[asos.experiment_id == name].rename(columns={"time_since_start": "time"})
    sides = [own.assign(arm=own.variant_id.astype(str), side="t")]
    sides += [own[own.variant_id == own.variant_id.min()].assign(arm="control", side="c")]
    long = pd.concat(sides)
    for part in ("count", "mean", "variance"):
        long[part] = np.where(long.side == "c", long[f"{part}_c"], long[f"{part}_t"])
    wide = long.pivot_table(index=["arm", "time"], columns="metric_id", values=["mean", "variance"], dropna=False)
    wide.columns = [f"{part}_{metric}" for part, metric in wide.columns]
    for metric in (1, 2, 3, 4):
        if f"variance_{metric}" not in wide:
            wide[f"variance_{metric}"] = np.nan
    units = long[long.metric_id == 1].set_index(["arm", "time"])["count"].rename("n")
    return wide.join(units, how="inner").reset_index()


def shop(frame, *metrics, weights=None, running=True, **changes):
    arms = weights or dict.fromkeys(["control", *sorted(set(frame.arm) - {"control"})], 1)
    totals = Totals(units="n", cumulative=running)
    fields = {"shape": "totals", "totals": totals, "exposed_at": "time", "unit": "user"}
    return experiment("shop", "arm", arms, metrics or ASOS_METRICS, **(fields | changes))


def dated(frame):
    """Looks as times of a calendar."""
    return frame.assign(time=pd.Timestamp("2020-01-01") + pd.to_timedelta(frame.time, unit="D"))


def test_of_cumulative_looks_only_the_last_counts(asos):
    frame = looks(asos, "3c9dfd")
    cells = xb.load_cohort(shop(frame), frame.sample(frac=1, random_state=1)).cells
    last = asos[asos.experiment_id == "3c9dfd"].sort_values("time_since_start").groupby("metric_id").tail(1)
    assert len(frame) == 120
    assert cells.units == last.count_c.max() + last.count_t.max()
    for row in last.itertuples():
        for arm, mean, variance in (("control", row.mean_c, row.variance_c), ("1", row.mean_t, row.variance_t)):
            found = cells.moments(f"m{row.metric_id}", arm)
            assert found.mean == pytest.approx(mean, rel=1e-9)
            assert found.variance == pytest.approx(variance, rel=1e-6)


def test_the_last_look_gives_the_interval_of_its_means(asos):
    frame = looks(asos, "3c9dfd")
    effect = xb.fit(shop(frame), xb.load_cohort(shop(frame), frame)).effect("m2", "1")
    last = asos[(asos.experiment_id == "3c9dfd") & (asos.metric_id == 2)].sort_values("time_since_start").iloc[-1]
    se = math.sqrt(last.variance_c / last.count_c + last.variance_t / last.count_t)
    assert effect.effect_abs == pytest.approx(last.mean_t - last.mean_c, rel=1e-6)
    assert (effect.ci_high - effect.ci_low) / 2 == pytest.approx(1.959964 * se, rel=1e-5)


def test_arms_of_one_experiment_share_one_control(asos):
    frame = looks(asos, "b2da2e")
    cohort = xb.load_cohort(shop(frame), frame)
    assert cohort.cells.count("control") == 340_417
    assert [cohort.cells.count(arm) for arm in "1234"] == [340_608, 341_223, 340_710, 340_036]
    assert check(cohort, "sample_ratio").outcome == "ok"


def test_cumulative_looks_that_are_not_declared_are_recognised(asos):
    frame = dated(looks(asos, "3c9dfd"))
    cohort = xb.load_cohort(shop(frame, running=False), frame)
    found = check(cohort, "cumulative:n")
    assert found.outcome == "warn"
    assert "write cumulative = true" in found.sentence


def test_numbers_are_no_days_of_looks_that_are_not_cumulative(asos):
    frame = looks(asos, "3c9dfd")
    with pytest.raises(errors.CohortError, match="column 'time' holds float64, not times"):
        xb.load_cohort(shop(frame, running=False), frame)


def test_every_stream_whose_count_falls_warns_and_no_other(asos):
    count = asos[asos.metric_id == 1].sort_values("time_since_start")
    fall = count.groupby(["experiment_id", "variant_id"]).count_t.apply(lambda units: (units.diff() < 0).any())
    falling = {name for (name, _), found in fall.items() if found}
    assert falling
    for name in (*falling, "3c9dfd", "b2da2e", "4509ec"):
        frame = looks(asos, name)
        found = check(xb.load_cohort(shop(frame, ASOS_METRICS[0]), frame), "cumulative")
        assert (found is not None) == (name in falling)
        if found:
            assert found.outcome == "warn"


def test_a_metric_whose_variances_are_all_missing_gives_no_number(asos):
    frame = looks(asos, "df31d1")
    assert (
        xb.load_cohort(shop(frame, ASOS_METRICS[0]), frame).cells.moments("m1", "1").n
        == frame.n[frame.arm == "1"].max()
    )
    with pytest.raises(errors.MetricValuesError, match="metric 'm2': no row has its totals yet"):
        xb.load_cohort(shop(frame), frame)


def test_variances_that_come_late_give_a_number_once_they_are_there(asos):
    frame = looks(asos, "6c4737")
    early = frame[frame.time <= 12.5]
    with pytest.raises(errors.MetricValuesError, match="no row has its totals yet"):
        xb.load_cohort(shop(early), early)
    last = asos[(asos.experiment_id == "6c4737") & (asos.metric_id == 2)].sort_values("time_since_start").iloc[-1]
    found = xb.load_cohort(shop(frame), frame).cells.moments("m2", "3")
    assert found.variance == pytest.approx(last.variance_t, rel=1e-9)


def test_declared_weights_decide_whether_arms_have_their_sizes(asos):
    frame = looks(asos, "c3d89d")
    equal = check(xb.load_cohort(shop(frame, ASOS_METRICS[0]), frame), "sample_ratio")
    assert equal.outcome == "block"
    agreed = {"control": 5_791_379, "1": 5_791_728, "2": 4_965_423}
    told = shop(frame, ASOS_METRICS[0], weights=agreed)
    assert check(xb.load_cohort(told, frame), "sample_ratio").outcome == "ok"


# --- Upworthy ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upworthy(real_data):
    frame = pd.read_parquet(real_data / "upworthy" / "upworthy_packages.parquet")
    number = frame.groupby("clickability_test_id").cumcount()
    return frame.assign(package="p" + number.astype(str))


def headline(frame, name):
    arms = frame[frame.clickability_test_id == name].package
    return experiment(
        name,
        "package",
        dict.fromkeys(arms, 1),
        [conversion("clicks")],
        unit="viewer",
        shape="totals",
        totals=Totals(units="impressions"),
        experiment_column="clickability_test_id",
    )


@pytest.fixture(scope="module")
def ratios(upworthy):
    """p-value of the split of every test, and whether it ran in the time of the broken randomisation."""
    rows = {}
    for name, arms in upworthy.groupby("clickability_test_id"):
        if len(arms) > 1:
            counts = dict(zip(arms.package, arms.impressions.tolist(), strict=True))
            p = sample_ratio_p([(counts, dict.fromkeys(counts, 1.0))])
            rows[name] = (p, stats.chisquare(arms.impressions).pvalue, arms.possible_randomisation_problem.any())
    return pd.DataFrame.from_dict(rows, orient="index", columns=["p", "scipy_p", "marked"])


def test_most_tests_of_the_marked_time_fail_the_ratio_check_and_few_others(ratios):
    failed = ratios.p < 0.01
    assert ratios.p.to_numpy() == pytest.approx(ratios.scipy_p.to_numpy(), rel=1e-6, abs=1e-12)
    assert 0.76 <= failed[ratios.marked].mean() <= 0.79
    assert failed[~ratios.marked].mean() == pytest.approx(0.02, abs=0.006)


def test_one_table_holds_many_headline_tests(upworthy, ratios):
    worst, sound = ratios[ratios.marked].p.idxmin(), ratios[~ratios.marked].p.idxmax()
    for name, outcome in ((worst, "block"), (sound, "ok")):
        own = upworthy[upworthy.clickability_test_id == name]
        cohort = xb.load_cohort(headline(upworthy, name), upworthy)
        assert check(cohort, "sample_ratio").outcome == outcome
        assert cohort.cells.units == own.impressions.sum()
        for row in own.itertuples():
            found = cohort.cells.moments("clicks", row.package)
            assert found.mean == pytest.approx(row.clicks / row.impressions, rel=1e-12)


def test_a_headline_test_has_no_best_arm_by_decree(upworthy, ratios):
    name = ratios[~ratios.marked].p.idxmax()
    exp = headline(upworthy, name)
    posterior = xb.fit(exp, xb.load_cohort(exp, upworthy))
    assert sum(effect.p_best for effect in posterior.effects) <= 1 + 1e-9


# --- Open Bandit ------------------------------------------------------------------------------

ITEMS = {str(item): 1 for item in range(34)}


@pytest.fixture(scope="module")
def bandit(real_data):
    return real_data / "obd_men" / "obd_men.parquet"


def policy(name, **changes):
    return experiment(
        name, "item_id", ITEMS, [conversion("click")], experiment_column="policy", exposed_at="timestamp", **changes
    )


@pytest.mark.parametrize(("name", "clicks"), [("random", 46), ("bts", 69)])
def test_each_policy_has_its_own_rows_of_one_log(name, clicks, bandit):
    cells = xb.load_cohort(policy(name), bandit).cells
    assert cells.units == 10_000
    found = [cells.moments("click", item) for item in ITEMS]
    assert sum(item.mean * item.n for item in found) == pytest.approx(clicks)


def test_items_have_equal_shares_under_the_random_policy_alone(bandit):
    assert check(xb.load_cohort(policy("random"), bandit), "sample_ratio").outcome == "ok"
    learnt = check(xb.load_cohort(policy("bts"), bandit), "sample_ratio")
    assert learnt.outcome == "block"
    assert "The arms do not have the promised sizes" in learnt.sentence


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo"])
def test_one_day_in_tokyo_is_not_one_day_in_utc(zone, bandit):
    cells, frame = xb.load_cohort(policy("random", timezone=zone), bandit).cells, pd.read_parquet(bandit)
    days = frame.timestamp[frame.policy == "random"].dt.tz_convert(zone).dt.date.value_counts()
    assert {day: int(cells.n[cells.day == np.datetime64(day)].sum()) for day in days.index} == days.to_dict()
    assert cells.days()[1] == days.index.max()
    assert len(days) == {"UTC": 7, "Asia/Tokyo": 8}[zone]


def test_few_clicks_settle_nothing_about_single_items(bandit):
    exp = policy("random")
    effects = xb.fit(exp, xb.load_cohort(exp, bandit)).effects
    assert len(effects) == 33
    assert max(effect.p_best for effect in effects) < 0.5
