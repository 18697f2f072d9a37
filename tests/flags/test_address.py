"""Backends by address."""

import pytest

from expnb.errors import FlagError
from expnb.flags.address import connect
from expnb.flags.flagd import FlagdFile


def test_a_flagd_address_is_taken_relative_to_the_workspace(tmp_path):
    backend = connect("flagd:flags/prod.flagd.json", root=tmp_path, environment="production")
    assert isinstance(backend, FlagdFile)
    assert backend.path == tmp_path / "flags" / "prod.flagd.json"
    assert backend.environment == "production"
    assert backend.name == "flagd:flags/prod.flagd.json"


def test_connecting_makes_nothing(tmp_path):
    connect("flagd:flags.flagd.json", root=tmp_path, environment="production")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("redis://host", "starts with 'redis:'"),
        ("flags.json", "has no scheme"),
        ("flagd:", "names no place"),
        ("", "has no scheme"),
    ],
)
def test_an_unknown_address_is_answered_with_the_known_ones(tmp_path, url, found):
    with pytest.raises(FlagError, match=rf"{found}.*flagd:PATH"):
        connect(url, root=tmp_path, environment="production")


def test_a_misspelt_scheme_gets_a_hint(tmp_path):
    with pytest.raises(FlagError, match="Did you mean 'flagd'"):
        connect("flgd:flags.json", root=tmp_path, environment="production")


def test_an_error_shows_no_credential_of_the_address(tmp_path):
    with pytest.raises(FlagError) as caught:
        connect("vendor://user:hunter2@host", root=tmp_path, environment="production")
    assert "hunter2" not in str(caught.value)


def test_only_json_files_are_written(tmp_path):
    with pytest.raises(FlagError, match=r"\.json"):
        connect("flagd:flags.yaml", root=tmp_path, environment="production")
