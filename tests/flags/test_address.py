"""Backends by address."""

import logging
import pickle
from datetime import UTC, datetime

import pytest

import expnb as xb
from expnb.errors import ExpnbError, FlagError
from expnb.flags.address import connect
from expnb.flags.fake_launchdarkly import FakeLaunchDarkly, Member
from expnb.flags.flagd import FlagdFile
from expnb.spec.flag import FlagRef, FlagSpec

NAME = "FLAGS_CREDENTIAL"
VALUE = "distinctive-7f3a-value"
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")


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


@pytest.mark.parametrize(
    "url",
    [
        "vendor://user:hunter2@host",
        "unleash+https://hunter2@host/default",
        "launchdarkly://user:hun/hunter2@host/shop",
        "launchdarkly://shop?token=hunter2",
        "unleash+https://host/default?environment=x&API_KEY=hunter2",
        "memory://store?client_secret=hunter2",
        "unleash+https://host/default#hunter2",
        "launchdarkly://shop?environment=x#hunter2",
        "flagd:flags.json#hunter2",
        "vendor#hunter2://host",
        "#hunter2",
    ],
)
def test_an_address_with_a_credential_is_refused_and_not_shown(tmp_path, url):
    with pytest.raises(FlagError, match="carries a credential.*revoke it") as caught:
        connect(url, root=tmp_path, environment="production")
    assert "hunter2" not in str(caught.value)


def test_an_error_shows_no_credential_that_only_looks_like_a_place(tmp_path):
    for url in ("hunter2", "vendor:hunter2", "hunter2:"):
        with pytest.raises(FlagError) as caught:
            connect(url, root=tmp_path, environment="production")
        assert "hunter2" not in str(caught.value).replace("'hunter2:'", "")


def test_a_path_may_hold_what_would_be_a_credential_in_a_url(tmp_path):
    backend = connect("flagd:team@home/flags.json", root=tmp_path)
    assert backend.path == tmp_path / "team@home" / "flags.json"


def test_the_face_connects_with_an_address_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    backend = xb.flags.connect("flagd:flags.json")
    assert backend.create(FlagSpec(REF, {"a": 1, "b": 1}, "a")).exposure.enrolled == 0
    assert (tmp_path / "flags.json").is_file()


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("launchdarkly://", "names no place"),
        ("launchdarkly+http://127.0.0.1:8030", "names no project"),
        ("launchdarkly://app.launchdarkly.com/a/b", "names no project"),
        ("launchdarkly+http://flags.example.com/shop", "in clear"),
        ("launchdarkly+http://10.0.0.1:8030/shop", "in clear"),
        ("launchdarkly://shop", "asks for a token"),
    ],
)
def test_a_launchdarkly_address_that_cannot_work_is_refused_before_anything_is_sent(url, found):
    with pytest.raises(FlagError, match=found):
        connect(url)


@pytest.mark.parametrize(
    ("url", "base", "project", "key"),
    [
        ("launchdarkly://shop", "https://app.launchdarkly.com", "shop", "production"),
        ("launchdarkly://shop?environment=prod", "https://app.launchdarkly.com", "shop", "prod"),
        ("launchdarkly://app.eu.launchdarkly.com/shop", "https://app.eu.launchdarkly.com", "shop", "production"),
        ("launchdarkly+http://127.0.0.1:8030/shop", "http://127.0.0.1:8030", "shop", "production"),
    ],
)
def test_a_launchdarkly_address_names_project_and_maybe_host_and_environment(url, base, project, key):
    backend = connect(url, token=NAME)
    assert (backend.server.base, backend.api.project, backend.api.environment) == (base, project, key)
    assert backend.name == url


def test_only_json_files_are_written(tmp_path):
    with pytest.raises(FlagError, match=r"\.json"):
        connect("flagd:flags.yaml", root=tmp_path, environment="production")


def shown_by(backend, make_plan):
    """Everything that a person gets to see of a ramp, and of all that can go wrong on the way."""
    yield repr(backend)
    yield from (repr(value) for value in vars(backend).values())

    def ramp(**changes):
        receipt = backend.apply(make_plan(backend.read(REF), **changes), now=NOW)
        return f"{receipt!r} {receipt._repr_html_()} {pickle.dumps(receipt)}"

    calls = [
        lambda: backend.create(FlagSpec(REF, {"a": 1, "b": 1}, "a"), now=NOW),
        lambda: ramp(enrolled=50),
        lambda: backend.preview(make_plan(backend.read(REF), enrolled=100), now=NOW),
        lambda: ramp(enrolled=50.003),
        lambda: backend.request(make_plan(backend.read(REF), enrolled=100)),
        lambda: backend.kill(REF, now=NOW),
        lambda: backend.read(FlagRef("unknown", "production")),
        lambda: backend.read(FlagRef(REF.flag, "staging")),
    ]
    for call in calls:
        try:
            yield repr(call())
        except ExpnbError as error:
            yield f"{error} {error!r} {error.args} {pickle.dumps(error)} {error.__cause__!r} {error.__context__!r}"


FAULTS = {
    "works": [],
    "conflicts": [None, None, "conflict"],
    "breaks": [None, None, "drop_after"],
    "refuses": ["rate_limit"] * 2,
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize(
    "member", [Member("ana"), Member("eve", reads_only=True), None], ids=["writes", "reads", "unknown"]
)
def test_a_token_is_never_shown_by_launchdarkly(make_plan, monkeypatch, caplog, member, faults):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(NAME, VALUE)
    with FakeLaunchDarkly(tokens={VALUE: member} if member else {}, faults=list(faults), retry_after="0") as fake:
        texts = list(shown_by(connect(fake.address, token=NAME), make_plan))
        assert fake.headers[0]["Authorization"] == VALUE  # it was used
        assert VALUE not in repr((fake.flags, fake.audit, fake.approvals))
    assert VALUE not in "".join(texts) + caplog.text


@pytest.mark.parametrize(
    "value", [VALUE, f"{VALUE}\nsecond line", f"{VALUE}-ü"], ids=["plain", "two lines", "not ASCII"]
)
@pytest.mark.parametrize(
    "url",
    [
        "flagd:flags.json",
        "memory://secrets",
        "unleash+http://127.0.0.1:9/default",
        "unleash+https://127.0.0.1:9/default",
        "launchdarkly+http://127.0.0.1:9/shop",
        "launchdarkly://127.0.0.1:9/shop",
    ],
)
def test_a_token_is_never_shown_by_any_backend(make_plan, monkeypatch, caplog, tmp_path, url, value):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(NAME, value)
    texts = list(shown_by(connect(url, root=tmp_path, token=NAME), make_plan))
    assert VALUE not in "".join(texts) + caplog.text
