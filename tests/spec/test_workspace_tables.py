"""The tables [ledger] and [notify] of `expnb.toml`."""

import pytest

from expnb.errors import SpecError
from expnb.spec.read import parse
from expnb.spec.workspace_file import WorkspaceFile


def read(**tables):
    return parse({"schema": 1, "environments": {"demo": {"flags": "memory://"}}, **tables}, WorkspaceFile, "expnb.toml")


def test_a_ledger_of_a_team_is_named_by_its_connection():
    assert read(ledger={"connection": "TEAM_LEDGER"}).ledger.connection == "TEAM_LEDGER"
    assert read().ledger.url == "sqlite:///.expnb/ledger.sqlite"


def test_a_ledger_in_two_places_is_refused():
    with pytest.raises(SpecError, match="in one place"):
        read(ledger={"connection": "TEAM_LEDGER", "url": "sqlite:///x.sqlite"})


@pytest.mark.parametrize("table", [{"ledger": {"connection": "postgresql://u:hunter2@h/d"}}, {"notify": {"webhook": "https://hooks/hunter2"}}])  # fmt: skip
def test_a_secret_in_place_of_its_name_is_refused_and_not_shown(table):
    with pytest.raises(SpecError, match="its name alone") as caught:
        read(**table)
    assert "hunter2" not in str(caught.value)


def test_a_channel_hears_of_everything_unless_it_says_what():
    assert read(notify={"webhook": "TEAM"}).notify.on == ("request", "approval", "push", "roll_back", "kill")
    assert read(notify={"webhook": "TEAM", "on": ["kill"]}).notify.on == ("kill",)
    assert read().notify.webhook == ""


def test_an_unknown_act_is_refused_with_a_near_one():
    with pytest.raises(SpecError, match="roll_back"):
        read(notify={"webhook": "TEAM", "on": ["rollback"]})
