"""Pushes that are killed with SIGKILL at a chosen step, and what has to be true afterwards.

``python -m tests.faults.crash`` runs alone and forks: each push is a process of its own, which opens the workspace anew and has no threads.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import Any

from tests.faults.shop import LADDER, LATER, NAME, NOW, Shop, make_shop, receipts

import expnb
from expnb.errors import OpenIntentError, PushUncertainError
from expnb.pushing.kill import break_glass
from expnb.workspace import Workspace

HOME = str(Path(expnb.__file__).parent)
# Lines of these files are the steps of a push; what only computes a number or a text is none.
STEPS = tuple(f"{HOME}/{folder}/" for folder in ("pushing", "ledger", "flags"))
PURE = ("bucketing.py", "murmur.py", "split.py", "generations.py", "vectorised.py", "canaries.py")
SECOND = timedelta(seconds=1)
AFTERWARDS = ("settled later", "pushed at once")  # how people go on after a crash


@dataclass(frozen=True)
class Act:
    """Something that changes a flag: a shop in which it is about to be done, and what does it."""

    name: str
    shop: Shop
    plan: Any = None  # RampPlan, where the act is a push
    now: datetime = NOW

    def do(self, shop: Shop) -> None:
        """The act, in a workspace that was opened for it alone."""
        if self.name == "break glass":
            break_glass(shop.root, NAME, environment=shop.environment, actor="ana", now=self.now)
            return
        ws = shop.opened(now=self.now)
        if self.name == "kill":
            ws.kill(NAME)
        elif self.name == "settle":
            ws.settle()
        else:
            ws.apply(self.plan)


@dataclass
class Run:
    """One act that was killed, and what was wrong afterwards: nothing, if all is well."""

    act: str
    step: str
    killed: bool
    wrong: list[str] = field(default_factory=list)


def acts(folder: Path, shop: Shop) -> list[Act]:
    """Every way to change a flag, each in a shop of its own that is just about to do it."""
    start = shop.copied(folder / "start")
    ws = start.opened()
    found = [Act("start", start, ws.start(ws.experiment(NAME)))]
    up = shop.copied(folder / "ramp_up").ramped(rungs=2)
    closing = up.copied(folder / "roll_back")
    killing, glass = up.copied(folder / "kill"), up.copied(folder / "break_glass")
    found.append(Act("ramp_up", up, up.stepped()))
    found.append(Act("roll_back", closing, roll_back_plan(closing.opened())))
    closed = closing.copied(folder / "restore")
    receipt = closed.opened().roll_back(closed.opened().experiment(NAME), reason="A mistake.")
    found.append(Act("restore", closed, approved(closed, closed.opened().plan_restore(receipt))))
    top = up.copied(folder / "ship").ramped(rungs=3)
    found.append(Act("ship", top, top.stepped()))
    found += [Act("kill", killing), Act("break glass", glass)]
    return found


def lost(folder: Path, act: Act) -> Act:
    """The settling of an act whose process was killed after the flag was written and before its outcome."""
    shop = act.shop.copied(folder / "settle")
    status = forked(lambda: stopped_when(lambda frame: frame.f_code.co_name == "serve_sample", lambda: act.do(shop)))
    assert os.WIFSIGNALED(status)
    return Act("settle", shop, act.plan, LATER)


def approved(shop: Shop, plan: Any) -> Any:
    """The plan, requested by ana and approved by ben where that is needed."""
    ws = shop.opened()
    if ws.approvals_needed(plan):
        ws.request(plan)
        shop.opened("ben").approve(plan)
    return plan


def roll_back_plan(ws: Workspace, reason: str = "It hurts.") -> Any:
    """What `roll_back` pushes."""
    from expnb.decisions.plan import plan_change

    state, experiment = ws.flags.read(ws.ref(ws.experiment(NAME))), ws.experiment(NAME)
    shut = replace(state.exposure, enrolled=0.0, serve="", holdback=0.0)
    return plan_change("roll_back", experiment, state, shut, reason=reason, now=ws.clock())


# --- to die at a step -------------------------------------------------------------------------------


def is_step(frame: FrameType) -> bool:
    """Whether a line of this frame belongs to what a push does."""
    file = frame.f_code.co_filename
    return file.startswith(STEPS) and not file.endswith(PURE)


def traced(act: Callable[[], None], at_line: Callable[[FrameType], None]) -> None:
    """An act during which `at_line` hears of every step."""

    def local(frame: FrameType, event: str, _argument: object) -> Any:
        if event == "line":
            at_line(frame)
        return local

    def entered(frame: FrameType, _event: str, _argument: object) -> Any:
        return local if is_step(frame) else None

    sys.settrace(entered)
    try:
        act()
    finally:
        sys.settrace(None)


def steps_of(act: Act, shop: Shop) -> list[str]:
    """Every step of an act in the order in which it is taken, by file, function and line."""
    steps: list[str] = []

    def note(frame: FrameType) -> None:
        file = Path(frame.f_code.co_filename).relative_to(HOME)
        steps.append(f"{file}:{frame.f_lineno} {frame.f_code.co_name}")

    traced(lambda: act.do(shop), note)
    return steps


def stopped_at(number: int, act: Callable[[], None]) -> None:
    """An act whose process is killed before it takes the step of this number."""
    left = number

    def count(_frame: FrameType) -> None:
        nonlocal left
        if left == 0:
            die()
        left -= 1

    traced(act, count)


def stopped_when(here: Callable[[FrameType], bool], act: Callable[[], None]) -> None:
    """An act whose process is killed at the first step for which `here` holds."""

    def entered(frame: FrameType, _event: str, _argument: object) -> None:
        if here(frame):
            die()

    sys.settrace(entered)
    act()


def die() -> None:
    """The end, without a chance to tidy up."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # never over: the signal comes first


def forked(act: Callable[[], None], after: Callable[[int], None] = lambda _pid: None) -> int:
    """Exit status of a process that did the act; `after` hears of its pid while it runs."""
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # of Python 3.12, where the parent has threads: the child needs none of them
        pid = os.fork()
    if not pid:
        try:
            act()
        except BaseException:  # noqa: BLE001 - told, and the process is over
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    after(pid)
    return os.waitpid(pid, 0)[1]


# --- what has to be true afterwards -----------------------------------------------------------------


def recovered(act: Act, shop: Shop, afterwards: str) -> list[str]:
    """What is wrong after a crash, once somebody else went on; asked in a process of its own."""
    hear, say = os.pipe()

    def look() -> None:
        os.write(say, json.dumps(list(wrongs(act, shop, afterwards))).encode())

    status = forked(look)
    os.close(say)
    with os.fdopen(hear, "rb") as pipe:
        told = pipe.read()
    return json.loads(told) if told and status == 0 else [f"nobody could go on: exit status {status}"]


def wrongs(act: Act, shop: Shop, afterwards: str) -> Iterator[str]:
    """The promises that do not hold after a crash and the recovery from it."""
    if afterwards == "pushed at once":  # the next one does not wait until the lost push counts as lost
        with suppress(OpenIntentError):  # told to wait: what is to be undone is not known yet
            yield from goes_on(shop.opened("carl", act.now + SECOND), shop)
    ws = shop.opened("carl", LATER if act.now == NOW else act.now + (LATER - NOW))
    ws.settle()
    ws.open_matters()
    yield from kept(ws, shop)
    if act.plan is not None and afterwards != "pushed at once":
        yield from told_truly(ws, shop, act)
    yield from goes_on(ws, shop)
    yield from kept(ws, shop)
    left = [path.name for path in shop.root.iterdir() if path.suffix == ".tmp"]
    if left:
        yield f"left behind: {left}"


def kept(ws: Workspace, shop: Shop) -> Iterator[str]:
    """The chain holds, nothing is open, the flag is what the ledger says, and stands on the ladder."""
    ws.ledger.verify()
    state = ws.flags.read(shop.ref)
    if ws.control.unsettled():
        yield "an intent has no outcome"
    known = receipts(ws, shop)
    said = known[-1].after if known else None
    shown = (said.exposure, said.enabled, said.version) if said else None
    if said is None and (state.exposure.treated or not state.enabled):
        yield f"the flag is {state.exposure}, the ledger knows of no change"
    if shown and shown != (state.exposure, state.enabled, state.version):
        yield f"the flag is {state.exposure} (version {state.version}, enabled {state.enabled}), the ledger says {shown}"
    if state.exposure.enrolled not in (0, *LADDER) or (state.exposure.serve not in ("", "green")):
        yield f"off the ladder: {state.exposure}"
    plans = [entry.body["plan_id"] for entry in ws.ledger.entries(kind="outcome") if entry.body["applied"]]
    if len(plans) != len(set(plans)):
        yield "one plan was applied twice"


def told_truly(ws: Workspace, shop: Shop, act: Act) -> Iterator[str]:
    """The outcome in the ledger is what happened to the flag."""
    outcomes = [one for one in ws.ledger.entries(kind="outcome") if one.body["plan_id"] == act.plan.id]
    said = [bool(one.body["applied"]) for one in outcomes]
    happened = ws.flags.read(shop.ref).exposure == act.plan.after
    if any(said) != happened:
        yield f"the ledger says applied = {said}, the flag says {happened}"


def goes_on(ws: Workspace, shop: Shop) -> Iterator[str]:
    """The next people can push as ever: close what is open, bring back what was closed."""
    experiment = ws.experiment(NAME)
    state = ws.flags.read(shop.ref)
    if not state.enabled:
        if not receipts(ws, shop):
            yield "killed, and no receipt leads back"
            return
        if state.exposure.treated:  # the kill died half way; as its error says, it is done again
            for _ in range(3):  # a kill whose answer is lost may be done again
                with suppress(PushUncertainError):
                    ws.kill(NAME, reason="The first one died half way.")
                    break
        plan = ws.plan_restore(ws.last_receipt(experiment))
    elif state.exposure.treated:
        plan = roll_back_plan(ws, f"After the crash, at {ws.clock()}.")
    elif receipts(ws, shop):
        plan = ws.plan_restore(ws.last_receipt(experiment))
    else:
        plan = ws.start(experiment)
    if not plan.changes and state.enabled:
        return
    if ws.approvals_needed(plan):
        ws.request(plan)
        replace(ws, actor="dora").approve(plan)
    ws.apply(plan)
    now = ws.flags.read(shop.ref)
    if now.exposure != plan.after or not now.enabled:
        yield f"after {plan} the flag is {now.exposure}"


# --- many runs ----------------------------------------------------------------------------------------


def crash(act: Act, number: int, step: str, afterwards: str, folder: Path) -> Run:
    """One act killed at a step, and the recovery from it."""
    shop = act.shop.copied(folder / "run")
    try:
        status = forked(lambda: stopped_at(number, lambda: act.do(shop)))
        killed = os.WIFSIGNALED(status)
        return Run(act.name, step, killed, recovered(act, shop, afterwards))
    finally:
        shutil.rmtree(shop.root)


def chosen(steps: list[str], *, each: int) -> list[int]:
    """Numbers of the steps to stop at: the first `each` times that a line is reached, and the last."""
    times: dict[str, list[int]] = {}
    for number, step in enumerate(steps):
        times.setdefault(step, []).append(number)
    return sorted({number for seen in times.values() for number in (*seen[:each], seen[-1])})


def functions(steps: list[str]) -> list[int]:
    """Numbers of the steps at which a function is entered for the first time."""
    first: dict[str, int] = {}
    for number, step in enumerate(steps):
        file, _, rest = step.partition(":")
        first.setdefault(f"{file} {rest.partition(' ')[2]}", number)
    return sorted(first.values())


def matrix(folder: Path, *, runs: int, seed: int) -> Iterator[Run]:
    """All acts on a flag file, each killed at steps that are spread evenly over all of its lines."""
    moments, shop = random.Random(seed), make_shop(folder / "shop")  # noqa: S311 - nothing secret
    found = acts(folder / "acts", shop)
    found.append(lost(folder / "acts", next(act for act in found if act.name == "ramp_up")))
    for act in found:
        steps = steps_of(act, act.shop.copied(folder / f"dry-{act.name}"))
        numbers = chosen(steps, each=1)
        for number in sorted(moments.sample(numbers, min(len(numbers), -(-runs // len(found))))):
            yield crash(act, number, steps[number], moments.choice(AFTERWARDS), folder)


def soak(shop: Shop, *, runs: int, seed: int, moment: str, started: datetime) -> Iterator[Run]:
    """One shop in which act after act is killed and recovered from, on any backend.

    Parameters
    ----------
    moment : {"step", "time"}
        Whether an act dies at a random step of its own, or by a signal from outside at a random time.
    """
    random_moments, lengths = random.Random(seed), {}  # noqa: S311 - nothing secret
    for number in range(runs):
        now = started + (LATER - NOW) * 2 * number
        act = next_act(shop, now, random_moments)
        if act.name not in lengths:  # the first of its kind lives, and shows how long it takes
            began = time.monotonic()
            hear, say = os.pipe()
            forked(lambda act=act, say=say: os.write(say, str(len(steps_of(act, shop))).encode()))  # type: ignore[misc]
            os.close(say)
            told = os.read(hear, 20)
            os.close(hear)
            if not told:  # the act was refused, or its answer stayed lost: no crash
                continue
            lengths[act.name] = (int(told), time.monotonic() - began)
            yield Run(act.name, "lives", killed=False, wrong=recovered(replace(act, plan=None), shop, AFTERWARDS[0]))
            continue
        steps, seconds = lengths[act.name]
        if moment == "step":
            at = random_moments.randrange(steps)
            status = forked(lambda act=act, at=at: stopped_at(at, lambda: act.do(shop)))  # type: ignore[misc]
            named = f"step {at} of {steps}"
        else:
            delay = random_moments.uniform(0, seconds)
            status = forked(lambda act=act: act.do(shop), after=lambda pid, delay=delay: shot(pid, delay))  # type: ignore[misc]
            named = f"after {1000 * delay:.0f} ms"
        yield Run(act.name, named, os.WIFSIGNALED(status), recovered(act, shop, AFTERWARDS[0]))


def next_act(shop: Shop, now: datetime, chance: random.Random) -> Act:
    """Close or kill what is open, bring back what was closed."""
    ws = shop.opened(now=now)
    state = ws.flags.read(shop.ref)
    if state.exposure.treated:
        kind = chance.choice(("roll_back", "kill", "break glass"))
        return Act(kind, shop, roll_back_plan(ws) if kind == "roll_back" else None, now)
    return Act("restore", shop, approved_at(shop, now), now)


def approved_at(shop: Shop, now: datetime) -> Any:
    """The way back to the newest audited state in which somebody was exposed, agreed to where that is needed."""
    ws = shop.opened(now=now)
    last = next(one for one in reversed(receipts(ws, shop)) if one.before and one.before.exposure.treated)
    plan = ws.plan_restore(last)
    if ws.approvals_needed(plan):
        ws.request(plan)
        shop.opened("ben", now).approve(plan)
    return plan


def shot(pid: int, delay: float) -> None:
    """A process killed after some seconds, unless it is over by then."""
    time.sleep(delay)
    os.kill(pid, signal.SIGKILL)  # a child that ended waits to be collected: the pid is still its own


def main(what: str, place: str, *rest: str) -> None:
    """One line per run: ``matrix FOLDER RUNS SEED`` or ``soak ROOT ENVIRONMENT FLAG RUNS SEED MOMENT``."""
    if what == "matrix":
        runs = matrix(Path(place), runs=int(rest[0]), seed=int(rest[1]))
    else:
        environment, flag, number, seed, moment = rest
        shop, started = Shop(Path(place), environment, flag), NOW + timedelta(hours=1)
        runs = soak(shop, runs=int(number), seed=int(seed), moment=moment, started=started)
    for run in runs:
        print(json.dumps(asdict(run)), flush=True)  # noqa: T201 - a program that prints


if __name__ == "__main__":
    main(*sys.argv[1:])
