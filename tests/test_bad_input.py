"""Bad input gets one clear sentence, exit code 2, and changes nothing: not the flag, not the ledger."""

import pytest
from tests.bad_input import BAD_COHORTS, MISTAKES
from tests.conftest import GATE_POSITION

import expnb as xb
from expnb.cli import main


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """One demo workspace whose files every test leaves as they were."""
    return xb.demo.make_workspace(tmp_path_factory.mktemp("bad") / "demo")


@pytest.fixture
def refused(workspace, monkeypatch, capsys):
    """The sentence of a command that must fail and change nothing."""
    monkeypatch.chdir(workspace.root)

    def call(*arguments):
        flags = (workspace.root / "flags.flagd.json").read_bytes()
        head = workspace.ledger.head()
        with pytest.raises(SystemExit) as done:
            main(arguments)
        out, err = capsys.readouterr()
        assert done.value.code == 2
        assert (workspace.root / "flags.flagd.json").read_bytes() == flags
        assert workspace.ledger.head() == head
        assert not out
        assert err.startswith("expnb: ")
        assert err.count("\n") == 1
        return err

    return call


@pytest.mark.parametrize("case", BAD_COHORTS)
def test_a_bad_cohort_changes_nothing(case, refused, players, tmp_path):
    spoil, _, sentence = BAD_COHORTS[case]
    spoil(players).to_parquet(tmp_path / "spoilt.parquet")
    assert sentence in refused("decide", "gate_position", "--source", str(tmp_path / "spoilt.parquet"))


@pytest.mark.parametrize(
    ("found", "written", "error", "sentence"), MISTAKES, ids=[mistake[3][:60] for mistake in MISTAKES]
)
def test_a_mistake_in_a_file_changes_nothing(found, written, error, sentence, workspace, refused):
    metrics = workspace.root / "metrics"
    path = workspace.root / "experiments" / "spoilt.toml"
    path.write_text(GATE_POSITION.replace(found, written, 1))
    metrics.rename(workspace.root / "no-metrics")  # the file defines its metrics itself
    try:
        assert sentence in refused("decide", "spoilt")
    finally:
        path.unlink()
        (workspace.root / "no-metrics").rename(metrics)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("decide", "gate_positon"), "no experiment is called 'gate_positon'. Did you mean 'gate_position'?"),
        (("decide", "gate_position", "--source", "cookie_cat.parquet"), "no cohort file at 'cookie_cat.parquet'. Did you mean 'cookie_cats.parquet'?"),
        (("gate", "email_campaign", "--to", "30"), "the ladder of this experiment has the rungs 1, 5, 25, 50, 100"),
        (("gate", "email_campaign", "--to", "101"), "a percentage lies between 0 and 100"),
        (("run", "email_campaign", "-p", "sed=3"), "the notebook has no parameter 'sed'"),
        (("run", "email_campaign", "-p", "api_token=x"), "parameter 'api_token' looks like a secret"),
        (("run", "email_campaign", "-p", "seed"), "parameter 'seed' has no value; write name=value."),
        (("rollback", "email_campaign", "--reason", " "), "a roll back needs a reason"),
        (("flags", "--environment", "prodution"), "no environment is called 'prodution'. Did you mean 'production'?"),
        (("apply", "email_campaign"), "no open request on 'email_campaign'"),
    ],
)  # fmt: skip
def test_a_wrong_command_changes_nothing(arguments, sentence, refused):
    assert sentence in refused(*arguments)
