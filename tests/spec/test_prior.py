"""Priors: what they are called, what density they have, and which numbers they refuse."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest

import expnb as xb
from expnb import errors
from expnb.spec.canonical import digest, to_json
from expnb.spec.prior import FLAT, Prior

LEARNT = Prior(
    family="learnt",
    scales=(0.008, 0.02),
    weights=(0.7, 0.3),
    null_share=0.4,
    source="learnt from 57 past experiments on metric retention_7",
)
PROPER = [Prior(), Prior("normal", 0.02), Prior("student_t", 0.01, 2.5), LEARNT, replace(LEARNT, df=7.0)]


@pytest.mark.parametrize("prior", PROPER, ids=lambda prior: prior.id)
def test_the_density_integrates_to_its_mass(prior):
    u = np.linspace(-14, 14, 40_001)
    x = prior.scale * np.sinh(u)
    mass = np.trapezoid(np.exp(prior.log_density(x)) * prior.scale * np.cosh(u), u)
    assert math.log(mass) == pytest.approx(prior.log_mass, abs=1e-6)


@pytest.mark.parametrize("prior", PROPER, ids=lambda prior: prior.id)
def test_the_standard_deviation_is_that_of_the_density_and_the_point(prior):
    u = np.linspace(-20, 20, 80_001)
    x = prior.scale * np.sinh(u)
    density = np.exp(prior.log_density(x) - prior.log_mass) * prior.scale * np.cosh(u)
    variance = (1 - prior.null_share) * np.trapezoid(x**2 * density, u)
    assert math.sqrt(variance) == pytest.approx(prior.sd, rel=1e-3)


def test_the_flat_prior_has_no_density():
    assert FLAT.log_density(np.array([-1.0, 5.0])).tolist() == [0, 0]
    assert (FLAT.log_mass, FLAT.sd, FLAT.parts) == (0, math.inf, ())


def test_a_density_far_out_stays_finite():
    far = np.array([-1e6, -300.0, 0.0, 300.0])
    assert np.isfinite(LEARNT.log_density(far)).all()


def test_a_learnt_prior_of_one_scale_is_its_student_t():
    one = Prior(family="learnt", scales=(0.03,), weights=(1.0,))
    x = np.linspace(-1, 1, 101)
    assert one.log_density(x) == pytest.approx(Prior().log_density(x), abs=1e-12)
    assert (one.log_mass, one.sd, one.scale) == pytest.approx((Prior().log_mass, Prior().sd, 0.03))


def test_equal_priors_have_equal_ids_and_others_have_not():
    again = pickle.loads(pickle.dumps(LEARNT))
    assert again.id == LEARNT.id
    changed = [
        replace(LEARNT, weights=(0.6, 0.4)),
        replace(LEARNT, null_share=0.5),
        replace(LEARNT, scales=(0.009, 0.02)),
    ]
    assert len({prior.id for prior in (LEARNT, *changed)}) == 4
    assert LEARNT.id.startswith(
        "learnt from 57 past experiments on metric retention_7 (40 % no effect, else student_t(4, 0, 0.011); "
    )


def test_the_new_fields_leave_the_hashes_of_other_priors():
    assert digest(Prior()) == digest({})
    assert digest(Prior("normal", 0.02)) == digest({"family": "normal", "scale": 0.02})


def test_a_learnt_prior_can_be_written_in_a_file(gate_position_file):
    text = gate_position_file.read_text()
    table = '[prior]\nfamily = "learnt"\nscales = [0.008, 0.02]\nweights = [0.7, 0.3]\nnull_share = 0.4\nsource = "learnt from 57 past experiments on metric retention_7"\n[policy]'
    gate_position_file.write_text(text.replace("[policy]", table))
    assert xb.read_experiment(gate_position_file).prior == LEARNT
    assert Prior(**to_json(LEARNT) | {"scales": (0.008, 0.02), "weights": (0.7, 0.3)}) == LEARNT


def test_a_metric_can_have_its_own_prior(gate_position_file):
    text = gate_position_file.read_text().replace("margin = 0.02", "margin = 0.02\n[metrics.prior]\nscale = 0.01")
    gate_position_file.write_text(text)
    experiment = xb.read_experiment(gate_position_file)
    assert experiment.prior_on("retention_1") == Prior(scale=0.01)
    assert experiment.prior_on("retention_7") == experiment.prior == Prior()
    assert "retention_1: student_t(4, 0, 0.01)" in experiment._repr_html_()


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"family": "lernt"}, "prior family is 'lernt'; it is one of student_t, normal, flat, learnt. Did you mean 'learnt'?"),
        ({"scale": 0.0}, "prior scale is 0.0; it must be above 0. Write 0.03"),
        ({"scale": math.nan}, "prior scale is nan; it must be above 0"),
        ({"df": -1.0}, "prior df is -1.0; it must be above 0"),
        ({"family": "learnt"}, "a learnt prior has as many scales as weights, and at least one; it has 0 and 0. Leave [prior] out"),
        ({"family": "learnt", "scales": (0.1, 0.2), "weights": (1.0,)}, "it has 2 and 1"),
        ({"family": "learnt", "scales": (0.0,), "weights": (1.0,)}, "prior scale is 0.0; it must be above 0"),
        ({"family": "learnt", "scales": (0.1, 0.2), "weights": (0.5, 0.6)}, "they are shares that add up to 1"),
        ({"family": "learnt", "scales": (0.1, 0.2), "weights": (1.5, -0.5)}, "they are shares that add up to 1"),
        ({"family": "learnt", "scales": (0.1,), "weights": (1.0,), "null_share": 1.0}, "null_share is 1.0; it is a probability from 0 to below 1"),
        ({"scale": "3%"}, "prior scale is '3%'; it is a number. Write 0.03 for effects of about 3 %."),
        ({"scale": True}, "prior scale is True; it is a number"),
        ({"df": "4"}, "prior df is '4'; it is a number. Write 4 for the default."),
        ({"null_share": None}, "prior null_share is None; it is a number. Write 0.6"),
        ({"family": "learnt", "scales": ("1%",), "weights": (1.0,)}, "prior scales are ('1%',); they are a list of numbers. Copy them"),
        ({"family": "learnt", "scales": (0.1,), "weights": 1.0}, "prior weights are 1.0; they are a list of numbers"),
        ({"scale": 3}, "prior scale is 3, which means effects of 300 %; it lies below 1. Write 0.03 for 3 %."),
        ({"family": "normal", "scale": 1.0}, "prior scale is 1.0, which means effects of 100 %; it lies below 1. Write 0.01 for 1 %."),
        ({"scale": 300.0}, "it lies below 1. Write 0.03 for effects of about 3 %."),
        ({"family": "learnt", "scales": (0.01, 3.0), "weights": (0.5, 0.5)}, "prior scale is 3.0, which means effects of 300 %; of a learnt prior it lies below 3"),
        ({"null_share": 0.5}, "which only a learnt prior has"),
    ],
)  # fmt: skip
def test_a_bad_number_gets_a_sentence(facts, sentence):
    with pytest.raises(errors.SpecError) as caught:
        Prior(**facts)
    assert sentence in str(caught.value)


def test_scales_that_can_be_learnt_and_numbers_of_numpy_are_taken():
    learnt = Prior(family="learnt", scales=(0.5, 2.9), weights=(0.2, 0.8))
    assert learnt.scale > 1
    assert replace(learnt, source="past") != learnt
    assert Prior(scale=np.float64(0.02)) == Prior(scale=0.02)
    assert Prior("flat", scale=3.0).id == "flat"
