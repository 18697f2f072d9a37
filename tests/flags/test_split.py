"""The check after a push: sample units get what the state says."""

from dataclasses import replace

import pytest

from expnb import errors
from expnb.flags.split import check_split, expected_shares, serve_sample


def test_a_split_that_is_not_what_the_flag_says_is_an_error(demo):
    state = demo.flag(demo.experiment("gate_position"))
    check_split(state, {"off": 100, "gate_30": 50, "gate_40": 50})
    with pytest.raises(errors.PushUncertainError, match="200 of 200 sample units get 'off'|0 of 200 sample units"):
        check_split(state, {"off": 200})


@pytest.mark.parametrize(
    ("change", "shares"),
    [
        ({}, {"gate_30": 0.25, "gate_40": 0.25, "off": 0.5}),
        ({"serve": "gate_40", "holdback": 5}, {"gate_30": 0.05, "gate_40": 0.95, "off": 0}),
        ({"serve": "gate_30"}, {"gate_30": 1, "gate_40": 0, "off": 0}),
    ],
)
def test_expected_shares_follow_the_exposure(demo, change, shares):
    state = demo.flag(demo.experiment("gate_position"))
    found = expected_shares(replace(state, exposure=replace(state.exposure, **change)))
    assert found == pytest.approx(shares)


def test_the_real_flag_serves_what_it_says(demo):
    for name in demo.experiments:
        state = demo.flag(demo.experiment(name))
        check_split(state, serve_sample(demo.flags, state.ref))
