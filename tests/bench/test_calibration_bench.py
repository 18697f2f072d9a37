"""The calibration notices an engine that is wrong."""

from dataclasses import replace

import pytest
from bench import calibration
from bench.calibration import MODELS, Found, Model, calibrated

from expnb.spec.prior import Prior

CHEAP = [name for name in MODELS if name.startswith(("count", "mean, ", "mean without"))]


@pytest.mark.parametrize("name", CHEAP)
def test_models_pass_in_small(name):
    calibration._refuse(name, calibrated(MODELS[name], 400), 400)


def test_another_prior_than_that_of_the_truths_is_found():
    wrong = replace(MODELS["mean, relative"], prior=Prior(scale=0.02))
    with pytest.raises(SystemExit, match="mean"):
        calibration._refuse("mean", calibrated(wrong, 1_000), 1_000)


@pytest.mark.parametrize(
    ("found", "says"),
    [
        (Found(coverage=0.93, gap=0.0, z=0.0), "95 % intervals hold the truth 93.0% of the time"),
        (Found(coverage=0.95, gap=0.02, z=0.0), "ranks are 0.0200 from even"),
        (Found(coverage=0.95, gap=0.0, z=5.0), "5.0 standard deviations"),
    ],
)
def test_each_failure_is_named(found, says):
    with pytest.raises(SystemExit, match=says):
        calibration._refuse("mean", found, 20_000)


def test_all_models_are_relative_and_absolute_and_few_are_not_counted():
    assert {model.relative for model in MODELS.values()} == {True, False}
    assert [name for name, model in MODELS.items() if model.share < 1] == [
        "mean of few, absolute",
        "weak ratio, absolute",
    ]


def test_a_run_in_small_is_not_kept(monkeypatch, capsys):
    monkeypatch.setattr(calibration, "REPLICATIONS", 40)
    monkeypatch.setattr(calibration, "MODELS", {"mean": Model(calibration.means, calibration.PRIOR, relative=True)})
    figures = list(calibration.figures())
    assert [figure.name for figure in figures] == ["sbc_hdi_coverage_min", "sbc_hdi_coverage_max"]
    assert not any(figure.kept for figure in figures)
    assert "mean" in capsys.readouterr().out
