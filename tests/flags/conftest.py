"""A flag file with one flag, and plans for it."""

import json
import os
import shutil
import tempfile
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from expnb.decisions.plan import RampPlan
from expnb.flags.flagd import FlagdFile
from expnb.spec.flag import FlagRef, FlagSpec

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")


def _plan(state, verb="ramp_up", **changes):
    times = {"created_at": NOW, "expires_at": NOW + timedelta(hours=1)}
    hashes = {"policy_hash": "p" * 64, "evidence_hash": "e" * 64}
    after = replace(state.exposure, **changes)
    return RampPlan(
        verb, "gate_position", state.ref, state.version, state.exposure, after, "Guardrails met.", **hashes, **times
    )


class Ramp:
    """A backend with one flag, driven in one line per step."""

    now, ref = NOW, REF

    def __init__(self, path):
        self.path = path
        self.backend = FlagdFile(path, "production")
        self.backend.create(FlagSpec(REF, {"gate_30": 50, "gate_40": 50}, "gate_30"), now=NOW)

    def plan(self, verb="ramp_up", **changes):
        return _plan(self.backend.read(REF), verb, **changes)

    def push(self, verb="ramp_up", **changes):
        return self.backend.apply(self.plan(verb, **changes), now=NOW)

    def kill(self):
        return self.backend.kill(REF, now=NOW)

    def read(self):
        return self.backend.read(REF)

    @property
    def document(self):
        return json.loads(self.path.read_text())

    @property
    def flag(self):
        return self.document["flags"][REF.flag]

    def edit(self, change):
        """Change the flag by hand, as an editor would."""
        document = self.document
        change(document["flags"][REF.flag])
        self.path.write_text(json.dumps(document))


@pytest.fixture
def ramp(tmp_path):
    return Ramp(tmp_path / "flags.flagd.json")


@contextmanager
def _nobody():
    """Act as a user without rights: root passes every permission bit."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def as_nobody():
    return _nobody


@pytest.fixture
def open_folder():
    """A folder that others may enter; pytest's own are closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="expnb-test-"))
    folder.chmod(0o755)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


@pytest.fixture
def make_ramp():
    return Ramp


@pytest.fixture
def make_plan():
    return _plan
