"""Expressions: a metric reads the same of a column, of SQL and of Ibis, and nothing but a row."""

import numpy as np
import pyarrow as pa
import pytest
from tests.cohorts.test_kinds import N, cells_of, experiment_of, frame_of, metric_of

import expnb as xb
from expnb.cohorts.cohort import load_cohort
from expnb.errors import ColumnNotFoundError, ExpnbError, MetricValuesError
from expnb.spec.experiment import Expectation

PRICE = np.random.default_rng(1).normal(20, 5, N)
NAMES = (
    "price",
    "unit price",
    'the "price"',
    "it's",
    "select",
    "Preis in €",
    "variant; drop table",
    "价格",
    "a.b",
    "x -- y",
)


@pytest.fixture(scope="module")
def shop():
    return frame_of(price=PRICE, quantity=np.resize([1, 2, 3], N), total=PRICE * np.resize([1, 2, 3], N))


@pytest.mark.parametrize("way", [{"sql": "price * quantity"}, {"ibis": "_.price * _.quantity"}])
@pytest.mark.parametrize("source", ["frame", "parquet"])
def test_sql_and_ibis_give_the_same_as_a_column(way, source, shop, tmp_path):
    import pyarrow.parquet as pq

    given = shop
    if source == "parquet":
        given = tmp_path / "shop.parquet"
        pq.write_table(shop, given)
    wanted = cells_of(metric_of("mean").__class__(name="m", kind="mean", column="total"), shop)
    found = cells_of(xb.Metric(name="m", kind="mean", **way), given)
    assert found.moments("m", "a").mean == pytest.approx(wanted.moments("m", "a").mean, rel=1e-12)
    assert found.moments("m", "a").m2 == pytest.approx(wanted.moments("m", "a").m2, rel=1e-10)
    assert found.fingerprint == wanted.fingerprint


@pytest.mark.parametrize("name", NAMES)
def test_a_column_may_have_any_name(name):
    frame = frame_of(**{name: PRICE})
    quoted = name.replace('"', '""')
    ways = [{"column": name}, {"ibis": f"_[{name!r}] * 1"}, {"sql": f'"{quoted}" * 1'}]
    for way in ways:
        found = cells_of(xb.Metric(name="m", kind="mean", **way), frame).moments("m", "b")
        assert found.mean == pytest.approx(PRICE[1::2].mean(), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_keys_may_have_any_name(name):
    frame = frame_of().rename_columns([name, "arm", "yes"])
    assert load_cohort(experiment_of(unit=name), frame).cells.units == N
    frame = frame_of().rename_columns(["user", name, "yes"])
    assert load_cohort(experiment_of(variant=name), frame).cells.count("a") == N // 2
    frame = frame_of(**{name: np.resize(["de", "fr", "it"], N)})
    assert load_cohort(experiment_of(segments=(name,)), frame).cells.segment_values(name) == ["de", "fr", "it"]


@pytest.mark.parametrize(
    "text",
    [
        "_.price.fill_null(0)",
        "-_.price",
        "(_.price > 10) & (_.quantity < 3)",
        "_.price.round(2) / 2",
        "1",
        "2 * 3 + _.price",
    ],
)
def test_ibis_reads_columns_numbers_operators_and_methods(text, shop):
    assert cells_of(xb.Metric(name="m", kind="mean", ibis=text), shop).moments("m", "a").n == N // 2


REFUSED_IBIS = (
    "_.__class__",
    "_.price.__class__",
    "abs(_.price)",
    "lambda: 1",
    "__import__('os').system('true')",
    "[x for x in _.price]",
    "_.price.to_parquet('leak.parquet')",
    "_.price.to_csv('leak.csv')",
    "_.price.execute()",
    "_.price.to_pandas()",
    "_.price.to_list()",
    "_.price.pipe('x')",
    "_.price.get_backend()",
    "_.price.as_table()",
    "_.price.preview()",
    "'{0.__class__}'.format(_.price)",
    "_.price.op",
    "_.price.op()",
    "_.price.sum()",
    "_.price - _.price.mean()",
    "_.price.cumsum()",
    "_.price.lag()",
    "_.price.rank()",
    "_.price.max().over()",
    "_.price.first()",
    "_.price if True else 1",
    "f'{_.price}'",
    "_.price; 1",
    "_.price\nimport os",
    "import os",
    "_",
    "_.price and _.quantity",
    "'text'",
    "",
    "_.price.topk(3)",
    "_.price.value_counts()",
)


@pytest.mark.parametrize("text", REFUSED_IBIS)
def test_an_ibis_expression_that_is_more_than_a_row_is_refused(text, shop, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((MetricValuesError, ColumnNotFoundError)):
        cells_of(xb.Metric(name="m", kind="mean", **({"ibis": text} if text else {"ibis": " "})), shop)
    assert list(tmp_path.iterdir()) == []


REFUSED_SQL = (
    "DROP TABLE cohort",
    "price; DROP TABLE cohort",
    "(SELECT max(price) FROM cohort)",
    "price + (SELECT 1)",
    "price IN (SELECT 1)",
    "EXISTS (SELECT 1)",
    "sum(price)",
    "price - avg(price)",
    "count(*)",
    "avg(price) OVER ()",
    "row_number() OVER ()",
    "price) AS y, (1",
    "price), (quantity",
    "price) AS x FROM other --",
    "price) AS x --",
    "price) /*",
    "*/ 1 /*",
    "price) UNION SELECT (1",
    "price) FROM cohort WHERE (1 = 1",
    "unnest([1, 2, 3])",
    "COLUMNS(*)",
    "*",
    "price AS y",
    "price,",
    "",
    "--",
    "WITH t AS (SELECT 1) SELECT 1",
)


@pytest.mark.parametrize("text", REFUSED_SQL)
def test_sql_that_is_more_than_an_expression_over_a_row_is_refused(text, shop):
    with pytest.raises(MetricValuesError, match="is no SQL expression over one row"):
        cells_of(xb.Metric(name="m", kind="mean", sql=text or " "), shop)


@pytest.mark.parametrize("text", ["price -- */ , (select 1)", "price /* a note */", "price -- half of it", "\nprice\n"])
def test_a_comment_in_sql_says_nothing(text, shop):
    found = cells_of(xb.Metric(name="m", kind="mean", sql=text), shop)
    assert found.moments("m", "a").mean == pytest.approx(PRICE[::2].mean(), rel=1e-12)


@pytest.mark.parametrize(
    "way", [{"sql": "prise * 2"}, {"ibis": "_.prise * 2"}, {"ibis": "_['prise']"}, {"column": "prise"}]
)
def test_a_missing_column_names_the_nearest(way, shop):
    with pytest.raises(ColumnNotFoundError, match=r"no column 'prise'.*Did you mean 'price'\?"):
        cells_of(xb.Metric(name="m", kind="mean", **way), shop)


def test_what_the_engine_does_not_know_is_one_sentence(shop):
    with pytest.raises(ExpnbError, match="the data cannot be read|is no SQL expression"):
        cells_of(xb.Metric(name="m", kind="mean", sql="no_such_function(price)"), shop)


@pytest.mark.parametrize("way", [{"sql": "price > 10"}, {"ibis": "_.price > 10"}])
def test_an_expectation_counts_units_that_break_it(way):
    price = np.where(np.arange(N) % 10 == 0, 5.0, 20.0).tolist()
    price[1] = None
    frame = frame_of(price=pa.array(price, pa.float64()))
    cells = load_cohort(experiment_of(expect=(Expectation(name="dear", tolerate=0.5, **way),)), frame).cells
    assert cells.broken["dear"].sum() == N // 10 + 1


def test_an_expression_that_gives_text_is_refused_by_its_metric(shop):
    metric = xb.Metric(name="m", kind="mean", sql="CAST(price AS VARCHAR)")
    with pytest.raises(MetricValuesError, match="its expression gives string, not numbers"):
        load_cohort(experiment_of(metric), shop)
