"""Several writers at once, and writers that die half way."""

import subprocess
import sys

# Forks are made by a process of their own, which has no threads.
PUSHERS = """
import json, os, random, signal, sys, time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from expnb.decisions.plan import RampPlan
from expnb.errors import FlagConflictError
from expnb.flags.flagd import FlagdFile
from expnb.spec.flag import FlagRef

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
REF = FlagRef("gate-position", "production")
backend = FlagdFile(sys.argv[1], "production", lock_wait_seconds=60)

def push():
    state = backend.read(REF)
    after = replace(state.exposure, enrolled=round(state.exposure.enrolled + 0.01, 2) % 100)
    times = {"created_at": NOW, "expires_at": NOW + timedelta(hours=1)}
    plan = RampPlan("ramp_up", "race", REF, state.version, state.exposure, after, "race", "p", "e", **times)
    return backend.apply(plan, now=NOW)

def count_pushes(tries):
    applied = conflicts = 0
    for _ in tries:
        try:
            push()
            applied += 1
            os.write(done, b".")
        except FlagConflictError:
            conflicts += 1
    os.write(1, f"{applied} {conflicts}\\n".encode())

def fork(tries):
    global heard, done
    heard, done = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            count_pushes(tries)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    return pid
"""
AT_ONCE = """
pids = [fork(range(50)) for _ in range(4)]
sys.exit(any(os.waitpid(pid, 0)[1] for pid in pids))
"""
KILLED = """
moments, revision, caught_half_way = random.Random(20), 1, 0
for _ in range(40):
    pid = fork(count())
    os.read(heard, 1)  # it is at work
    time.sleep(moments.uniform(0.001, 0.03))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    caught_half_way += any(path.suffix == ".tmp" for path in Path(sys.argv[1]).parent.iterdir())
    backend.read(REF)  # refuses a torn file and a flag that contradicts itself
    found = json.loads(Path(sys.argv[1]).read_text())["flags"][REF.flag]["metadata"]["revision"]
    assert found >= revision
    revision = int(push().after.version.partition("-")[0])
    assert revision == found + 1
assert caught_half_way, "no writer was caught half way, so the test showed nothing"
"""
READER = """
pid = fork(range(200))
seen = set()
while not os.waitpid(pid, os.WNOHANG)[0]:
    seen.add(backend.read(REF).version)
assert len(seen) > 2, seen
"""


def run(script, ramp):
    arguments = [sys.executable, "-c", PUSHERS + script, str(ramp.path)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_of_200_pushes_by_four_processes_each_is_applied_or_told_of_a_conflict(ramp):
    counts = [[int(number) for number in line.split()] for line in run(AT_ONCE, ramp).splitlines()]
    applied, conflicts = map(sum, zip(*counts, strict=True))
    assert len(counts) == 4
    assert applied + conflicts == 200
    assert conflicts > 0, "the processes never met, so the test showed nothing"
    state = ramp.read()
    assert ramp.flag["metadata"]["revision"] - 1 == applied  # creation was the first revision
    assert round(state.exposure.enrolled * 100) == applied


def test_readers_never_see_half_a_file_while_others_write(ramp):
    run(READER, ramp)


def test_a_writer_killed_at_any_moment_leaves_the_old_or_the_new_file_and_a_free_lock(ramp):
    run(KILLED, ramp)
    assert {path.name for path in ramp.path.parent.iterdir()} == {"flags.flagd.json", ".flags.flagd.json.lock"}
