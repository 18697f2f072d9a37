"""The flagd file: what stands in it, what is refused, and that a refusal leaves it byte for byte."""

import errno
import fcntl
import json
import os
import pickle
import resource
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from expnb.errors import (
    FlagConflictError,
    FlagEditedError,
    FlagError,
    FlagFileChangedError,
    FlagFileError,
    FlagFileLockedError,
    NameNotFoundError,
    PushUncertainError,
    UnitError,
)
from expnb.flags import guarded_file
from expnb.flags.flagd import FlagdFile
from expnb.spec.flag import Exposure, FlagSpec

LOCK = ".flags.flagd.json.lock"


def files(folder):
    return {path.name for path in folder.iterdir()} - {LOCK}


# --- what stands in the file -----------------------------------------------------------------


def test_the_flag_in_the_file_is_gate_then_split_with_two_salts_and_a_guard(ramp):
    ramp.push(enrolled=12.34)
    gate = {
        "fractional": [
            {"cat": [{"var": "$flagd.flagKey"}, "/gate/", {"var": "targetingKey"}]},
            ["in", 1234],
            ["out", 8766],
        ]
    }
    split = {
        "fractional": [
            {"cat": [{"var": "$flagd.flagKey"}, "/split/", {"var": "targetingKey"}]},
            ["gate_30", 1],
            ["gate_40", 1],
        ]
    }
    assert ramp.document["$schema"] == "https://flagd.dev/schema/v0/flags.json"
    assert ramp.flag["state"] == "ENABLED"
    assert ramp.flag["variants"] == {"off": "off", "gate_30": "gate_30", "gate_40": "gate_40"}
    assert ramp.flag["defaultVariant"] == "off"
    assert ramp.flag["targeting"] == {
        "if": [{"!": [{"var": "targetingKey"}]}, "off", {"==": [gate, "in"]}, split, "off"]
    }


def test_the_metadata_carries_revision_plan_and_ledger_head_as_flat_values(ramp):
    plan = ramp.plan(enrolled=12.34)
    ramp.backend.apply(plan, now=ramp.now, ledger_head="f" * 64)
    metadata = ramp.flag["metadata"]
    assert len(metadata.pop("canaries")) == 64  # see test_sdks.py
    assert metadata == {
        "revision": 2,
        "generation": "2",
        "enrolled": 12.34,
        "serve": "",
        "holdback": 0,
        "control": "gate_30",
        "weights": '{"gate_30":50,"gate_40":50}',
        "changed_at": "2026-03-01T12:00:00+00:00",
        "planId": plan.id,
        "ledgerHead": "f" * 64,
    }
    assert ramp.backend.ledger_head(ramp.ref) == "f" * 64


def test_the_ledger_head_stays_until_another_one_is_given(ramp):
    ramp.backend.apply(ramp.plan(enrolled=1), now=ramp.now, ledger_head="f" * 64)
    ramp.push(enrolled=5)
    ramp.kill()
    assert ramp.backend.ledger_head(ramp.ref) == "f" * 64


def test_every_write_raises_the_revision_and_the_version_starts_with_it(ramp):
    versions = [ramp.read().version, ramp.push(enrolled=5).after.version, ramp.kill().after.version]
    assert [version.partition("-")[0] for version in versions] == ["1", "2", "3"]
    assert all(len(version.partition("-")[2]) == 12 for version in versions)


def test_a_percentage_is_read_back_exactly_and_times_are_utc(ramp):
    assert ramp.push(enrolled=0.07, holdback=99.93).after.exposure == Exposure(
        {"gate_30": 50, "gate_40": 50}, "gate_30", 0.07, "", 99.93
    )
    assert ramp.read().changed_at.tzinfo is UTC


def test_a_receipt_survives_pickling(ramp):
    receipt = ramp.push(enrolled=5)
    assert pickle.loads(pickle.dumps(receipt)) == receipt


def test_what_others_added_to_the_file_and_to_the_flag_stays(ramp):
    def add(flag):
        flag["source"] = "team-x"
        flag["metadata"] |= {"owner": "growth", "tier": 1.5}

    ramp.edit(add)
    document = ramp.document
    document["$evaluators"] = {"adults": {">": [{"var": "age"}, 18]}}
    document["flags"] = {"first": {"state": "ENABLED", "variants": {"a": 1.50}}} | document["flags"]
    ramp.path.write_text(json.dumps(document))
    ramp.push(enrolled=5)
    ramp.kill()
    found = ramp.document
    assert found["$evaluators"] == document["$evaluators"]
    assert found["flags"]["first"] == document["flags"]["first"]
    assert list(found["flags"]) == ["first", "gate-position"]
    assert found["flags"]["gate-position"]["source"] == "team-x"
    assert found["flags"]["gate-position"]["metadata"]["owner"] == "growth"


def test_create_adds_to_a_file_that_exists_and_keeps_its_other_bytes(tmp_path, ramp):
    before = ramp.path.read_text()
    other = replace(ramp.ref, flag="other")
    ramp.backend.create(FlagSpec(other, {"a": 1, "b": 2, "c": 3}, "a"), now=ramp.now)
    after = ramp.path.read_text()
    kept = before.removesuffix("\n  }\n}\n")
    assert after.startswith(kept)
    assert ramp.backend.read(other).exposure == Exposure({"a": 1, "b": 2, "c": 3}, "a")


def test_a_name_that_no_sdk_can_ask_for_is_refused(ramp):
    for name in ("", "\ud800"):
        with pytest.raises(FlagError, match="no SDK can ask for"):
            ramp.backend.create(FlagSpec(replace(ramp.ref, flag=name), {"a": 1, "b": 1}, "a"), now=ramp.now)


# --- writing ---------------------------------------------------------------------------------


def test_the_modification_time_gets_newer_as_a_float_even_when_the_clock_went_back(ramp):
    future = ramp.path.stat().st_mtime_ns + 3600 * 10**9
    os.utime(ramp.path, ns=(future, future))
    before = ramp.path.stat().st_mtime
    for percent in (1, 5, 25):
        ramp.push(enrolled=percent)
        after = ramp.path.stat().st_mtime
        assert after > before
        before = after


def test_the_file_keeps_mode_group_and_attributes(ramp):
    ramp.path.chmod(0o640)
    group = 65534 if os.geteuid() == 0 else os.getegid()
    os.chown(ramp.path, -1, group)
    ramp.push(enrolled=5)
    after = ramp.path.stat()
    assert stat.S_IMODE(after.st_mode) == 0o640
    assert after.st_gid == group


def test_a_new_file_gets_the_mode_of_the_umask(tmp_path, make_ramp):
    old = os.umask(0o027)
    try:
        path = make_ramp(tmp_path / "new.json").path
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_nothing_but_the_file_and_its_lock_is_left_behind(ramp):
    ramp.push(enrolled=5)
    ramp.kill()
    assert {path.name for path in ramp.path.parent.iterdir()} == {"flags.flagd.json", LOCK}


def test_only_create_makes_a_file(tmp_path, ramp):
    backend = FlagdFile(tmp_path / "none.json", "production")
    plan = ramp.plan(enrolled=5)
    before = {path.name for path in tmp_path.iterdir()}
    for call in (
        lambda: backend.read(ramp.ref),
        lambda: backend.apply(plan, now=ramp.now),
        lambda: backend.kill(ramp.ref, now=ramp.now),
        lambda: backend.evaluate(ramp.ref, ["u"]),
    ):
        with pytest.raises(FlagFileError, match="does not exist"):
            call()
    assert {path.name for path in tmp_path.iterdir()} == before


def test_create_makes_no_folder(tmp_path, ramp):
    backend = FlagdFile(tmp_path / "none" / "flags.json", "production")
    with pytest.raises(FlagFileError, match="folder does not exist"):
        backend.create(FlagSpec(ramp.ref, {"a": 1, "b": 1}, "a"), now=ramp.now)


BROKEN = {
    "empty": b"",
    "torn": b'{"flags": {"gate-position": {"state": "ENAB',
    "no flags": b'{"$schema": "x"}',
    "not text": b'{"flags": {"\xff": 1}}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("verb", ["create", "read", "apply", "kill"])
def test_a_broken_file_is_refused_by_every_verb_and_stays_byte_for_byte(ramp, content, verb):
    plan = ramp.plan(enrolled=5)
    ramp.path.write_bytes(content)
    calls = {
        "create": lambda: ramp.backend.create(
            FlagSpec(replace(ramp.ref, flag="b"), {"a": 1, "b": 1}, "a"), now=ramp.now
        ),
        "read": ramp.read,
        "apply": lambda: ramp.backend.apply(plan, now=ramp.now),
        "kill": ramp.kill,
    }
    with pytest.raises(FlagFileError) as caught:
        calls[verb]()
    assert str(caught.value).startswith(f"flag file {str(ramp.path)!r} ")
    assert ramp.path.read_bytes() == content
    assert files(ramp.path.parent) == {"flags.flagd.json"}


@pytest.mark.parametrize("kind", ["symlink", "folder", "pipe"])
def test_a_link_a_folder_and_a_pipe_are_refused_and_stay(ramp, kind):
    plan = ramp.plan(enrolled=5)
    target = ramp.path.rename(ramp.path.with_name("real.json"))
    before = target.read_bytes()
    {"symlink": lambda: ramp.path.symlink_to(target), "folder": ramp.path.mkdir, "pipe": lambda: os.mkfifo(ramp.path)}[
        kind
    ]()
    for call in (ramp.read, ramp.kill, lambda: ramp.backend.apply(plan, now=ramp.now)):
        with pytest.raises(FlagFileError, match="symbolic link" if kind == "symlink" else "regular file"):
            call()
    assert ramp.path.is_symlink() == (kind == "symlink")
    assert target.read_bytes() == before


def test_a_file_without_write_permission_is_respected_also_by_root(ramp):
    plan, before = ramp.plan(enrolled=5), ramp.path.read_bytes()
    ramp.path.chmod(0o444)
    for call in (ramp.kill, lambda: ramp.backend.apply(plan, now=ramp.now)):
        with pytest.raises(FlagFileError, match=r"read-only.*chmod"):
            call()
    assert ramp.path.read_bytes() == before


def test_a_file_of_somebody_else_is_refused_and_stays(open_folder, make_ramp, as_nobody):
    ramp = make_ramp(open_folder / "flags.flagd.json")
    plan, before = ramp.plan(enrolled=5), ramp.path.read_bytes()
    open_folder.chmod(0o777 if os.geteuid() == 0 else 0o755)
    ramp.path.chmod(0o644 if os.geteuid() == 0 else 0o444)
    with as_nobody(), pytest.raises(FlagFileError, match=r"may not be written|read-only"):
        ramp.backend.apply(plan, now=ramp.now)
    assert ramp.path.read_bytes() == before
    assert files(open_folder) == {"flags.flagd.json"}


def test_a_folder_that_may_not_be_written_is_refused_and_stays(open_folder, make_ramp, as_nobody):
    ramp = make_ramp(open_folder / "flags.flagd.json")
    ramp.path.chmod(0o666)
    plan, before = ramp.plan(enrolled=5), ramp.path.read_bytes()
    open_folder.chmod(0o555)
    with as_nobody(), pytest.raises(FlagFileError, match="who may write to the folder"):
        ramp.backend.apply(plan, now=ramp.now)
    (open_folder / LOCK).unlink(missing_ok=True) if os.geteuid() == 0 else None
    with as_nobody(), pytest.raises(FlagFileError, match="who may write to the folder"):
        ramp.kill()
    assert ramp.path.read_bytes() == before


def test_a_full_disk_leaves_the_old_file_and_no_rubbish(ramp):
    plan, before = ramp.plan(enrolled=5), ramp.path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # a write beyond 100 bytes fails, as on a full disk
    try:
        with pytest.raises(FlagFileError, match=r"cannot be written.*free space"):
            ramp.backend.apply(plan, now=ramp.now)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert ramp.path.read_bytes() == before
    assert files(ramp.path.parent) == {"flags.flagd.json"}


def test_a_write_that_fails_at_the_replace_leaves_the_old_file(ramp, monkeypatch):
    plan, before = ramp.plan(enrolled=5), ramp.path.read_bytes()

    def broken(*_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", broken)
    monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(FlagFileError, match="Nothing was changed"):
        ramp.backend.apply(plan, now=ramp.now)
    monkeypatch.undo()
    assert ramp.path.read_bytes() == before
    assert files(ramp.path.parent) == {"flags.flagd.json"}
    assert ramp.push(enrolled=5).after.exposure.enrolled == 5


def test_a_disk_that_does_not_confirm_the_replace_is_reported_as_uncertain(ramp, monkeypatch):
    def broken(_):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(guarded_file, "_sync_folder", broken)
    with pytest.raises(PushUncertainError, match="in place"):
        ramp.push(enrolled=5)
    assert ramp.read().exposure.enrolled == 5


def test_a_save_by_an_editor_during_the_push_is_not_lost(ramp, monkeypatch):
    plan, write = ramp.plan(enrolled=5), guarded_file._write

    def write_while_somebody_saves(*arguments):
        write(*arguments)
        ramp.edit(lambda flag: flag["metadata"].update(owner="saved meanwhile"))

    monkeypatch.setattr(guarded_file, "_write", write_while_somebody_saves)
    with pytest.raises(FlagFileChangedError, match="Nothing was changed"):
        ramp.backend.apply(plan, now=ramp.now)
    assert ramp.flag["metadata"]["owner"] == "saved meanwhile"
    assert ramp.read().exposure.enrolled == 0


def test_kill_holds_for_a_file_that_an_editor_saved_meanwhile(ramp, monkeypatch):
    write, saves = guarded_file._write, iter([True, True, False, False])

    def write_while_somebody_saves(*arguments):
        write(*arguments)
        if next(saves):
            ramp.edit(lambda flag: flag["metadata"].update(owner="saved meanwhile"))

    monkeypatch.setattr(guarded_file, "_write", write_while_somebody_saves)
    assert not ramp.kill().after.enabled
    assert ramp.flag["metadata"]["owner"] == "saved meanwhile"


# --- the lock --------------------------------------------------------------------------------


@pytest.fixture
def held(ramp):
    """The lock, held by a process that hangs."""
    ramp.backend.lock_wait_seconds = 0.1
    with (ramp.path.parent / LOCK).open("r+") as lock:
        lock.truncate(0)
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def test_a_lock_that_is_not_let_go_names_its_holder(ramp, held):
    plan, before = ramp.plan(enrolled=5), ramp.path.read_bytes()
    with pytest.raises(FlagFileLockedError, match=r"process 4711 since .* waited 0.1 s"):
        ramp.backend.apply(plan, now=ramp.now)
    assert ramp.path.read_bytes() == before


def test_kill_goes_on_without_the_lock_when_its_holder_hangs_and_says_so(ramp, held):
    receipt = ramp.kill()
    assert not receipt.after.enabled
    assert "without the lock" in receipt.note
    assert "4711" in receipt.note


def test_a_lock_file_of_a_colleague_that_cannot_be_written_still_locks(open_folder, make_ramp, as_nobody):
    ramp = make_ramp(open_folder / "flags.flagd.json")
    ramp.path.chmod(0o666)
    (open_folder / LOCK).chmod(0o444)
    open_folder.chmod(0o777 if os.geteuid() == 0 else 0o755)
    with as_nobody():
        assert ramp.push(enrolled=5).after.exposure.enrolled == 5


def test_the_lock_is_free_again_when_its_holder_dies(ramp):
    code = f"import fcntl, sys; f = open({str(ramp.path.parent / LOCK)!r}); fcntl.flock(f, fcntl.LOCK_EX); print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stdin=subprocess.PIPE) as holder:
        holder.stdout.readline()
        holder.kill()
    assert ramp.push(enrolled=5).after.exposure.enrolled == 5


def test_rubbish_of_a_writer_that_was_killed_is_swept_but_not_that_of_a_living_one(ramp):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = ramp.path.parent
    (folder / f".flags.flagd.json.{dead.pid}.tmp").write_text("{")
    (folder / f".flags.flagd.json.{os.getppid()}.tmp").write_text("{")
    ramp.push(enrolled=5)
    assert files(folder) == {"flags.flagd.json", f".flags.flagd.json.{os.getppid()}.tmp"}


# --- edits by hand ---------------------------------------------------------------------------

EDITS = {
    "targeting": lambda flag: flag["targeting"]["if"][2]["=="][0]["fractional"][1].__setitem__(1, 5000),
    "fraction as float": lambda flag: flag["targeting"]["if"][2]["=="][0]["fractional"][1].__setitem__(1, 500.0),
    "no targeting": lambda flag: flag.pop("targeting"),
    "state": lambda flag: flag.update(state="OFF"),
    "variants": lambda flag: flag["variants"].update(gate_40="other"),
    "default": lambda flag: flag.update(defaultVariant="gate_40"),
    "enrolled only in metadata": lambda flag: flag["metadata"].update(enrolled=50),
    "enrolled is text": lambda flag: flag["metadata"].update(enrolled="five"),
    "enrolled is true": lambda flag: flag["metadata"].update(enrolled=True),
    "enrolled is huge": lambda flag: flag["metadata"].update(enrolled=10**400),
    "enrolled is 120": lambda flag: flag["metadata"].update(enrolled=120),
    "enrolled is NaN": lambda flag: flag["metadata"].update(enrolled=float("nan")),
    "weights torn": lambda flag: flag["metadata"].update(weights='{"gate_30":5'),
    "weights deep": lambda flag: flag["metadata"].update(weights="[" * 100_000),
    "weights a list": lambda flag: flag["metadata"].update(weights="[1, 2]"),
    "weights zero": lambda flag: flag["metadata"].update(weights='{"gate_30":0,"gate_40":0}'),
    "weights tiny": lambda flag: flag["metadata"].update(weights='{"gate_30":1e-12,"gate_40":1.123456789}'),
    "weights huge": lambda flag: flag["metadata"].update(weights='{"gate_30":1e999,"gate_40":1}'),
    "control unknown": lambda flag: flag["metadata"].update(control="gate_50"),
    "serve missing": lambda flag: flag["metadata"].pop("serve"),
    "revision text": lambda flag: flag["metadata"].update(revision="3"),
    "revision huge": lambda flag: flag["metadata"].update(revision=-1),
    "time torn": lambda flag: flag["metadata"].update(changed_at="2026-03"),
    "time without zone": lambda flag: flag["metadata"].update(changed_at="2026-03-01T12:00:00"),
    "head a list": lambda flag: flag["metadata"].update(ledgerHead=[1]),
    "metadata a list": lambda flag: flag.update(metadata=[1]),
    "generation": lambda flag: flag["metadata"].update(generation="3"),
    "metadata gone": lambda flag: flag.pop("metadata"),
    "half a surrogate": lambda flag: flag["metadata"].update(control="\ud800", owner="\ud800"),
}


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_a_flag_that_was_edited_by_hand_is_not_read_not_pushed_but_killed(ramp, edit):
    ramp.push(enrolled=5)
    plan = ramp.plan(enrolled=25)
    ramp.edit(edit)
    edited = ramp.path.read_bytes()
    for call in (
        ramp.read,
        lambda: ramp.backend.apply(plan, now=ramp.now),
        lambda: ramp.backend.evaluate(ramp.ref, ["u"]),
    ):
        with pytest.raises(FlagError, match=r"gate-position") as caught:
            call()
        assert str(caught.value).endswith(".")
    assert ramp.path.read_bytes() == edited

    receipt = ramp.kill()
    assert receipt.before is None
    assert "not known" in receipt.note
    assert not receipt.after.enabled
    assert receipt.after == ramp.read()
    assert ramp.flag["state"] == "DISABLED"
    kept = json.loads(ramp.flag["metadata"]["beforeKill"])
    assert json.dumps(kept) == json.dumps(json.loads(edited)["flags"]["gate-position"])


@pytest.mark.parametrize("edit", EDITS.values(), ids=EDITS)
def test_after_the_kill_of_an_edited_flag_its_last_receipt_restores_the_same_people(ramp, edit):
    units = [f"user-{number}" for number in range(300)]
    receipt = ramp.push(enrolled=50)
    exposed = ramp.backend.evaluate(ramp.ref, units)
    ramp.edit(edit)
    ramp.kill()
    plan = replace(ramp.plan("restore"), after=receipt.after.exposure)
    assert ramp.backend.apply(plan, now=ramp.now).after.enabled
    assert ramp.backend.evaluate(ramp.ref, units) == exposed
    assert "beforeKill" not in ramp.flag["metadata"]


@pytest.mark.parametrize(
    "value", ["5", '"x"', "null", "[]", '{"metadata": 5}', '{"variants": NaN, "metadata": {"x": NaN}}']
)
def test_kill_needs_nothing_but_the_flags_key(ramp, value):
    ramp.path.write_text(f'{{"flags": {{"gate-position": {value}, "other": {{"keep":  1.50}}}}}}')
    assert not ramp.kill().after.enabled
    assert '"other": {"keep":  1.50}' in ramp.path.read_text()


def test_kill_closes_every_copy_of_a_flag_that_the_file_names_twice(ramp):
    flag = json.dumps(ramp.flag)
    ramp.path.write_text(f'{{"flags": {{"gate-position": {flag}, "gate-position": {flag}}}}}')
    with pytest.raises(FlagFileError, match="twice"):
        ramp.read()
    ramp.kill()
    assert ramp.path.read_text().count('"DISABLED"') == 2


def test_a_flag_that_expnb_did_not_make_is_not_read_or_ramped(ramp):
    plan = ramp.plan(enrolled=5)
    ramp.edit(lambda flag: flag.update(metadata={"owner": "somebody"}))
    for call in (ramp.read, lambda: ramp.backend.apply(plan, now=ramp.now)):
        with pytest.raises(FlagError, match="not made by expnb"):
            call()


def test_an_edit_that_metadata_and_targeting_agree_on_moves_the_version(ramp):
    plan = ramp.plan(enrolled=5)

    def add_owner(flag):
        flag["metadata"]["owner"] = "growth"

    ramp.edit(add_owner)
    with pytest.raises(FlagConflictError):
        ramp.backend.apply(plan, now=ramp.now)


def test_reformatting_the_file_moves_no_version(ramp):
    version = ramp.read().version
    ramp.path.write_text(json.dumps(json.loads(ramp.path.read_text()), indent="\t", sort_keys=True))
    assert ramp.read().version == version


def test_an_edited_flag_is_told_what_to_do(ramp):
    ramp.edit(EDITS["targeting"])
    with pytest.raises(
        FlagEditedError, match=r"its targeting is not what its metadata says.*Undo that edit, or kill the flag"
    ):
        ramp.read()


def test_a_flag_that_is_gone_is_an_unknown_name(ramp):
    plan = ramp.plan(enrolled=5)
    ramp.path.write_text('{"flags": {}}')
    with pytest.raises(NameNotFoundError, match="There is no flag yet"):
        ramp.backend.apply(plan, now=ramp.now)


def test_a_text_in_place_of_a_list_of_units_is_refused(ramp):
    with pytest.raises(UnitError, match=r"Write \['user-1'\] for one"):
        ramp.backend.evaluate(ramp.ref, "user-1")


def test_create_takes_the_time_of_the_machine_when_none_is_given(tmp_path, ramp):
    before = datetime.now(UTC)
    state = ramp.backend.create(FlagSpec(replace(ramp.ref, flag="b"), {"a": 1, "b": 1}, "a"))
    assert before <= state.changed_at <= datetime.now(UTC)
