"""A real flag file behind a wire that fails as wires do."""

from dataclasses import replace

import pytest
from tests.test_workspace import decided, with_roles

from expnb.errors import FlagServerError, PushUncertainError


class Wire:
    """A backend whose answers get lost: the write is done, its answer never arrives."""

    def __init__(self, backend, loses=(), before=()):
        self.backend, self.loses, self.before = backend, set(loses), set(before)

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def _through(self, name, *arguments, **named):
        if name in self.before:
            raise FlagServerError("the flag server", "cannot be reached. Nothing was changed.", "server-down")
        answer = getattr(self.backend, name)(*arguments, **named)
        if name in self.loses:
            raise PushUncertainError("the connection broke after a change was sent; it may be done.")
        return answer

    def read(self, *arguments, **named):
        return self._through("read", *arguments, **named)

    def apply(self, *arguments, **named):
        return self._through("apply", *arguments, **named)

    def evaluate(self, *arguments, **named):
        return self._through("evaluate", *arguments, **named)


def over(ws, wire):
    """The workspace with its flags behind a wire."""
    other = replace(ws)
    object.__setattr__(other, "__dict__", {**other.__dict__, "flags": wire})
    return other


@pytest.fixture
def planned(demo):
    """A plan that treats more units, from a recorded decision."""
    return demo.plan(decided(demo, "email_campaign")[1])


@pytest.fixture
def ana(demo):
    return with_roles(demo, "ana", need=1)


@pytest.fixture
def ben(demo, ana):
    return with_roles(demo, "ben", need=1)
