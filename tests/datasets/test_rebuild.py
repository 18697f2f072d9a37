"""Rebuilt cohorts: published figures, and the real files where they exist."""

import pandas as pd
import pytest

import expnb as xb


def test_cookie_cats_has_the_published_retention():
    rates = xb.datasets.cookie_cats().groupby("version")[["retention_1", "retention_7"]].mean()
    assert rates.round(4).to_numpy().tolist() == [[0.4482, 0.1902], [0.4423, 0.1820]]


def test_hillstrom_has_the_published_rates():
    rates = xb.datasets.hillstrom().groupby("segment")[["visit", "conversion", "spend"]].mean()
    assert rates.loc["No E-Mail"].round(4).tolist() == [0.1062, 0.0057, 0.6528]
    assert rates.loc["Mens E-Mail"].round(4).tolist() == [0.1828, 0.0125, 1.4226]
    assert rates.loc["Womens E-Mail"].round(4).tolist() == [0.1514, 0.0088, 1.0772]


CASES = {
    "cookie_cats": (xb.datasets.cookie_cats, ["version", "retention_1", "retention_7"]),
    "hillstrom": (xb.datasets.hillstrom, ["segment", "visit", "conversion", "spend"]),
}


@pytest.mark.parametrize("name", CASES)
def test_rebuilt_outcomes_equal_the_real_file(name, real_data):
    rebuild, columns = CASES[name]
    real = pd.read_parquet(real_data / name / f"{name}.parquet")
    wanted = real[columns].astype(dict.fromkeys(columns[1:], float)).value_counts().to_dict()
    assert rebuild()[columns].astype(dict.fromkeys(columns[1:], float)).value_counts().to_dict() == wanted
