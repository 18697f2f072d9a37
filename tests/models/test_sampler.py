"""What happens around the draws: progress, interrupts, models that cannot be compiled."""

import _thread
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from expnb.errors import EngineError
from expnb.models import Sampling, progress, sample
from expnb.models.sampler import compiled, compiled_shapes

METRIC = "retention_7"


def nothing_that_compiles():
    import pymc as pm
    import pytensor.tensor as pt
    from pytensor.compile.ops import as_op

    @as_op(itypes=[pt.dscalar], otypes=[pt.dscalar])
    def opaque(x):
        return np.asarray(x)

    with pm.Model() as model:
        pm.Potential("opaque", opaque(pm.Flat("x")))
    return model


@pytest.mark.slow
def test_a_model_that_cannot_be_compiled_says_so_in_one_sentence_with_the_way_out():
    with pytest.raises(
        EngineError,
        match=r"^metric 'spend': PyMC could not compile it \(\w+: .*\)\. Use engine='exact', which compiles nothing, or repair",
    ):
        compiled(("opaque",), nothing_that_compiles, about="metric 'spend'")
    assert ("opaque",) not in compiled_shapes()


BROKEN_COMPILER = """
import expnb as xb
from expnb.errors import EngineError
from expnb.spec.experiment import Experiment
experiment = Experiment(
    name="e", hypothesis="h", owner="o", flag="f", unit="row", variant="version", control="gate_30",
    weights={"gate_30": 1.0, "gate_40": 1.0},
    metrics=(xb.Metric(name="retention_7", kind="conversion", role="goal", rope=0.005),), policy=xb.Policy(min_days=0),
)
cohort = xb.load_cohort(experiment, xb.datasets.cookie_cats())
print(xb.fit(experiment, cohort).effects[0].p_improvement is not None)
try:
    xb.fit(experiment, cohort, engine="pymc")
    print("sampled")
except EngineError as problem:
    print(problem)
"""


@pytest.mark.slow
def test_without_a_working_compiler_the_exact_engine_answers_and_the_other_says_what_to_do(tmp_path):
    flags = f"cxx=/bin/false,base_compiledir={tmp_path}"
    done = subprocess.run(
        [sys.executable, "-c", BROKEN_COMPILER],
        env={**os.environ, "PYTENSOR_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = done.stdout.strip().splitlines()  # PyTensor prints its own between ours
    assert lines[0] == "True", done.stderr
    assert "PyMC could not compile it (CompileError" in lines[-1]
    assert "Use engine='exact', which compiles nothing" in lines[-1]


@pytest.mark.slow
def test_an_interrupt_stops_the_sampler_and_reaches_the_caller(cookie_cats):
    sample(*cookie_cats, METRIC)  # so that the interrupt does not fall into the compilation
    threading.Timer(1.0, _thread.interrupt_main).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        sample(*cookie_cats, METRIC, sampling=Sampling(draws=2_000_000))
    assert time.monotonic() - begin < 5
    time.sleep(0.2)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.25  # nothing is left that draws
    assert sample(*cookie_cats, METRIC).diagnostics.problems == ()


@pytest.fixture
def looked_at(monkeypatch, capsys):
    """A terminal, and bars that do not wait; gives what is on it."""
    monkeypatch.setattr(progress, "AFTER_SECONDS", 0.0)
    monkeypatch.setattr(progress, "can_draw", lambda: True)
    return lambda: capsys.readouterr().err


@pytest.mark.slow
def test_a_long_run_shows_how_many_draws_there_are(cookie_cats, looked_at):
    sample(*cookie_cats, METRIC, sampling=Sampling(draws=20_000))
    shown = looked_at()
    assert "sampling metric 'retention_7', gate_40 against gate_30, all" in shown
    assert "80000" in shown


def test_a_bar_waits_for_two_seconds_and_leaves_with_its_block(looked_at, monkeypatch):
    monkeypatch.setattr(progress, "AFTER_SECONDS", 2.0)
    with progress.bar("sampling", 100, lambda: 50, wanted=True) as show:
        show()
    assert looked_at() == ""
    monkeypatch.setattr(progress, "AFTER_SECONDS", 0.0)
    with progress.bar("sampling", 100, lambda: 50, wanted=True) as show:
        show()
        assert "50/100" in looked_at()
    assert looked_at().endswith("\r")


def test_no_bar_where_none_is_wanted(looked_at):
    with progress.bar("sampling", 100, lambda: 50, wanted=False) as show:
        show()
    with progress.line("compiling", wanted=False):
        pass
    assert looked_at() == ""


def test_no_bar_on_paper_or_without_a_terminal(monkeypatch):
    assert not progress.can_draw()  # what a test writes is no terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.delenv("EXPNB_STATIC", raising=False)
    assert progress.can_draw()
    monkeypatch.setenv("EXPNB_STATIC", "1")
    assert not progress.can_draw()
