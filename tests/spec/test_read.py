"""Experiment files: what is read, and one clear sentence for what is not."""

from dataclasses import replace

import pytest
from tests.bad_input import MISTAKES

import expnb as xb
from expnb import errors
from expnb.spec.read import as_metric, read_catalogue, read_experiment

CATALOGUE = """
schema = 1
[[metrics]]
name = "retention_7"
kind = "conversion"
owner = "games"
version = "3"
column = "retained"
[[metrics]]
name = "crash_rate"
kind = "mean"
direction = "decrease"
owner = "platform"
version = "1"
margin = 0.05
"""


@pytest.mark.parametrize(
    ("found", "written", "error", "sentence"), MISTAKES, ids=[mistake[3][:60] for mistake in MISTAKES]
)
def test_a_mistake_is_one_sentence_with_file_key_and_next_step(gate_position_file, found, written, error, sentence):
    text = gate_position_file.read_text()
    assert found in text
    gate_position_file.write_text(text.replace(found, written, 1))
    with pytest.raises(error) as caught:
        read_experiment(gate_position_file)
    assert sentence in str(caught.value)
    assert str(caught.value).startswith(str(gate_position_file))


def test_a_missing_file_offers_the_nearest_name(gate_position_file):
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'gate_position\.toml'\?"):
        read_experiment(gate_position_file.with_name("gate_positon.toml"))


def test_the_file_is_read_as_written(gate_position):
    assert gate_position.treatments == ("gate_40",)
    assert gate_position.goal.name == "retention_7"
    assert gate_position.goal.margin == gate_position.goal.rope == 0.005
    assert gate_position.share("gate_40") == 0.5
    assert gate_position.prior == xb.Prior()


@pytest.fixture
def catalogue(tmp_path):
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "games.toml").write_text(CATALOGUE)
    return read_catalogue(folder)


def test_a_catalogue_metric_brings_its_definition(gate_position_file, catalogue):
    text = gate_position_file.read_text().replace('kind = "conversion"\nrole = "goal"', 'role = "goal"')
    gate_position_file.write_text(text)
    metric = read_experiment(gate_position_file, catalogue=catalogue).goal
    assert (metric.column, metric.owner, metric.version, metric.rope) == ("retained", "games", "3", 0.005)


def test_a_catalogue_metric_cannot_be_redefined(gate_position_file, catalogue):
    with pytest.raises(errors.SpecFileError, match="comes from the catalogue; kind cannot be changed here"):
        read_experiment(gate_position_file, catalogue=catalogue)


def test_an_unknown_metric_without_a_definition_names_the_catalogue(gate_position_file, catalogue):
    text = gate_position_file.read_text().replace('kind = "conversion"\nrole = "guardrail"', 'role = "guardrail"')
    gate_position_file.write_text(text.replace('kind = "conversion"\n', "", 1))
    with pytest.raises(errors.SpecFileError, match="'retention_1' has no kind and is not in the catalogue"):
        read_experiment(gate_position_file, catalogue=catalogue)


def test_every_experiment_inherits_the_default_guardrails(gate_position_file, catalogue):
    del catalogue["retention_7"]
    experiment = read_experiment(gate_position_file, catalogue=catalogue, guardrails=["crash_rate"])
    assert experiment.metric("crash_rate").role == "guardrail"
    assert experiment.metric("crash_rate").margin == 0.05


def test_an_inherited_guardrail_that_does_not_exist_is_named(gate_position_file, catalogue):
    del catalogue["retention_7"]
    with pytest.raises(errors.NameNotFoundError, match="no metric is called 'crash_rat'. Did you mean 'crash_rate'?"):
        read_experiment(gate_position_file, catalogue=catalogue, guardrails=["crash_rat"])


def test_a_metric_has_one_definition(tmp_path):
    for name in ("a.toml", "b.toml"):
        (tmp_path / name).write_text(CATALOGUE)
    with pytest.raises(errors.SpecFileError, match="defined a second time"):
        read_catalogue(tmp_path)


def test_a_hypothesis_that_says_no_harm_with_superiority_is_questioned(gate_position_file):
    text = gate_position_file.read_text().replace("raises 7-day retention", "does not hurt 7-day retention")
    gate_position_file.write_text(text)
    assert any("non_inferiority" in question for question in read_experiment(gate_position_file).questions())


def test_equal_files_have_equal_hashes_and_a_threshold_changes_them(gate_position_file):
    first, again = read_experiment(gate_position_file), read_experiment(gate_position_file)
    assert first.policy_hash == again.policy_hash
    gate_position_file.write_text(gate_position_file.read_text().replace("rope = 0.005", "rope = 0.006"))
    assert read_experiment(gate_position_file).policy_hash != first.policy_hash


def test_what_a_catalogue_metric_measures_is_fixed_and_the_rest_is_not(gate_position_file, catalogue):
    text = gate_position_file.read_text().replace('kind = "conversion"\nrole = "goal"', 'role = "goal"')
    for line in ('sql = "1"', "q = 0.5", "cap = 3", "window_days = 7", 'unit = "USD"', "certified = true"):
        gate_position_file.write_text(text.replace('role = "goal"', f'role = "goal"\n{line}'))
        key = line.split()[0]
        with pytest.raises(errors.SpecFileError, match=f"comes from the catalogue; {key} cannot be changed here"):
            read_experiment(gate_position_file, catalogue=catalogue)
    own = 'role = "goal"\nmargin = 0.1\ncovariate = "before"\ntotals = { sum = "retained" }'
    gate_position_file.write_text(text.replace('role = "goal"', own))
    goal = read_experiment(gate_position_file, catalogue=catalogue).goal
    assert (goal.margin, goal.covariate, goal.totals.sum) == (0.1, "before", "retained")


def test_a_definition_that_contradicts_itself_is_named_with_its_file(tmp_path):
    (tmp_path / "shop.toml").write_text(CATALOGUE.replace('kind = "conversion"', 'kind = "quantile"'))
    with pytest.raises(errors.SpecFileError, match=r"shop\.toml: metric 'retention_7' is a quantile with q = None"):
        read_catalogue(tmp_path)


def test_a_definition_keeps_its_hash_until_it_measures_something_else(catalogue):
    metric = as_metric(catalogue["retention_7"])
    same = replace(metric, version="4", owner="others", certified=True, role="guardrail", margin=0.1, description="d")
    assert same.definition_hash == metric.definition_hash
    for change in ({"column": "other"}, {"kind": "mean"}, {"direction": "decrease"}, {"unit": "days"}):
        assert replace(metric, **change).definition_hash != metric.definition_hash
