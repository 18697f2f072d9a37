"""PyMC 6 with ArviZ 1, and PyMC 5 with ArviZ 0.23: whichever the suite itself does not run on, where an interpreter that has it is named."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOW = "docs/models.md says how to make one"

SMALL_FIT = """
import sys
from importlib.metadata import version
import expnb as xb
from expnb.spec.experiment import Experiment
experiment = Experiment(
    name="e", hypothesis="h", owner="o", flag="f", unit="userid", variant="version", control="gate_30",
    weights={"gate_30": 1.0, "gate_40": 1.0},
    metrics=(xb.Metric(name="retention_7", kind="conversion", role="goal", rope=0.005),), policy=xb.Policy(min_days=0),
)
cohort = xb.load_cohort(experiment, xb.datasets.cookie_cats())
posterior = xb.fit(experiment, cohort, engine="pymc", seed=20)
assert [check.outcome for check in posterior.checks if check.name.startswith("engines")] == ["ok"], posterior.checks
trace = xb.models.sample(experiment, cohort, "retention_7", seed=20)
container = trace.to_arviz()
assert container.posterior["rate"].sel(variant="gate_40").shape == (4, 1000)
assert trace.draws("effect_rel").mean() == posterior.effect("retention_7", "gate_40").effect_rel_post
print(version("pymc"), version("arviz"), type(container).__name__)
"""


@pytest.fixture(scope="module")
def python():
    """The interpreter of the other stack."""
    named = os.environ.get("EXPNB_PYTHON_312", "")
    if not named:
        pytest.skip(f"EXPNB_PYTHON_312 names no interpreter, so PyMC {version('pymc')} alone is tested; {HOW}")
    if not Path(named).is_file():
        pytest.fail(f"EXPNB_PYTHON_312 is {named!r}, where there is no interpreter; {HOW}")
    return named


def run(python, *arguments):
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env={**environment, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_bridge_holds_on_the_other_stack(python):
    files = ["tests/models/test_arviz_bridge.py", "tests/models/test_summary.py"]
    done = run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.mark.slow
def test_a_fit_on_the_other_stack_agrees_with_quadrature_and_its_draws_go_to_arviz(python):
    done = run(python, "-c", SMALL_FIT)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    pymc, arviz, container = done.stdout.split()[-3:]
    if os.path.realpath(python) != os.path.realpath(sys.executable):
        assert pymc.partition(".")[0] != version("pymc").partition(".")[0]
    assert container == ("InferenceData" if arviz.startswith("0") else "DataTree")
