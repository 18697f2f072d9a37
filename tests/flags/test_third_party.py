"""A flag backend of another package: installed, named in expnb.toml, used like our own."""

import importlib
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import expnb.flags.memory
from expnb.errors import FlagConflictError, FlagError
from expnb.flags.address import connect
from expnb.spec.flag import FlagRef, FlagSpec
from expnb.workspace import open_workspace

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")
UNITS = [f"user-{number}" for number in range(200)]
NAME = "ECHO_TOKEN"  # of a credential
EXAMPLE = Path(expnb.flags.memory.__file__)


def install(folder, package, scheme, value, **modules):
    """What an installer leaves of a package: its modules, and the names that it registers."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[expnb.flag_backends]\n{scheme} = {value}\n")
    for name, text in modules.items():
        (folder / f"{name}.py").write_text(text)


@pytest.fixture
def packages(tmp_path, monkeypatch):
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    yield folder
    for name in [
        name for name, module in sys.modules.items() if str(getattr(module, "__file__", "")).startswith(str(folder))
    ]:
        del sys.modules[name]
    importlib.invalidate_caches()


@pytest.fixture
def acme(packages):
    """The example of docs/backends.md, copied into a package of its own."""
    install(packages, "acme-flags", "acme", "acme_flags:open_address", acme_flags=EXAMPLE.read_text())


def test_a_copy_of_the_example_keeps_the_essentials_of_the_contract(acme, make_plan):
    backend, other = (connect("acme://team", environment="production") for _ in range(2))
    assert type(backend).__module__ == "acme_flags"
    backend.create(FlagSpec(REF, {"a": 50, "b": 50}, "a"), now=NOW)
    stale = make_plan(backend.read(REF), enrolled=25)
    receipt = other.apply(make_plan(other.read(REF), enrolled=50), now=NOW)
    with pytest.raises(FlagConflictError, match="enrolled 50 %"):
        backend.apply(stale, now=NOW)
    served = list(backend.evaluate(REF, UNITS))
    backend.kill(REF, now=NOW)
    assert set(other.evaluate(REF, UNITS)) == {""}
    backend.apply(replace(make_plan(backend.read(REF), "restore"), after=receipt.after.exposure), now=NOW)
    assert list(backend.evaluate(REF, UNITS)) == served


def test_a_workspace_takes_its_flags_from_it(acme, tmp_path):
    (tmp_path / "expnb.toml").write_text('schema = 1\n\n[environments.production]\nflags = "acme://shop"\n')
    flags = open_workspace(tmp_path).flags
    assert type(flags).__module__ == "acme_flags"
    assert flags.create(FlagSpec(REF, {"a": 50, "b": 50}, "a"), now=NOW) == flags.read(REF)


def test_it_stands_among_the_known_addresses_of_an_error(acme):
    with pytest.raises(FlagError, match=r"known are: .*memory://NAME.*acme:….*Did you mean 'acme'"):
        connect("acm://team")


def test_it_is_given_the_folder_the_environment_and_the_token_by_name(packages, tmp_path):
    install(
        packages,
        "echo-flags",
        "echo",
        "echo_flags:open_address",
        echo_flags="def open_address(address):\n    return address\n",
    )
    address = connect("echo://team/x?y=1", root=tmp_path, environment="staging", token=NAME)
    assert (address.scheme, address.place) == ("echo", "team/x?y=1")
    assert (address.root, address.environment, address.token.name) == (tmp_path, "staging", NAME)


def test_no_package_takes_an_address_of_our_own(packages):
    install(
        packages,
        "sly-flags",
        "memory",
        "sly_flags:open_address",
        sly_flags="def open_address(address):\n    return None\n",
    )
    assert connect("memory://sly") is not None


def test_two_packages_with_one_scheme_are_both_named(packages):
    for name in ("one", "two"):
        install(packages, f"{name}-flags", "acme", f"{name}_flags:open_address")
    with pytest.raises(FlagError, match=r"'one-flags', 'two-flags'.*Uninstall one"):
        connect("acme://team")


@pytest.mark.parametrize(("value", "said"), [("gone:open_address", "No module named 'gone'"), ("json:gone", "gone")])
def test_a_package_that_cannot_be_loaded_is_named(packages, value, said):
    install(packages, "broken-flags", "broken", value)
    with pytest.raises(FlagError, match=f"'broken-flags' cannot be loaded.*{said}"):
        connect("broken://team")
