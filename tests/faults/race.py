"""Many writers on one flag: all push on the same version at the same moment, each as a process of its own.

``python -m tests.faults.race ROOT ENVIRONMENT FLAG WRITERS ROUNDS`` runs alone and forks.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

from tests.faults.crash import kept, roll_back_plan
from tests.faults.shop import LATER, NOW, Shop, receipts

from expnb.errors import ExpnbError


@dataclass(frozen=True)
class Round:
    """What became of one race.

    Parameters
    ----------
    winners : int
        Writers that hold a receipt.
    told : dict of str to int
        Errors of expnb that the others got.
    untold : list of str
        What is no error of expnb.
    wrong : list of str
        Promises that did not hold afterwards.
    """

    winners: int
    told: dict[str, int]
    untold: list[str]
    wrong: list[str]


def raced(shop: Shop, *, writers: int, rounds: int) -> list[Round]:
    """Races on a shop whose gate is open, in a process without threads."""
    command = [sys.executable, "-m", "tests.faults.race", str(shop.root), shop.environment, shop.flag]
    done = subprocess.run(
        [*command, str(writers), str(rounds)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [Round(**json.loads(line)) for line in done.stdout.splitlines()]


def main(root: str, environment: str, flag: str, writers: str, rounds: str) -> None:
    """One line per round."""
    shop = Shop(Path(root), environment, flag)
    for number in range(int(rounds)):
        now = NOW + number * 4 * (LATER - NOW)
        print(json.dumps(asdict(_round(shop, int(writers), now))), flush=True)  # noqa: T201 - a program that prints


def _round(shop: Shop, writers: int, now) -> Round:
    plans = list(_plans(shop, writers, now))
    ready, go = os.pipe(), os.pipe()
    heard, say = os.pipe()
    pids = []
    for plan in plans:
        pid = os.fork()
        if not pid:
            os.close(go[1])
            os._exit(_push(shop, plan, ready[1], go[0], say))
        pids.append(pid)
    os.close(say)
    for _ in plans:
        os.read(ready[0], 1)
    os.close(go[1])  # all at once
    with os.fdopen(heard) as pipe:
        answers = [json.loads(line) for line in pipe]
    for pid in pids:
        os.waitpid(pid, 0)
    for pipe_end in (*ready, go[0]):
        os.close(pipe_end)
    return _judged(shop, answers, writers, now)


def _plans(shop: Shop, writers: int, now) -> Iterator[object]:
    """A plan of each writer, all on the version of now: close the gate, or bring back what was closed."""
    for number in range(writers):
        # Nobody plans in the same microsecond, so no two plans are the same.
        ws = shop.opened(f"writer-{number}", now + timedelta(milliseconds=number))
        if ws.flags.read(shop.ref).exposure.treated:
            yield roll_back_plan(ws, f"Writer {number} saw harm.")
        else:
            closed = next(one for one in reversed(receipts(ws, shop)) if one.verb == "roll_back")
            yield ws.plan_restore(closed)


def _push(shop: Shop, plan, ready: int, go: int, say: int) -> int:
    actor = plan.reason.split(" saw")[0].lower().replace(" ", "-")
    ws = shop.opened(actor, plan.created_at)
    ws.flags.read(shop.ref)
    os.write(ready, b".")
    os.read(go, 1)
    time.sleep(random.random() * 0.02)  # noqa: S311 - nothing secret
    try:
        receipt = ws.apply(plan)
        answer = {"won": plan.id, "version": receipt.after.version}
    except ExpnbError as error:
        answer = {"told": type(error).__name__}
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is counted
        answer = {"untold": repr(error)[:500]}
    os.write(say, (json.dumps(answer) + "\n").encode())
    return 0


def _judged(shop: Shop, answers: list[dict[str, str]], writers: int, now) -> Round:
    won = [one["won"] for one in answers if "won" in one]
    names = [one["told"] for one in answers if "told" in one]
    ws = shop.opened("carl", now + (LATER - NOW) * 2)
    ws.settle()
    wrong = list(kept(ws, shop))
    if len(won) == 1 and ws.flags.read(shop.ref).plan_id != won[0]:
        wrong.append("the flag is not at the value of the winner")
    if len(answers) != writers:
        wrong.append(f"{writers - len(answers)} writers said nothing")
    untold = [one["untold"] for one in answers if "untold" in one]
    return Round(len(won), {name: names.count(name) for name in sorted(set(names))}, untold, wrong)


if __name__ == "__main__":
    main(*sys.argv[1:])
