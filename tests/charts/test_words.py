"""Numbers and names as people read them."""

import pytest

from expnb.charts import words
from expnb.charts.words import Measure


@pytest.mark.parametrize("value", [-1e-9, -0.0, 0.0, 1e-9])
def test_nothing_is_never_negative(value):
    assert Measure(100, " pp").change(value, 2) == "+0.00 pp"
    assert Measure(1, " EUR").change(-0.0) == "+0 EUR"


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1_974_812.0, "1,975,000"),
        (1_960_123.0, "1,960,000"),
        (1_960.0, "1,960"),
        (19.6, "19.60"),
        (9.99996, "10.00"),
        (-0.5, "-0.5000"),
        (1e-9, "1e-09"),
        (0.0, "0"),
    ],
)
def test_numbers_have_equal_significant_digits_and_their_thousands_apart(value, told):
    assert words.number(value, 4) == told


def test_large_effects_and_distances_are_not_scientific():
    assert Measure(1, " µs").change(-1_234_567.0) == "−1,230,000 µs"
    assert Measure(1, " µs").distance(250_000.0) == "250,000 µs"
    assert Measure(1, " EUR").distance(0.5) == "0.5 EUR"


def test_names_that_differ_at_their_end_stay_different():
    names = ["application on a telephone", "application on a tablet"]
    assert words.distinct(names, 18) == ["applicati…elephone", "applicati…a tablet"]


def test_labels_of_one_chart_are_distinct_and_short_whatever_the_names():
    names = ["same", "same", "same (2)", *(f"{'a' * 30}{i}{'z' * 30}" for i in range(30))]
    labels = words.distinct(names, 18)
    assert len(set(labels)) == len(names)
    assert max(map(len, labels)) <= 18
