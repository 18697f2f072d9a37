"""A shop on a flag file, and one on a real Unleash behind a proxy that can break the wire."""

from uuid import uuid4

import pytest
from tests.faults.shop import FOUR_EYES, make_shop
from tests.flags.fault_proxy import FaultProxy

TOKEN = "UNLEASH_ANA"  # noqa: S105 - the name of a token


@pytest.fixture
def shop(tmp_path):
    """The shop at 5 %, on a flag file."""
    return make_shop(tmp_path / "shop").ramped(rungs=2)


@pytest.fixture
def proxy(unleash, monkeypatch):
    """The way to Unleash, which breaks when it is told to."""
    monkeypatch.setenv(TOKEN, unleash.person("ana"))
    with FaultProxy(unleash.url) as proxy:
        yield proxy


@pytest.fixture
def unleash_shop(proxy, tmp_path):
    """The shop at 5 %, on a real Unleash."""
    address = f"unleash+{proxy.url}/default"
    more = f'token = "{TOKEN}"\n{FOUR_EYES}'
    return make_shop(tmp_path / "shop", flags=address, flag=f"button-{uuid4().hex[:8]}", more=more).ramped(rungs=2)
