"""docs/backends.md says what the backends do."""

import inspect
import re
from pathlib import Path

import pytest

from expnb.flags.address import _OWN, connect
from expnb.flags.base import FlagBackend
from expnb.flags.fake_launchdarkly import FakeLaunchDarkly

TEXT = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
URLS = {"flagd": "flagd:flags.json", "memory": "memory://doc", "unleash": "unleash+http://127.0.0.1:9/default"}
NAME = "DOC_TOKEN"  # of a credential


def row(start):
    (line,) = [line for line in TEXT.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.fixture
def backends(tmp_path, monkeypatch):
    monkeypatch.setenv(NAME, "fake-ana")
    with FakeLaunchDarkly() as fake:
        urls = URLS | {"launchdarkly": fake.address}
        yield {name: connect(url, root=tmp_path, token=NAME) for name, url in urls.items()}


def test_the_table_of_capabilities_is_what_the_backends_say(backends):
    for name, backend in backends.items():
        found = backend.capabilities
        steps, concurrency, approvals, history, eligibility = row(name)
        assert (float(steps), concurrency) == (found.granularity, found.concurrency), name
        assert (approvals, history) == (
            "where required" if name == "launchdarkly" else "no",
            "yes" if found.audit else "no",
        ), name
        assert not found.approvals, name  # the fake's production requires none as it starts
        assert tuple(eligibility.split(", ")) == found.eligibility, name


def test_the_first_table_has_every_form_of_address():
    table = TEXT[: TEXT.index("## Addresses")]
    assert {form for _, form in _OWN.values() if not form.partition(":")[0].endswith("+http")} == set(
        re.findall(r"^\| [^|]+ \| `([^`]+)` \|", table, re.MULTILINE)
    )


def test_every_method_of_the_protocol_is_explained_and_no_other():
    methods = {name for name, _ in inspect.getmembers(FlagBackend) if not name.startswith("_")}
    table = TEXT[TEXT.index("## Writing your own") :]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == methods


def test_what_is_said_of_memory_stands_in_its_file():
    source = (Path(inspect.getfile(connect)).parent / "memory.py").read_text()
    for name in (
        "_checked",
        "check_granularity",
        "check_push",
        "check_fixed",
        "assign_all",
        "open_address",
        'concurrency="native"',
    ):
        assert name in TEXT
        assert name in source
