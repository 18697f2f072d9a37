"""What is lost when processes die, writers race and everything else is down: nothing, or a run that is counted here.

The rigs are those of the tests, in tests/faults/; here they run at full length. Unleash is a real server on loopback.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.faults import dead, kill_watch, test_protocol
from tests.faults.race import Round, raced
from tests.faults.shop import FOUR_EYES, NAME, Shop, make_shop
from tests.flags.fault_proxy import FaultProxy
from tests.flags.unleash_server import CLIENTS, UnleashServer, unleash_server

from bench.figure import Figure

ROOT = Path(__file__).parents[1]
TOKEN = "UNLEASH_FAULTS"  # noqa: S105 - the name of a token
MATRIX, SOAKS, ON_UNLEASH = 480, 40, 40  # runs of a kind
STORIES, STEPS = 30, 20
FILE_WRITERS, FILE_ROUNDS = 50, 6
UNLEASH_WRITERS, UNLEASH_ROUNDS = 20, 6
KILLS, UNLEASH_KILLS = 10, 2


def figures() -> Iterator[Figure]:
    """All of them."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        server = stack.enter_context(unleash_server())
        os.environ[TOKEN] = server.person("ana")
        proxy = stack.enter_context(FaultProxy(server.url))
        yield from kill_figures(folder, server, proxy)
        yield from crash_figures(folder, proxy)
        yield from story_figures()
        yield from race_figures(folder, proxy)


# --- processes that die -----------------------------------------------------------------------------


def crash_figures(folder: Path, proxy: FaultProxy) -> Iterator[Figure]:
    """Runs in which a process was killed, and what was wrong afterwards."""
    on_file = make_shop(folder / "soaked").ramped(rungs=2)
    at_random = on_file.copied(folder / "soaked-at-random")
    unleash = unleash_shop(folder / "soaked-unleash", proxy, "crashes").ramped(rungs=2)
    jobs = [("matrix", str(folder / f"matrix-{seed}"), str(MATRIX // 2), str(seed)) for seed in (1, 2)]
    jobs += [_soak(on_file, SOAKS, "step"), _soak(at_random, SOAKS, "time")]
    jobs += [_soak(unleash, ON_UNLEASH, "step")]
    with lossy(proxy), ThreadPoolExecutor(2) as pool:
        runs = [run for found in pool.map(_runs, jobs) for run in found]
    killed = [run for run in runs if run["killed"]]
    for run in runs:
        if run["wrong"]:
            print(f"lost: {run}", flush=True)
    how = f"{len(runs)} runs: processes killed at {len({run['step'] for run in killed})} different steps, and at random times; flag file, and Unleash with lost answers"
    yield Figure("crash_runs_without_loss", sum(not run["wrong"] for run in killed), "runs", how)
    yield Figure("crash_runs_with_loss", sum(bool(run["wrong"]) for run in runs), "runs", how)


@contextmanager
def lossy(proxy: FaultProxy) -> Iterator[None]:
    """Meanwhile the answers to many writes are lost, which nobody may notice but in a receipt's note."""
    over = threading.Event()

    def lose() -> None:
        how = itertools.cycle(("drop-after", "502-after"))
        while not over.wait(0.2):
            if proxy.times < 1:
                proxy.hurt(next(how), times=1)

    thread = threading.Thread(target=lose)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        proxy.heal()


def _soak(shop: Shop, runs: int, moment: str) -> tuple[str, ...]:
    return ("soak", str(shop.root), shop.environment, shop.flag, str(runs), "3", moment)


def _runs(arguments: tuple[str, ...]) -> list[dict[str, object]]:
    """The runs of one process; it forks, so it has no threads."""
    command = [sys.executable, "-m", "tests.faults.crash", *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
    return [json.loads(line) for line in done.stdout.splitlines()]


def story_figures() -> Iterator[Figure]:
    """Stories of random acts and deaths; the first in which a promise is broken ends the run."""
    for machine in (test_protocol.Protocol, test_protocol.ProtocolOnAFile):
        test_protocol.run(machine, STORIES, STEPS)
    how = f"stories of {STEPS} random acts, half in memory and half on a flag file"
    yield Figure("stories_without_a_broken_promise", 2 * STORIES, "stories", how)


# --- writers that race ------------------------------------------------------------------------------


def race_figures(folder: Path, proxy: FaultProxy) -> Iterator[Figure]:
    """Rounds in which many push on one version at once."""
    on_file = make_shop(folder / "raced", more="").ramped(rungs=1)
    unleash = unleash_shop(folder / "raced-unleash", proxy, "races", approvals=False).ramped(rungs=1)
    files = raced(on_file, writers=FILE_WRITERS, rounds=FILE_ROUNDS)
    servers = raced(unleash, writers=UNLEASH_WRITERS, rounds=UNLEASH_ROUNDS)
    for found in (*files, *servers):
        if found.wrong or found.untold or found.winners != 1:
            print(f"race: {found}", flush=True)
    on_files = f"{FILE_ROUNDS} rounds of {FILE_WRITERS} processes on one flag file"
    on_servers = f"{UNLEASH_ROUNDS} rounds of {UNLEASH_WRITERS} processes on one Unleash flag"
    both = f"{on_files}, {on_servers}"
    one = sum(found.winners == 1 and not found.wrong for found in files)
    yield Figure("race_file_rounds_with_one_winner", one / len(files), "share", on_files)
    yield Figure("race_unnoticed_double_wins", sum(found.winners > 1 for found in (*files, *servers)), "rounds", both)
    yield Figure(
        "race_losers_not_told", _untold(files, FILE_WRITERS) + _untold(servers, UNLEASH_WRITERS), "writers", both
    )
    yield Figure(
        "race_unleash_rounds_without_winner", sum(not found.winners for found in servers), "rounds", on_servers
    )
    yield Figure("race_rounds_left_wrong", sum(bool(found.wrong) for found in (*files, *servers)), "rounds", both)


def _untold(rounds: list[Round], writers: int) -> int:
    """Writers that neither won nor got an error of expnb."""
    return sum(writers - found.winners - sum(found.told.values()) for found in rounds)


# --- a kill while everything else is down -------------------------------------------------------------


def kill_figures(folder: Path, server: UnleashServer, proxy: FaultProxy) -> Iterator[Figure]:
    """From the call to the last evaluation of a running service that still gave the treatment."""
    shop = make_shop(folder / "open").ramped(rungs=2)
    told = "the Python flagd provider at its own polling; ledger, PostgreSQL, metrics and data broken; worst of"
    calls = [_kill_in_kernel(shop, folder / f"kernel-{number}") for number in range(KILLS)]
    yield Figure(
        "kill_seconds_file_backend", max(calls), "seconds", f"{told} {KILLS} calls of ws.kill in an open kernel"
    )
    commands = [_kill_by_command(shop, folder / f"command-{number}") for number in range(KILLS)]
    how = f"{told} {KILLS} calls of `expnb kill --break-glass`, which includes the start of Python"
    yield Figure("kill_seconds_break_glass_command", max(commands), "seconds", how)
    unleash = [_kill_on_unleash(folder / f"unleash-{number}", server, proxy, number) for number in range(UNLEASH_KILLS)]
    how = f"UnleashClient at its default polling of 15 s, ledger broken; worst of {UNLEASH_KILLS} calls of ws.kill"
    yield Figure("kill_seconds_unleash_default_polling", max(unleash), "seconds", how)


def _kill_in_kernel(shop: Shop, place: Path) -> float:
    broken = shop.copied(place)
    dead.break_ledger(broken)
    dead.break_the_rest(broken)
    with kill_watch.service("flagd", broken.flag_file, broken.flag) as watched:
        ws = broken.opened()
        return kill_watch.seconds_to_the_last_wrong(lambda: ws.kill(NAME), watched)


def _kill_by_command(shop: Shop, place: Path) -> float:
    broken = shop.copied(place)
    dead.break_ledger(broken)
    dead.break_the_rest(broken)
    with kill_watch.service("flagd", broken.flag_file, broken.flag) as watched:
        return kill_watch.seconds_to_the_last_wrong(lambda: dead.break_glass_command(broken), watched)


def _kill_on_unleash(place: Path, server: UnleashServer, proxy: FaultProxy, number: int) -> float:
    shop = unleash_shop(place, proxy, f"kill-{number}").ramped(rungs=2)
    dead.break_ledger(shop)
    client = CLIENTS[shop.environment]
    with kill_watch.service("unleash", server.url, shop.flag, client) as watched:
        ws = shop.opened()
        return kill_watch.seconds_to_the_last_wrong(lambda: ws.kill(NAME), watched)


def unleash_shop(place: Path, proxy: FaultProxy, flag: str, *, approvals: bool = True) -> Shop:
    """The shop on a real Unleash behind a proxy."""
    more = f'token = "{TOKEN}"\n' + (FOUR_EYES if approvals else "")
    return make_shop(place, flags=f"unleash+{proxy.url}/default", flag=flag, more=more)
