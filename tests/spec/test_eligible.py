"""Audience, layer, holdout and expiry in the specification."""

from dataclasses import replace
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.conftest import GATE_POSITION

import expnb as xb
from expnb.errors import MissingKeyError, PercentError, SpecError, UnknownKeyError
from expnb.spec.changes import changes
from expnb.spec.flag import UNIT, Eligibility

# Of the experiment of conftest.py, computed by the version that knew no audience: what was registered then still holds.
SPEC_HASH = "2c2d9ed53fd07675b3b7a47a266a528c74797e34bc89a453b3e50b7a92a07a6b"
POLICY_HASH = "511196da6d91fcfadae189fe5e87f7569081335aed1ab37667a9239572f8795e"
ASKED_HASH = "cf77e2f7a876470b5867416163f3cd3d53327e78305043a4bf82a58823ce88b1"

KEYS = """
audience = { country = ["DE", "AT"], platform = ["ios"] }
layer = "checkout"
slice = [0, 50]
expires = 2026-06-01
"""


def read(tmp_path, more):
    path = tmp_path / "gate_position.toml"
    path.write_text(GATE_POSITION.replace('source = "cohort.parquet"\n', f'source = "cohort.parquet"\n{more}'))
    return xb.read_experiment(path)


def test_who_is_eligible_is_read_from_the_file(tmp_path):
    experiment = read(tmp_path, KEYS)
    assert experiment.expires == date(2026, 6, 1)
    assert experiment.eligibility == Eligibility({"country": ("AT", "DE"), "platform": ("ios",)}, "checkout", (0, 50))
    assert experiment.exposure(25).eligibility == experiment.eligibility


def test_the_unit_column_is_an_allow_list_of_units(tmp_path):
    experiment = read(tmp_path, 'audience = { userid = ["116", "337"] }\n')
    assert experiment.eligibility.audience == {UNIT: ("116", "337")}
    assert "116" not in str(experiment.eligibility)
    assert "116" not in experiment._repr_html_()


def test_hashes_of_experiments_that_name_none_of_it_hold(gate_position):
    assert gate_position.spec_hash == SPEC_HASH
    assert gate_position.policy_hash == POLICY_HASH
    assert gate_position.asked_hash == ASKED_HASH
    assert not gate_position.eligibility.needs


def test_an_audience_changes_every_hash_that_binds_an_answer(gate_position):
    narrow = replace(gate_position, audience={"country": ("DE",)})
    assert narrow.spec_hash != gate_position.spec_hash
    assert narrow.policy_hash != gate_position.policy_hash
    assert narrow.asked_hash != gate_position.asked_hash
    assert replace(gate_position, layer="checkout").policy_hash != gate_position.policy_hash


@given(st.permutations(["DE", "AT", "CH"]))
def test_the_order_of_an_audience_says_nothing(values):
    file = {"country": tuple(values)}
    assert _base(audience=file).spec_hash == _base(audience={"country": ("AT", "CH", "DE")}).spec_hash


def _base(**fields):
    goal = xb.Metric(name="bought", kind="conversion", role="goal", rope=0.01)
    names = dict.fromkeys(("name", "hypothesis", "owner", "flag"), "x")
    arms = {"unit": "user", "variant": "arm", "control": "a", "weights": {"a": 50, "b": 50}}
    return xb.Experiment(**names, **arms, metrics=(goal,), policy=xb.Policy(min_days=0), **fields)


@pytest.mark.parametrize(
    ("more", "error", "words"),
    [
        ("slice = [0, 50]\n", SpecError, "names no layer"),
        ('layer = "checkout"\nslice = [50, 50]\n', SpecError, "ends above its start"),
        ('layer = "checkout"\nslice = [50, 120]\n', (SpecError, PercentError), "120"),
        ('layer = "checkout"\nslice = [50]\n', (SpecError, MissingKeyError), "slice"),
        ("audience = { country = [] }\n", SpecError, "values that are not empty"),
        ('audience = { version = ["gate_40"] }\n', SpecError, "the column that holds the arm"),
        ('audience = { targetingKey = ["7"] }\n', SpecError, "audience = { userid"),
        ("expires = 2017-02-10\n", SpecError, "before the experiment ends on 2017-02-14"),
        ('audiense = { country = ["DE"] }\n', UnknownKeyError, "Did you mean 'audience'"),
    ],
)
def test_what_contradicts_itself_is_one_sentence(tmp_path, more, error, words):
    with pytest.raises(error, match=words):
        read(tmp_path, more)


def test_rows_without_an_id_have_no_allow_list():
    with pytest.raises(SpecError, match="name that column as the unit"):
        replace(_base(), unit="row", audience={"row": ("7",)})


@pytest.mark.parametrize(
    ("edit", "where"),
    [
        ({"audience": {"country": ("DE",)}}, "audience"),
        ({"audience": {"country": ("DE", "AT", "CH")}}, "audience"),
        ({"audience": {}}, "audience"),
        ({"layer": "search"}, "layer"),
        ({"slice": (0, 60)}, "slice"),
        ({"slice": (0, 40)}, "slice"),
        ({"holdout": 2}, "holdout"),
    ],
)
def test_other_units_after_the_first_look_loosen(edit, where):
    then = _base(audience={"country": ("DE", "AT")}, layer="checkout", slice=(0, 50), holdout=5)
    assert {change.where: change.loosens for change in changes(then, replace(then, **edit))} == {where: True}


def test_an_edited_allow_list_names_no_unit():
    then = _base(audience={"user": ("ana", "ben")})
    (more,) = changes(then, _base(audience={"user": ("ana", "ben", "cid")}))
    assert more.sentence == "audience went from 2 named units to 3 named units."
    (others,) = changes(then, _base(audience={"user": ("ana", "cid")}))
    assert others.sentence == "audience went from 2 named units to others."
    assert others.loosens


def test_a_larger_holdout_and_another_expiry_do_not_loosen():
    then = _base(holdout=5, expires=date(2026, 6, 1))
    found = changes(then, replace(then, holdout=10, expires=date(2026, 9, 1)))
    assert {change.where: change.loosens for change in found} == {"holdout": False, "expires": False}


def hold_out(config, percent):
    text = config.read_text()
    table = "" if "[defaults]" in text else "\n[defaults]\n"
    config.write_text(f"{text}{table}".replace("[defaults]\n", f"[defaults]\nholdout = {percent}\n"))


def test_the_holdout_of_the_workspace_reaches_its_experiments_and_their_flags(demo):
    config = demo.root / "expnb.toml"
    hold_out(config, 5)
    path = demo.root / "experiments" / "gate_position.toml"
    other = path.with_name("second.toml")
    other.write_text(path.read_text().replace('"gate_position"', '"second"').replace('"gate-position"', '"second"'))
    workspace = xb.open_workspace(demo.root, clock=demo.clock)
    experiment = workspace.experiment("second")
    assert experiment.holdout == 5
    assert workspace.create_flag(experiment).exposure.eligibility.holdout == 5


def test_a_holdout_beyond_100_percent_is_refused(demo):
    config = demo.root / "expnb.toml"
    hold_out(config, 500)
    with pytest.raises((SpecError, PercentError), match="holdout"):
        xb.open_workspace(demo.root)
