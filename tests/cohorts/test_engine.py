"""How a query is watched, stopped, and said to have failed."""

import threading
import time

import pytest

from expnb import errors
from expnb.cohorts import engine as engines
from expnb.cohorts.engine import ask, first_line, holds_secret, mask, run, unreadable
from expnb.cohorts.sources import duckdb_engine
from expnb.spec.experiment import Cost

ENDLESS = "SELECT sum(sin(a.range * b.range)) AS x FROM range(10000000) a, range(10000) b"


@pytest.fixture
def engine():
    return duckdb_engine("UTC")


def test_a_query_that_takes_too_long_is_stopped_and_the_connection_still_works(engine):
    begin = time.monotonic()
    with pytest.raises(errors.QueryTooLongError, match=r"checkout ran longer than 0\.3 s and was stopped"):
        ask(engine, engine.sql(ENDLESS), cost=Cost(max_seconds=0.3), what="checkout")
    assert time.monotonic() - begin < 5
    assert ask(engine, engine.sql("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


def test_stopping_the_cell_stops_the_query(engine):
    import _thread

    endless = engine.sql(ENDLESS)
    threading.Timer(0.3, _thread.interrupt_main).start()
    with pytest.raises(KeyboardInterrupt):
        ask(engine, endless)
    assert ask(engine, engine.sql("SELECT 1 AS x")).to_pylist() == [{"x": 1}]


def test_queries_of_one_engine_run_one_after_the_other(engine):
    inside, most = [], []

    def work():
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.02)
        inside.pop()

    threads = [threading.Thread(target=lambda: run(engine, work)) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 5


def test_a_bar_appears_only_when_somebody_waits(engine, monkeypatch, capsys):
    monkeypatch.setattr(engines, "can_draw", lambda: True)
    monkeypatch.setattr(engines, "BAR_AFTER_SECONDS", 0.3)
    ask(engine, engine.sql("SELECT 1 AS x"), what="checkout")
    assert capsys.readouterr().err == ""
    with pytest.raises(errors.QueryTooLongError):
        ask(engine, engine.sql(ENDLESS), cost=Cost(max_seconds=1), what="checkout")
    assert "checkout" in capsys.readouterr().err


def test_no_bar_where_nobody_looks(engine, monkeypatch, capsys):
    monkeypatch.setattr(engines, "BAR_AFTER_SECONDS", 0.1)
    with pytest.raises(errors.QueryTooLongError):
        ask(engine, engine.sql(ENDLESS), cost=Cost(max_seconds=0.5))
    assert capsys.readouterr().err == ""


def test_an_operation_that_the_engine_lacks_is_named_with_the_engine(engine):
    from ibis.common.exceptions import OperationNotDefinedError

    error = OperationNotDefinedError("Compilation rule for 'ApproxMultiQuantile' operation is not defined")
    assert "DuckDB has no operation ApproxMultiQuantile" in str(unreadable(error, engine))


def test_a_step_that_cannot_spill_gets_more_memory(engine):
    import duckdb

    limits = []

    def work():
        limits.append(engine.con.execute("SELECT current_setting('memory_limit')").fetchone()[0])
        if len(limits) == 1:
            raise duckdb.OutOfMemoryException("Out of Memory")

    run(engine, work)
    after = engine.con.execute("SELECT current_setting('memory_limit')").fetchone()[0]
    assert limits[0] == after != limits[1]


def test_passwords_are_masked_wherever_they_stand():
    for text in (
        "no route to postgresql://me:geheim@host/db",
        "password=geheim host=x",
        "token: 'geheim'",
    ):
        assert "geheim" not in mask(text)
    assert mask("it was geheim", ("geheim",)) == "it was ***"


def test_an_error_whose_cause_holds_a_password_is_known():
    outer = ValueError("no")
    outer.__cause__ = ValueError("postgresql://me:geheim@host")
    assert holds_secret(outer, ())
    assert not holds_secret(ValueError("no"), ())


def test_an_error_without_words_is_named_by_its_type():
    assert first_line(RuntimeError()) == "RuntimeError"


@pytest.mark.parametrize(
    "error",
    [errors.QueryTooLongError("a", 2.0), errors.TooManyRowsError("a", 3, 2), errors.FullScanError("a")],
)
def test_errors_of_cost_survive_pickling(error):
    import pickle

    assert str(pickle.loads(pickle.dumps(error))) == str(error)
