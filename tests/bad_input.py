"""Bad input and the sentence that it gets; used where it is read and where it must change nothing."""

import numpy as np
import pandas as pd

from expnb import errors

BAD_COHORTS = {
    "missing column": (
        lambda f: f.drop(columns="retention_7"),
        errors.ColumnNotFoundError,
        "cohort has no column 'retention_7'; it has ['userid', 'version', 'retention_1']. Did you mean 'retention_1'?",
    ),
    "empty": (lambda f: f.head(0), errors.EmptyCohortError, "has no rows"),
    "one arm": (
        lambda f: f.assign(version="gate_30"),
        errors.ArmsError,
        "column 'version' holds only ['gate_30']; the experiment also has ['gate_40']",
    ),
    "unknown arm": (
        lambda f: f.assign(version=f.version.replace("gate_40", "gate_4O")),
        errors.ArmsError,
        "holds the arm 'gate_4O', which the experiment does not name; its arms are ['gate_30', 'gate_40']. Did you mean 'gate_40'?",
    ),
    "null arms": (
        lambda f: f.assign(version=f.version.where(f.index > 6)),
        errors.NullArmError,
        "7 rows have no value in the arm column 'version'",
    ),
    "text metric": (
        lambda f: f.assign(retention_7=f.retention_7.map({0: "no", 1: "yes"})),
        errors.MetricValuesError,
        "metric 'retention_7': column 'retention_7' holds string, not numbers",
    ),
    "all null metric": (
        lambda f: f.assign(retention_7=np.nan),
        errors.MetricValuesError,
        "has no usable value in any row",
    ),
    "not 0 or 1": (
        lambda f: f.assign(retention_7=f.retention_7.where(f.index > 2, 2)),
        errors.MetricValuesError,
        "3 values of column 'retention_7' are neither 0 nor 1",
    ),
    "float units": (
        lambda f: f.assign(userid=f.userid.astype(float)),
        errors.UnitError,
        "unit column 'userid' holds decimal numbers (float64)",
    ),
    "null units": (
        lambda f: f.assign(userid=f.userid.astype(str).where(f.index > 3)),
        errors.UnitError,
        "4 rows have no value in the unit column 'userid'",
    ),
    "duplicates": (
        lambda f: pd.concat([f, f.head(3)]),
        errors.UnitError,
        "3 units of column 'userid' occur more than once (90,192 rows, 90,189 units)",
    ),
    "crossed units": (
        lambda f: pd.concat([f, f.head(2).assign(version="gate_40")]),
        errors.UnitError,
        "2 units of column 'userid' occur more than once, 2 of them in two arms",
    ),
}


MISTAKES = [
    (
        "rope = 0.005",
        "rop = 0.005",
        errors.UnknownKeyError,
        "unknown key 'rop' in [metrics] 'retention_7'. Did you mean 'rope'?",
    ),
    ("owner =", "ownr =", errors.UnknownKeyError, "unknown key 'ownr' in [experiment]. Did you mean 'owner'?"),
    ("[policy]", "[polcy]", errors.UnknownKeyError, "unknown key 'polcy' in the file. Did you mean 'policy'?"),
    (
        "[policy]",
        "[policy]\nship = { p_above_rop = 0.9 }",
        errors.UnknownKeyError,
        "unknown key 'p_above_rop' in [policy.ship]",
    ),
    ('owner = "games-growth"\n', "", errors.MissingKeyError, "[experiment] has no 'owner', which is required."),
    (
        'kind = "conversion"',
        'kind = "binary"',
        errors.SpecFileError,
        "'kind' in [metrics.0] is 'binary'; it should be 'conversion', 'mean', 'count', 'revenue', 'duration', 'ratio', 'quantile' or 'retention'",
    ),
    ("gate_30 = 50", "gate_30 = 'half'", errors.SpecFileError, "is 'half'; it should be a valid number"),
    ("gate_30 = 50, gate_40 = 50", "gate_30 = 50", errors.SpecFileError, "a comparison needs at least two arms"),
    ("gate_30 = 50", "gate_30 = 0", errors.SpecFileError, "weight of 'gate_30' is 0.0; it must be above 0"),
    ('control = "gate_30"', 'control = "gate_20"', errors.SpecFileError, "control is 'gate_20', which is no arm"),
    (
        'control = "gate_30"\nweights = { gate_30 = 50',
        'control = "off"\nweights = { off = 50',
        errors.SpecFileError,
        "an arm is called 'off'",
    ),
    ("margin = 0.02", "", errors.SpecFileError, "guardrail 'retention_1' has no margin"),
    (
        "margin = 0.02",
        "margin = -0.02",
        errors.SpecFileError,
        "margin is -0.02; it is a distance and cannot be negative",
    ),
    ("rope = 0.005", "rope = 5", errors.SpecFileError, "rope is 5.0, which means 500%"),
    ("rope = 0.005", "", errors.SpecFileError, "goal 'retention_7' has no rope"),
    ('role = "goal"', 'role = "info"', errors.SpecFileError, "no metric is the goal; at least one decides"),
    (
        'role = "guardrail"',
        'role = "goal"\nrope = 0.1',
        errors.SpecFileError,
        "the goals are ['retention_7', 'retention_1'], and nothing says how they decide together",
    ),
    (
        "[policy]",
        '[policy]\ngoal_rule = "any"',
        errors.SpecFileError,
        "goal_rule is 'any', and 'retention_7' is the only goal",
    ),
    ("end = 2017-02-14", "end = 2016-02-14", errors.SpecFileError, "start 2017-02-01 lies after end 2016-02-14"),
    ("end = 2017-02-14\n", "", errors.SpecFileError, "start and end come together"),
    ("start = 2017-02-01\nend = 2017-02-14\n", "", errors.SpecFileError, "neither exposed_at nor start and end"),
    ("ladder = [1, 5", "ladder = [5, 1", errors.SpecFileError, "rungs rise from above 0 to 100"),
    ("ladder = [1,", "ladder = [-1,", errors.SpecFileError, "enrolled is -1 %; a percentage lies between 0 and 100"),
    ("50, 100]", "50, 101]", errors.SpecFileError, "enrolled is 101 %; a percentage lies between 0 and 100"),
    (
        "learn_at = 100",
        "learn_at = 30",
        errors.SpecFileError,
        "learn_at is 30, which is no rung of the ladder 1, 5, 25, 50, 100",
    ),
    (
        "[policy]",
        "[policy]\nharm_alpha = 5",
        errors.SpecFileError,
        "harm_alpha is 5.0; a probability threshold lies between 0 and 1",
    ),
    ("min_days = 7", "min_days = -7", errors.SpecFileError, "min_days is -7; it cannot be negative"),
    ("schema = 1", "schema = 9", errors.SpecFileError, "schema is 9; this version of expnb reads schema 1"),
    ("[experiment]", "[experiment", errors.SpecFileError, "no valid TOML"),
    ("[policy]", "[prior]\nscale = -1\n[policy]", errors.SpecFileError, "prior scale is -1.0; it must be above 0"),
    ("[policy]", '[prior]\nfamily = "learned"\n[policy]', errors.SpecFileError, "'family' in [prior] is 'learned'"),
    (
        "[policy]",
        '[prior]\nfamily = "learnt"\n[policy]',
        errors.SpecFileError,
        "a learnt prior has as many scales as weights, and at least one; it has 0 and 0. Leave [prior] out",
    ),
    (
        "[policy]",
        "[traffic]\nunits_per_day = 0\n[policy]",
        errors.SpecFileError,
        "units_per_day is 0.0; it must be above 0",
    ),
    # --- kinds of metrics ---
    (
        'kind = "conversion"',
        'kind = "ratio"\nnumerator = "clicks"',
        errors.SpecFileError,
        "metric 'retention_7' is a ratio with numerator 'clicks' and denominator ''; a ratio has both",
    ),
    (
        'kind = "conversion"',
        'kind = "quantile"',
        errors.SpecFileError,
        "metric 'retention_7' is a quantile with q = None; a quantile has a q",
    ),
    (
        'kind = "conversion"',
        'kind = "quantile"\nq = 90',
        errors.SpecFileError,
        "metric 'retention_7': q is 90.0; it lies between 0 and 1. Write 0.9 for 90 %.",
    ),
    (
        'kind = "conversion"',
        'kind = "retention"',
        errors.SpecFileError,
        "retention 'retention_7' has no window_days; say when its window ends",
    ),
    (
        'kind = "conversion"',
        'kind = "conversion"\ncap = 0.99',
        errors.SpecFileError,
        "metric 'retention_7' is a conversion with cap = 0.99; mean, count, revenue and duration can have a cap",
    ),
    (
        'kind = "conversion"',
        'kind = "conversion"\ncolumn = "back"\nsql = "back > 0"',
        errors.SpecFileError,
        "metric 'retention_7' has column and sql; its values have one source. Keep one.",
    ),
    (
        'kind = "conversion"',
        'kind = "retention"\nfrom_days = 8\nwindow_days = 7',
        errors.SpecFileError,
        "its window runs from day 8 to day 7; it starts at 0 or later and ends after it starts",
    ),
    # --- shapes and sources ---
    (
        "[policy]",
        '[events]\nat = "at"\nkind = "kind"\n[policy]',
        errors.SpecFileError,
        "shape is 'unit' and there is a [events] table; the two come together",
    ),
    (
        'source = "cohort.parquet"',
        'source = "cohort.parquet"\nshape = "events"',
        errors.SpecFileError,
        "shape is 'events' and there is no [events] table; the two come together",
    ),
    (
        'source = "cohort.parquet"',
        'source = "cohort.parquet"\nshape = "event"',
        errors.SpecFileError,
        "'shape' in [experiment] is 'event'; it should be 'unit', 'rows', 'events' or 'totals'",
    ),
    (
        'source = "cohort.parquet"',
        'connection = "WAREHOUSE"',
        errors.SpecFileError,
        "a connection needs table or sql, one of the two, to say what to read",
    ),
    (
        "[policy]",
        "[[epochs]]\nstart = 2017-02-05\nweights = { gate_30 = 50, gate_50 = 50 }\n[policy]",
        errors.SpecFileError,
        "the epoch from 2017-02-05 has the arms ['gate_30', 'gate_50'], the experiment ['gate_30', 'gate_40']",
    ),
    (
        "[policy]",
        "[[epochs]]\nstart = 2017-02-08\nweights = { gate_30 = 90, gate_40 = 10 }\n[[epochs]]\nstart = 2017-02-05\nweights = { gate_30 = 50, gate_40 = 50 }\n[policy]",
        errors.SpecFileError,
        "the epoch from 2017-02-05 stands after the one from 2017-02-08; epochs stand in the order of their days",
    ),
    (
        "[policy]",
        "[[epochs]]\nstart = 2017-02-05\nweights = { gate_30 = 90, gate_40 = 10 }\n[policy]",
        errors.SpecFileError,
        "the weights change on 2017-02-05, and the experiment has no exposed_at",
    ),
    (
        'source = "cohort.parquet"',
        'connection = "postgresql://bob:pa?ss@host/db"\ntable = "cohort"',
        errors.SpecFileError,
        "connection holds a password, which would be written to the ledger",
    ),
    (
        "[policy]",
        "[cost]\nmax_second = 60\n[policy]",
        errors.UnknownKeyError,
        "unknown key 'max_second' in [cost]. Did you mean 'max_seconds'?",
    ),
    (
        "[policy]",
        '[[expect]]\nname = "audience"\nsql = "country = \'DE\'"\nibis = "_.country == \'DE\'"\n[policy]',
        errors.SpecFileError,
        "expectation 'audience' has one of sql and ibis",
    ),
    (
        "[policy]",
        '[[expect]]\nname = "audience"\nibis = "_.eligible"\ntolerate = 5\n[policy]',
        errors.SpecFileError,
        "expectation 'audience': tolerate is 5.0; it is a share from 0 to below 1",
    ),
]
