from importlib.metadata import version

import numpy as np
import pytest

from expnb.models.arviz_bridge import divergences, draws, ess, labelled, rhat
from expnb.models.environment import prepare

RATES = np.random.default_rng(3).random((4, 100, 2))
LABELS = {"variant": ("control", "a")}


def inference_data():
    """What ArviZ 0.23 calls its container; gone in ArviZ 1."""
    import arviz as az

    if int(version("arviz").partition(".")[0]) >= 1:
        pytest.skip("ArviZ 1 has no InferenceData")
    return az.from_dict(
        {"rate": RATES},
        sample_stats={"diverging": RATES[..., 0] > 0.5},
        dims={"rate": ["variant"]},
        coords={"variant": ["0", "1"]},
    )


def data_tree():
    """What ArviZ 1 calls its container."""
    import xarray as xr

    posterior = xr.Dataset({"rate": (("chain", "draw", "variant"), RATES)}, coords={"variant": ["0", "1"]})
    return xr.DataTree.from_dict(
        {"posterior": posterior, "sample_stats": xr.Dataset({"diverging": (("chain", "draw"), RATES[..., 0] > 0.5)})}
    )


@pytest.fixture(params=[inference_data, data_tree], ids=["InferenceData", "DataTree"])
def container(request):
    prepare()
    return request.param()


def test_draws_and_divergences_are_read_from_either_container(container):
    assert (draws(container, "rate") == RATES).all()
    assert divergences(container) == (RATES[..., 0] > 0.5).sum()


def test_labels_go_on_a_copy_of_either_container(container):
    named = labelled(container, LABELS, {"metric": "retention_7"})
    assert (np.asarray(named.posterior["rate"].sel(variant="a")) == RATES[..., 1]).all()
    assert named.posterior.attrs["metric"] == "retention_7"
    assert list(container.posterior["rate"]["variant"].values) == ["0", "1"]
    assert "variant" not in named.sample_stats.coords


def test_independent_draws_have_no_r_hat_to_speak_of_and_keep_their_number():
    assert rhat(RATES[..., 0]) == pytest.approx(1.0, abs=0.02)
    assert ess(RATES[..., 0], "bulk") == pytest.approx(400, rel=0.3)
    assert ess(RATES[..., 0], "tail") == pytest.approx(400, rel=0.3)


def test_chains_that_never_meet_have_a_large_r_hat():
    assert rhat(RATES[..., 0] + np.arange(4)[:, None]) > 2
