"""A shop whose experiment gets a file of units every day, with a clock that can be moved."""

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import expnb as xb
from expnb.decisions.plan import plan_change
from expnb.workspace import Workspace, open_workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
WORKSPACE = """
schema = 1
[environments.production]
flags = "flagd:flags.flagd.json"
[defaults]
min_cell = 20
"""
EXPERIMENT = """
schema = 1
[experiment]
name = "checkout"
hypothesis = "A shorter checkout sells more."
owner = "shop"
flag = "checkout"
unit = "user"
variant = "arm"
control = "old"
weights = { old = 50, new = 50 }
segments = ["city"]
exposed_at = "seen"
source = "days/*.parquet"

[[metrics]]
name = "bought"
kind = "conversion"
role = "goal"
rope = 0.01

[[metrics]]
name = "spend"
kind = "revenue"
role = "guardrail"
margin = 0.05
cap = 0.95
covariate = "before"

[[metrics]]
name = "median"
kind = "quantile"
column = "spend"
q = 0.5

[policy]
ladder = [1, 5, 25, 50, 100]
min_units = 100
"""


def units(number, n=1000, *, rate=0.3, lift=0.0):
    """The units of one day; `lift` is the relative effect of the treatment on the share that buys."""
    rng = np.random.default_rng(number)
    arm = np.resize(["old", "new"], n)
    bought = rng.random(n) < rate * np.where(arm == "new", 1 + lift, 1)
    return pd.DataFrame(
        {
            "user": [f"marker-{number}-{unit}" for unit in range(n)],
            "arm": arm,
            "bought": bought.astype(int),
            "spend": np.where(bought, rng.lognormal(3, 1, n), 0.0),
            "before": rng.gamma(2.0, 5.0, n),
            "city": np.resize(["Bonn", "Köln", "Ulm"], n),
            "seen": START.replace(tzinfo=None) + timedelta(days=number - 1, hours=12),
        }
    )


@dataclass
class Shop:
    """The workspace, and what happens to it as days go by."""

    root: Path
    now: datetime = START
    actors: dict[str, Workspace] = field(default_factory=dict)

    @property
    def ws(self):
        """The workspace, opened by ana."""
        return self.as_("ana")

    def as_(self, actor):
        """The workspace, opened by somebody."""
        return open_workspace(self.root, actor=actor, clock=lambda: self.now)

    def day(self, number, **data):
        """Another day of data; it is the morning after."""
        (self.root / "days").mkdir(exist_ok=True)
        units(number, **data).to_parquet(self.root / "days" / f"day-{number:02d}.parquet")
        self.now = START + timedelta(days=number, hours=6)

    def edit(self, old, new):
        """Change the file of the experiment."""
        path = self.root / "experiments" / "checkout.toml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    def decide(self, **how):
        """A decision on the data as they are."""
        ws = self.ws
        experiment = ws.experiment("checkout")
        return ws.decide(experiment, xb.fit(experiment, ws.load(experiment), **how))

    def open_to(self, enrolled):
        """The gate as it stands before the first look."""
        ws = self.ws
        experiment = ws.experiment("checkout")
        state = ws.flag(experiment)
        opened = replace(state.exposure, enrolled=enrolled)
        plan = plan_change("ramp_up", experiment, state, opened, reason="It starts here.", now=self.now)
        ws.flags.apply(plan, now=self.now)


@pytest.fixture
def shop(tmp_path):
    """The shop on the day before the first unit: registered, with a flag at 5 %."""
    (tmp_path / "experiments").mkdir()
    (tmp_path / "expnb.toml").write_text(WORKSPACE)
    (tmp_path / "experiments" / "checkout.toml").write_text(EXPERIMENT)
    shop = Shop(tmp_path, now=START - timedelta(hours=1))
    experiment = shop.ws.experiment("checkout")
    shop.ws.register(experiment)
    shop.ws.create_flag(experiment)
    shop.open_to(5)
    return shop


@pytest.fixture
def decided(shop):
    """The shop after three days and a decision."""
    for number in (1, 2, 3):
        shop.day(number)
    return shop, shop.decide(seed=7)
