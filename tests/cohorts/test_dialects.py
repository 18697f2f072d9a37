"""Dialects: every statement compiles for every engine that is promised."""

from datetime import UTC, date, datetime

import ibis
import ibis.expr.operations as ops
import pytest
import sqlglot
from tests.cohorts.test_kinds import experiment_of, metric_of
from tests.cohorts.test_shapes import METRICS, SPEC, WINDOW

import expnb as xb
from expnb.cohorts.reduce import _can_sample
from expnb.cohorts.sources import Source
from expnb.cohorts.statement import (
    Shift,
    bins_statement,
    cells_statement,
    keys_of,
    repeated_statement,
    sample_statement,
)
from expnb.cohorts.units import units_of
from expnb.spec.experiment import Events, Expectation

DIALECTS = ("duckdb", "postgres", "bigquery", "snowflake", "databricks", "trino", "clickhouse")
WITHOUT_HASH = {"trino"}
ROWS = {"user": "string", "arm": "string", "test": "string", "city": "string", "seen": "timestamp", "yes": "boolean"}
ROWS |= {"bought": "timestamp"}
ROWS |= {"y": "float64", "x": "decimal(12, 2)", "n": "int8"}
LOG = {"user": "string", "at": "timestamp", "what": "string", "amount": "float64", "weight": "int64"}
AS_OF = datetime(2026, 3, 20, tzinfo=UTC)


def source_of(schema, name):
    return Source(ibis.table(schema, name=name), ibis.duckdb.connect(), name)


def units_in(shape):
    """The unit table of each shape, with every kind of metric it takes."""
    dated = {"exposed_at": "seen", "start": date(2026, 3, 1), "end": date(2026, 3, 14), "segments": ("city",)}
    expect = (Expectation(name="dear", ibis="_.n > 2"),)
    if shape == "events":
        people = {**ROWS, "age": "float64"}
        spec = Events(**SPEC, exposure="open")
        experiment = experiment_of(*METRICS, shape=shape, events=spec, expect=expect, **dated)
        return units_of(experiment, source_of(people, "people"), source_of(LOG, "log"), as_of=AS_OF)
    metrics = [
        metric_of("revenue"),
        xb.Metric(name="count", kind="count", column="n"),
        xb.Metric(name="rate", kind="ratio", numerator="y", denominator="n"),
        xb.Metric(name="time", kind="duration", column="x"),
        xb.Metric(name="sum", kind="mean", ibis="_.x + _.n"),
        WINDOW,
    ]
    metrics = [xb.Metric(name="kept", kind="retention", column="yes", window_days=8, at="bought"), *metrics[:-1]]
    if shape == "unit":
        metrics += [
            xb.Metric(name="median", kind="quantile", column="y", q=0.5),
            xb.Metric(name="adjusted", kind="mean", column="y", covariate="x", cap=0.99),
        ]
    experiment = experiment_of(*metrics, shape=shape, expect=expect, experiment_column="test", **dated)
    return units_of(experiment, source_of(ROWS, "cohort"), as_of=AS_OF)


@pytest.fixture(scope="module", params=["unit", "rows", "events"])
def units(request):
    return units_in(request.param)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_statement_compiles(dialect, units):
    complete = [one for one in units.measures if not one.immature]
    statements = {
        "complete": cells_statement(units, {"v0": Shift(0.25)}, complete, []),
        "masked": cells_statement(units, {"v0": Shift(-0.25)}, [], units.measures),
        **{one.metric.name: bins_statement(units, one, Shift(-0.05)) for one in units.measures if one.binned},
        "segments": units.segments.aggregate(many=units.segments.segment_0.approx_nunique()),
    }
    if not units.grouped:
        statements["repeated"] = repeated_statement(units)
    if not units.grouped and dialect not in WITHOUT_HASH:
        statements["sample"] = sample_statement(units)
    assert len(statements) >= 4
    for name, statement in statements.items():
        sql = ibis.to_sql(statement, dialect=dialect)
        parsed = sqlglot.parse(sql, dialect=dialect)
        assert len(parsed) == 1, name
        assert isinstance(parsed[0], sqlglot.exp.Query), name


@pytest.mark.parametrize("dialect", sorted(WITHOUT_HASH))
def test_an_engine_without_hashes_has_no_sample(dialect):
    units = units_in("unit")
    with pytest.raises(Exception, match="(?i)hash"):
        ibis.to_sql(sample_statement(units), dialect=dialect)

    class Engine:
        @staticmethod
        def has_operation(operation):
            return operation is not ops.Hash

    assert not _can_sample(units, Source(units.table, Engine(), "there"))
    assert _can_sample(units, Source(units.table, ibis.duckdb, "here"))


def test_a_cell_is_named_by_experiment_arm_segments_and_day():
    assert keys_of(units_in("unit")) == ["experiment", "arm", "segment_0", "day"]
