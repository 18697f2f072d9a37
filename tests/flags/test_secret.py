"""Credentials: by name only, and shown by nothing."""

import pickle

import keyring
import pytest
from keyring.backend import KeyringBackend
from keyring.errors import KeyringLocked

from expnb.errors import CredentialError, FlagError
from expnb.flags.secret import Secret

VALUE = "user:6d0f-very-secret"


class Ring(KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self, entries=(), *, locked=False):
        super().__init__()
        self.entries, self.locked = dict(entries), locked

    def get_password(self, service, username):
        if self.locked:
            raise KeyringLocked
        return self.entries.get((service, username))

    def set_password(self, service, username, password):
        self.entries[service, username] = password

    def delete_password(self, service, username):
        del self.entries[service, username]


@pytest.fixture
def use_keyring():
    old = keyring.get_keyring()
    yield keyring.set_keyring
    keyring.set_keyring(old)


@pytest.fixture(autouse=True)
def no_variable(monkeypatch, use_keyring):
    monkeypatch.delenv("UNLEASH_TOKEN", raising=False)
    use_keyring(Ring())


def test_the_environment_is_asked_first_and_the_keyring_next(monkeypatch, use_keyring):
    use_keyring(Ring({("expnb", "UNLEASH_TOKEN"): "from the ring"}))
    assert Secret("UNLEASH_TOKEN").reveal() == "from the ring"
    monkeypatch.setenv("UNLEASH_TOKEN", f" {VALUE}\n")
    assert Secret("UNLEASH_TOKEN").reveal() == VALUE


def test_a_renewed_credential_holds_at_once(monkeypatch):
    secret = Secret("UNLEASH_TOKEN")
    for value in ("old", "new"):
        monkeypatch.setenv("UNLEASH_TOKEN", value)
        assert secret.reveal() == value


def test_a_repr_and_a_pickle_carry_the_name_and_never_the_value(monkeypatch):
    monkeypatch.setenv("UNLEASH_TOKEN", VALUE)
    secret = Secret("UNLEASH_TOKEN")
    secret.reveal()
    assert VALUE not in repr(secret)
    assert VALUE.encode() not in pickle.dumps(secret)


@pytest.mark.parametrize("locked", [False, True], ids=["empty", "locked"])
def test_a_missing_credential_is_named_with_how_to_set_it(use_keyring, locked):
    use_keyring(Ring(locked=locked))
    with pytest.raises(CredentialError, match="export UNLEASH_TOKEN") as caught:
        Secret("UNLEASH_TOKEN").reveal()
    assert caught.value.runbook == "token-refused"


@pytest.mark.parametrize(
    "credential",
    [
        "*:*.964a287e1b728cb5f4f3e0120df92cb5",
        "user:bb0a3d02cd0b2d1bd8c4",
        "default:production.a1b2c3",
        "api-0a1b2c3d-0000-4000-8000-000000000000",
        "f964a287e1b728cb5f4f3e0120df92cb5",
        "TOKEN_964a287e1b728cb5f4f3",
        "Bearer abc",
        "sk_live_51HxAbCdEfGhIjKl",
        "Xk2mQpLr7TzVwYbNcDfG",
        "",
    ],
)
def test_a_credential_in_place_of_its_name_is_refused_and_not_shown(credential):
    with pytest.raises(FlagError, match="no name of an environment variable") as caught:
        Secret(credential)
    assert not credential or credential not in str(caught.value)
    assert credential not in caught.value.args or not credential


@pytest.mark.parametrize(
    "name",
    ["UNLEASH_TOKEN_PRODUCTION_EU_WEST_1", "unleash_token_of_production_2", "LaunchDarklyTokenOfTheShop", "LdToken2"],
)
def test_a_name_that_people_give_is_taken(monkeypatch, name):
    monkeypatch.setenv(name, VALUE)
    assert Secret(name).reveal() == VALUE
