"""A shop with one experiment whose every rung has data that allow the next one: what is pushed, killed, raced and broken here."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path

import pandas as pd

import expnb as xb
from expnb.decisions.decision import Decision
from expnb.decisions.plan import RampPlan
from expnb.flags.base import Receipt
from expnb.ledger.recorded import recorded
from expnb.posterior.posterior import Posterior
from expnb.spec.flag import FlagRef
from expnb.workspace import Workspace

# Far ahead, because a real server dates its events by its own clock, and none of them may be younger than now.
NOW = datetime(2099, 3, 10, 12, tzinfo=UTC)
LATER = NOW + timedelta(minutes=2)  # a push that began at NOW is not on its way any more
NAME = FLAG = "button"
LADDER = (1.0, 5.0, 25.0, 50.0, 100.0)
APPROVED_ABOVE = 1  # percent treated
WORKSPACE = """
schema = 1
[environments.{environment}]
flags = "{flags}"
{more}
"""
EXPERIMENT = """
schema = 1
[experiment]
name = "button"
hypothesis = "A green button sells more."
owner = "shop"
flag = "button"
unit = "user"
variant = "arm"
control = "grey"
weights = { grey = 50, green = 50 }
exposed_at = "ts"
source = "cohort.parquet"
[[metrics]]
name = "bought"
kind = "conversion"
role = "goal"
rope = 0.005
[[metrics]]
name = "crashed"
kind = "conversion"
role = "guardrail"
direction = "decrease"
margin = 0.2
[policy]
ladder = [1, 5, 25, 50, 100]
rung_days = 0
min_days = 1
verdict_days = 1
holdback = 5
"""
FOUR_EYES = f"approvals = [{{ above_treated = {APPROVED_ABOVE}, need = 1 }}]"


@dataclass(frozen=True)
class Shop:
    """The workspace of the shop, as it is opened by somebody at some time."""

    root: Path
    environment: str = "production"
    flag: str = FLAG

    def opened(self, actor: str = "ana", now: datetime = NOW) -> Workspace:
        """A workspace that remembers nothing of other openings."""
        return xb.open_workspace(self.root, environment=self.environment, actor=actor, clock=lambda: now)

    @property
    def ref(self) -> FlagRef:
        """The experiment's flag."""
        return FlagRef(self.flag, self.environment)

    @property
    def flag_file(self) -> Path:
        """The flagd file, where the flags are in one."""
        return self.root / "flags.flagd.json"

    @property
    def ledger_file(self) -> Path:
        """The ledger."""
        return self.root / ".expnb" / "ledger.sqlite"

    def copied(self, root: Path) -> Shop:
        """The same shop somewhere else, to the last bit."""
        shutil.copytree(self.root, root)
        return replace(self, root=root)

    def decided(self, actor: str = "ana", now: datetime = NOW) -> Decision:
        """A decision on data that no decision was taken on yet."""
        ws = self.opened(actor, now)
        looks = len(ws.ledger.entries(kind="look"))
        return ws.decide(ws.experiment(NAME), posterior(looks + 1))

    def stepped(self, now: datetime = NOW) -> RampPlan:
        """The next step up, decided and approved where that is needed."""
        ws = self.opened(now=now)
        plan = ws.plan(self.decided(now=now))
        if ws.approvals_needed(plan):
            ws.request(plan)
            self.opened("ben", now).approve(plan)
        return plan

    def ramped(self, *, rungs: int, now: datetime = NOW) -> Shop:
        """The shop some rungs further up, pushed as people push."""
        for _ in range(rungs):
            ws = self.opened(now=now)
            exposure = ws.flags.read(self.ref).exposure
            ws.apply(self.stepped(now) if exposure.enrolled else ws.start(ws.experiment(NAME)))
        return self


def receipts(ws: Workspace, shop: Shop) -> list[Receipt]:
    """Receipts of the shop's flag as the ledger has them, in the order of the flag's versions."""
    entries = [one for one in ws.ledger.entries(flag=shop.flag) if one.body.get("receipt")]
    own = [recorded(Receipt, one.body["receipt"]) for one in entries if one.body["environment"] == shop.environment]
    return sorted(own, key=lambda one: int(one.after.version.partition("-")[0]))


def make_shop(
    root: Path,
    *,
    flags: str = "flagd:flags.flagd.json",
    environment: str = "production",
    flag: str = FLAG,
    more: str = FOUR_EYES,
) -> Shop:
    """The shop on the day before its start: registered a week before the data, with a flag at 0 %."""
    (root / "experiments").mkdir(parents=True)
    (root / "expnb.toml").write_text(WORKSPACE.format(flags=flags, environment=environment, more=more))
    (root / "experiments" / f"{NAME}.toml").write_text(EXPERIMENT.replace('flag = "button"', f'flag = "{flag}"'))
    shop = Shop(root, environment, flag)
    ws = shop.opened(now=NOW - timedelta(days=9))
    ws.register(ws.experiment(NAME))
    ws.create_flag(ws.experiment(NAME))
    return shop


@cache
def posterior(number: int) -> Posterior:
    """What is known after `number` batches of units, each of 3,000 per arm: the green button sells a fifth more."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{NAME}.toml")
        path.write_text(EXPERIMENT)
        experiment = xb.read_experiment(path)
    return xb.fit(experiment, xb.load_cohort(experiment, units(number)))


def units(batches: int, *, lift: float = 0.2) -> pd.DataFrame:
    """Units of the days before `NOW`."""
    rows = 3000 * batches
    frames = [
        pd.DataFrame(
            {
                "user": [f"{arm}-{number}" for number in range(rows)],
                "arm": arm,
                "ts": [
                    pd.Timestamp(date(2099, 3, 6)) + pd.Timedelta(days=number % 4, hours=3) for number in range(rows)
                ],
                "bought": [number % 100 < round(20 * (1 + effect)) for number in range(rows)],
                "crashed": [number % 50 == 0 for number in range(rows)],
            }
        )
        for arm, effect in (("grey", 0.0), ("green", lift))
    ]
    return pd.concat(frames, ignore_index=True)
