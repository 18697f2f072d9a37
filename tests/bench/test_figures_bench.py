"""Benchmarks measure what they say, in small."""

import json

import numpy as np
import pytest
from bench import __main__ as run
from bench import priors, start_up, tails

import expnb as xb
from expnb.posterior.priors.score import score_prior


@pytest.mark.slow
def test_a_fresh_process_states_a_posterior_from_cells_and_from_a_workspace(tmp_path, monkeypatch):
    monkeypatch.setattr(start_up, "RUNS", 1)
    xb.demo.make_workspace(tmp_path / "demo")
    found = {figure.name: figure.value for figure in start_up.posterior_figures(tmp_path / "demo")}
    assert list(found) == [
        "first_posterior_seconds_over_python",
        "first_posterior_from_workspace_seconds_over_python",
    ]
    assert all(0 < value < 60 for value in found.values())


def test_payments_have_the_mean_they_are_judged_by():
    rng = np.random.default_rng(0)
    for name, (draw, mean) in tails.PAYMENTS.items():
        if name != "pareto_1.5":  # without a variance
            values = draw(rng, 1_000_000)
            assert values.mean() == pytest.approx(mean, abs=6 * values.std() / 1e3), name


def test_the_hurdle_is_right_where_payments_are_lognormal():
    bias, covered = tails.tail(*tails.PAYMENTS["lognormal"], np.random.default_rng(1), 200)
    assert abs(bias) < 0.01
    assert covered == pytest.approx(0.95, abs=0.06)


def test_winners_promise_twice_without_a_prior(monkeypatch):
    monkeypatch.setitem(priors.REPEATS, 20, 20)
    raw, learnt = priors.exaggeration(priors.WORLDS["Normal"], 20, np.random.default_rng(3))
    assert raw == pytest.approx(2, abs=0.2)
    assert learnt == pytest.approx(1, abs=0.2)


def test_headline_tests_give_their_figures(real_data, monkeypatch):
    path = real_data / "upworthy" / "upworthy_packages.parquet"
    if not path.is_file():
        pytest.skip("no headline tests in the folder of real data")
    monkeypatch.setattr(priors, "HEADLINES", path)
    past = priors.headlines()
    assert (past.se > 0).all()
    few = past[past.experiment.isin(past.experiment.unique()[:300])]
    found = {figure.name: figure.value for figure in priors.of_headlines(score_prior(few, metric="click", splits=1))}
    assert found["prior_headlines_log_density_gain"] > 0


def test_only_what_is_kept_is_written_and_the_rest_stays(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results.json"
    results.write_text(json.dumps({"old": {"value": 1, "unit": "ratio"}}))

    class Made:
        @staticmethod
        def figures():
            yield run.Figure("kept", 1.23456, "ratio", "nothing")
            yield run.Figure("quick", 2.0, "ratio", "nothing", kept=False)
            yield run.Figure("unknown", float("nan"), "ratio", "nothing")

    monkeypatch.setattr(run, "RESULTS", results)
    monkeypatch.setattr(run.document, "main", lambda: None)
    monkeypatch.setitem(run.MODULES, "made", Made)
    run.main("made")
    found = json.loads(results.read_text())
    assert set(found) == {"old", "kept"}
    assert found["kept"]["value"] == 1.235
    out = capsys.readouterr().out
    assert "quick: 2" in out
    assert "not kept: unknown is no number" in out


def test_an_unknown_benchmark_is_refused():
    with pytest.raises(SystemExit, match="no benchmark is called 'cell'"):
        run.main("cell")


def test_every_module_of_figures_is_run():
    modules = {path.stem for path in run.RESULTS.parent.glob("*.py") if "\ndef figures()" in path.read_text()}
    assert modules == set(run.MODULES | run.OWN_COMMAND)
