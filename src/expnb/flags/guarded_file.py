"""A small file that several programs read and write at once: lock, compare, replace in one step."""

from __future__ import annotations

import fcntl
import glob
import os
import shutil
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from expnb.errors import FlagFileChangedError, FlagFileError, FlagFileLockedError, PushUncertainError

_POLL_SECONDS: Final = 0.01
# Providers compare mtime as a float of seconds, and file systems round it: try ever larger steps.
_MTIME_STEPS_NS: Final = (0, 1_000_000, 1_000_000_000, 2_000_000_000)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A file as it was read: its text, and how to tell whether it was touched since."""

    text: str
    mark: tuple[int, int, int]  # inode, mtime in ns, size
    mtime: float  # seconds


def read_file(path: Path) -> Snapshot:
    """The file's text.

    Raises
    ------
    FlagFileError
        If there is no such regular, readable UTF-8 file.
    """
    _check_kind(path)
    try:
        with path.open("rb") as file:
            seen = os.fstat(file.fileno())
            data = file.read()
    except OSError as error:
        raise FlagFileError(str(path), f"cannot be read ({error.strerror}). Check its permissions.") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise FlagFileError(
            str(path), f"is not UTF-8 text (byte {error.start}). Nothing was changed. Put back its last good version."
        ) from error
    return Snapshot(text, _mark(seen), seen.st_mtime)


def _check_kind(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError as error:
        raise FlagFileError(
            str(path),
            "does not exist. Check the path in expnb.toml; `expnb create EXPERIMENT` makes the flag and its file.",
        ) from error
    except OSError as error:
        raise FlagFileError(
            str(path), f"cannot be reached ({error.strerror}). Check the path in expnb.toml."
        ) from error
    if stat.S_ISLNK(mode):
        raise FlagFileError(
            str(path),
            f"is a symbolic link to {str(path.readlink())!r}, and a safe replace would cut it. Name the file itself in expnb.toml.",
        )
    if not stat.S_ISREG(mode):
        raise FlagFileError(str(path), "is not a regular file. Check the path in expnb.toml.")


def _mark(seen: os.stat_result) -> tuple[int, int, int]:
    return seen.st_ino, seen.st_mtime_ns, seen.st_size


@contextmanager
def locked(path: Path, wait_seconds: float) -> Iterator[None]:
    """Hold the file's lock, a hidden file beside it; the kernel frees it when the holder dies.

    Raises
    ------
    FlagFileError
        If somebody else holds the lock for longer than `wait_seconds`, or it cannot be made.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        handle = _open_lock(lock)
    except OSError as error:
        raise FlagFileError(
            str(path),
            f"cannot be locked: {lock.name!r} beside it cannot be written ({error.strerror}). Nothing was changed. Check who may write to the folder.",
        ) from error
    try:
        _wait(handle, path, wait_seconds)
        with suppress(OSError):  # the name of the holder is a help, not a need
            os.ftruncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        _sweep(path)
        yield
    finally:
        os.close(handle)


def _open_lock(lock: Path) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(lock, os.O_RDWR | flags, 0o666)
    except PermissionError:  # made by a colleague; a lock needs no write access
        return os.open(lock, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _wait(handle: int, path: Path, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise FlagFileLockedError(str(path), _held(handle, wait_seconds)) from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            raise FlagFileError(
                str(path),
                f"is on a file system without locks ({error.strerror}). Nothing was changed. Keep it on a local disk.",
            ) from error
        else:
            return


def _held(handle: int, wait_seconds: float) -> str:
    pid = os.pread(handle, 20, 0).decode(errors="replace") or "unknown"
    since = datetime.fromtimestamp(os.fstat(handle).st_mtime, UTC)
    return f"is locked by process {pid} since {since:%Y-%m-%d %H:%M:%S} UTC; waited {wait_seconds:g} s, a write takes milliseconds. Nothing was changed. That process seems to hang: look at it, end it, and try again."


def _sweep(path: Path) -> None:
    """Remove what writers that were killed half way left behind; the lock is held, so none of them lives."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = left.name.split(".")[-2]
        if pid.isdigit() and not _alive(int(pid)):
            with suppress(OSError):
                left.unlink()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)  # signal 0 only asks
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def replace_file(path: Path, text: str, seen: Snapshot | None) -> None:
    """The file as `text`, in one step: readers see the old or the new file, never a part.

    Parameters
    ----------
    seen : Snapshot or None
        What the text was made from; None for a file that does not exist yet.

    Raises
    ------
    FlagFileChangedError
        If the file is not the one that was seen. Nothing was changed.
    FlagFileError
        If the new file cannot be written. Nothing was changed.
    PushUncertainError
        If the new file is in place but may not survive a loss of power.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        _check_writable(path, seen)
        _write(temporary, path, text, seen)
        _check_unchanged(path, seen)
        temporary.replace(path)
    except OSError as error:
        raise FlagFileError(
            str(path),
            f"cannot be written ({error.strerror or error}). Nothing was changed. Check free space and who may write to the folder.",
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    try:
        _sync_folder(path.parent)
    except OSError as error:
        raise PushUncertainError(
            f"the new flag file {str(path)!r} is in place, but the disk did not confirm it ({error.strerror}). Read the flag back before you go on."
        ) from error


def _check_writable(path: Path, seen: Snapshot | None) -> None:
    # A replace asks only the folder; whoever took the file's write permission away meant it, also towards root.
    if seen is not None and not path.stat().st_mode & 0o222:
        raise FlagFileError(
            str(path), "is read-only. Nothing was changed. Make it writable (chmod u+w) if it may be changed."
        )
    if seen is not None and not os.access(path, os.W_OK, effective_ids=True):
        raise FlagFileError(str(path), "may not be written by this user. Nothing was changed. Ask its owner.")


def _write(temporary: Path, path: Path, text: str, seen: Snapshot | None) -> None:
    with suppress(FileNotFoundError):
        temporary.unlink()
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.write(text.encode())
        file.flush()
        if seen is not None:
            _keep_access(temporary, path)
            _make_newer(temporary, seen.mtime)
        os.fsync(file.fileno())


def _keep_access(temporary: Path, path: Path) -> None:
    """Give the new file the mode, attributes, owner and group of the old one: a service must be able to read it."""
    old, new = path.stat(), temporary.stat()
    if old.st_uid != new.st_uid:
        with suppress(PermissionError):  # only root can; access goes by mode and group below
            os.chown(temporary, old.st_uid, -1)
    if old.st_gid != new.st_gid:
        os.chown(temporary, -1, old.st_gid)
    shutil.copystat(path, temporary)


def _make_newer(temporary: Path, mtime: float) -> None:
    """Set a modification time that is later than `mtime`: providers poll it and miss an equal one."""
    start = max(time.time_ns(), int(mtime * 1e9))
    for step in _MTIME_STEPS_NS:
        os.utime(temporary, ns=(start, start + step))
        if temporary.stat().st_mtime > mtime:
            return


def _check_unchanged(path: Path, seen: Snapshot | None) -> None:
    """An editor takes no lock: what it saved meanwhile must not be lost (a few microseconds remain)."""
    now = _mark(path.lstat()) if path.exists() or path.is_symlink() else None
    if now != (seen.mark if seen else None):
        raise FlagFileChangedError(
            str(path),
            "was changed by another program just now, one that takes no lock. Nothing was changed. Read the flag again, then decide.",
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
