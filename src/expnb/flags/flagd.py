"""Flags in a flagd file: no server, read by every OpenFeature SDK.

Several notebooks, a service and people with editors use the file at once. Every write holds a lock, compares the version it was planned on and replaces the file in one step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from difflib import unified_diff
from pathlib import Path
from typing import Final

from expnb.decisions.plan import RampPlan
from expnb.errors import (
    ExpnbError,
    FlagConflictError,
    FlagError,
    FlagFileChangedError,
    FlagFileError,
    FlagFileLockedError,
    NameNotFoundError,
    PushUncertainError,
)
from expnb.flags import flagd_rules as rules
from expnb.flags.address import Address
from expnb.flags.base import (
    Attributes,
    Capabilities,
    Receipt,
    VendorRequest,
    check_environment,
    check_fixed,
    check_granularity,
    check_now,
    check_push,
    check_units,
    check_variants,
    describe,
)
from expnb.flags.bucketing import BUCKETING, assign_all, split_weights
from expnb.flags.document import EMPTY, FlagDocument, parse
from expnb.flags.flagd_rules import FlagBlock, Stamp
from expnb.flags.guarded_file import Snapshot, locked, read_file, replace_file
from expnb.spec.canonical import Json
from expnb.spec.flag import Exposure, FlagRef, FlagSpec, FlagState

_KILL_TRIES: Final = 20


@dataclass(frozen=True, slots=True)
class _Opened:
    """The file as one moment saw it."""

    seen: Snapshot | None  # None: no file yet
    document: FlagDocument


class FlagdFile:
    """The flags of one environment, in one flagd file.

    Parameters
    ----------
    path : path
        A JSON file; `create` makes it when it does not exist, nothing else does.
    environment : str
        The environment whose flags the file holds; others are refused.
    name : str, optional
        What receipts call this backend; the file's name by default.
    lock_wait_seconds : float, optional
        How long to wait for another writer; a write takes milliseconds.
    """

    capabilities: Final = Capabilities(
        granularity=0.01,
        concurrency="native",
        approvals=False,
        audit=False,
        eligibility=("audience", "layer", "holdout"),
    )

    def __init__(self, path: str | Path, environment: str, *, name: str = "", lock_wait_seconds: float = 5.0) -> None:
        self.path = Path(path)
        self.environment = environment
        self.name = name or f"flagd:{self.path.name}"
        self.lock_wait_seconds = lock_wait_seconds
        if self.path.suffix != ".json":
            raise FlagFileError(
                str(path),
                "does not end in .json; expnb writes flagd's JSON form only. Convert the file, or name another one.",
            )

    def __repr__(self) -> str:
        return f"FlagdFile({str(self.path)!r}, {self.environment!r})"

    def create(self, flag: FlagSpec, *, now: datetime | None = None) -> FlagState:
        """A new flag at 0 percent, in a new file if there is none yet.

        Raises
        ------
        FlagError
            If the flag exists, or its name or variants cannot be served.
        FlagFileError
            If the file cannot be written.
        """
        now = datetime.now(UTC) if now is None else now
        ref, exposure = flag.ref, flag.exposure
        check_environment(ref, self.environment, self.name)
        _check_names(ref.flag, exposure)
        check_now(now)
        with self._writing(may_create=True) as opened:
            if opened.document.count(ref.flag):
                raise FlagError(
                    f"flag {ref.flag!r} exists already in {self.name}. Nothing was changed. Read it, or create one of another name."
                )
            return self._commit(opened, ref, FlagBlock(exposure, enabled=True, stamp=Stamp(1, now.astimezone(UTC))))

    def read(self, ref: FlagRef) -> FlagState:
        """The flag as the file has it now.

        Raises
        ------
        NameNotFoundError
            If the file has no such flag.
        FlagEditedError
            If its targeting is not what its metadata says.
        FlagFileError
            If the file cannot be read.
        """
        check_environment(ref, self.environment, self.name)
        document = self._open().document
        self._check_present(document, ref)
        return _state(document, ref)

    def names(self) -> list[str]:
        """Names of all flags in the file, also of those that others made."""
        return sorted(self._open().document.keys)

    def preview(self, plan: RampPlan, *, now: datetime) -> str:
        """The lines of the file that `apply` would change, as a diff; nothing is written."""
        self._check_sdks(plan)
        opened = self._open()
        block, _ = self._planned(opened, plan, now, "")
        text = opened.document.with_flag(
            plan.ref.flag, rules.to_json_block(block, opened.document.value(plan.ref.flag))
        )
        old = opened.seen.text if opened.seen else ""
        return "".join(
            unified_diff(
                old.splitlines(keepends=True), text.splitlines(keepends=True), f"{self.name} now", f"{self.name} after"
            )
        )

    def apply(self, plan: RampPlan, *, now: datetime, ledger_head: str = "") -> Receipt:
        """The flag set to `plan.after` and enabled, if nothing moved since the plan was made.

        Parameters
        ----------
        ledger_head : str, optional
            Hash of the ledger's last entry, kept in the flag's metadata as an anchor outside the ledger.

        Raises
        ------
        PercentError
            If a percentage is no whole number of steps of 0.01 %.
        PlanExpiredError, FlagConflictError, FlagError
            If the plan is too old, the flag moved, or nothing would change.
        RebucketedError
            If more units would be treated while an installed SDK puts them into other buckets.
        PushUncertainError
            If what was read back is not what was written.
        """
        self._check_sdks(plan)
        with self._writing() as opened:
            block, before = self._planned(opened, plan, now, ledger_head)
            after = self._commit(opened, plan.ref, block)
        return Receipt(plan.ref, plan.verb, before, after, now.astimezone(UTC), self.name)

    def _check_sdks(self, plan: RampPlan) -> None:
        """Raise `RebucketedError` before more units are treated with an SDK that puts them into other buckets; asked once per process."""
        if plan.raises_treated and plan.ref.environment == self.environment:
            from expnb.flags.sdks import refuse_when_sdks_disagree  # noqa: PLC0415 - lowering needs no SDK

            known = plan.after if plan.before == rules.LOST else plan.before
            split = tuple(known.weights.items())
            refuse_when_sdks_disagree(plan.ref.flag, split, known.control, self.canaries(plan.ref))

    def _planned(self, opened: _Opened, plan: RampPlan, now: datetime, ledger_head: str) -> tuple[FlagBlock, FlagState]:
        """What the plan makes of the flag, once everything that could forbid it was checked; and the flag as it is."""
        check_environment(plan.ref, self.environment, self.name)
        check_granularity(plan.after, self.capabilities.granularity)
        _check_names(plan.ref.flag, plan.after)
        self._check_present(opened.document, plan.ref)
        before, old = _state(opened.document, plan.ref), _block(opened.document, plan.ref).stamp
        _check_repeated(plan, before, old)
        check_push(plan, before, now=now)
        if before.exposure != rules.LOST:  # restored after a kill that could not read it
            check_fixed(plan.ref.flag, before.exposure, plan.after)
        stamp = Stamp(old.revision + 1, now.astimezone(UTC), plan.id, ledger_head or old.ledger_head)
        return FlagBlock(plan.after, enabled=True, stamp=stamp), before

    def evaluate(self, ref: FlagRef, units: Sequence[str], attributes: Attributes | None = None) -> Sequence[str]:
        """Variant per unit, as SDKs of the flag's hash generation compute it.

        Returns
        -------
        list of str
            ``"off"`` outside the gate and for a unit without a name; ``""`` for all while the flag is disabled: callers then get the default in their code.
        """
        check_units(units, attributes)
        state = self.read(ref)
        return assign_all(ref.flag, state.exposure, units, attributes) if state.enabled else [""] * len(units)

    def request(self, plan: RampPlan) -> VendorRequest:
        """Refused: a file has no approvals of its own."""
        raise FlagError(
            f"the plan for flag {plan.ref.flag!r} cannot be handed over: a flagd file has no approvals of its own. Ask for approval in expnb, which keeps it in its ledger."
        )

    def kill(self, ref: FlagRef, *, now: datetime) -> Receipt:
        """The flag closed and disabled, whatever its metadata, targeting or version say.

        It works on a flag that `read` refuses, waits for no decision, and goes on without the lock when its holder hangs.

        Raises
        ------
        NameNotFoundError
            If the file has no such flag.
        FlagFileError
            If the file cannot be read or written: there is nothing to switch off then.
        """
        check_environment(ref, self.environment, self.name)
        check_now(now)
        for tries_left in reversed(range(_KILL_TRIES)):
            try:
                return self._kill(ref, now)
            except FlagFileChangedError:  # somebody saved the file meanwhile; the kill holds for the new one too
                if not tries_left:
                    raise
        raise AssertionError  # unreachable: the last try returns or raises

    def ledger_head(self, ref: FlagRef) -> str:
        """The ledger's head when the flag was last pushed, empty if none was given: what to verify the ledger against."""
        check_environment(ref, self.environment, self.name)
        document = self._open().document
        self._check_present(document, ref)
        return _block(document, ref).stamp.ledger_head

    def canaries(self, ref: FlagRef) -> str:
        """What canary units got when the flag was made, as it stands in the flag; empty if it does not say."""
        check_environment(ref, self.environment, self.name)
        document = self._open().document
        self._check_present(document, ref)
        return rules.canaries_of(document.value(ref.flag))

    def _kill(self, ref: FlagRef, now: datetime) -> Receipt:
        try:
            with self._writing() as opened:
                return self._write_killed(opened, ref, now)
        except FlagFileLockedError as error:
            receipt = self._write_killed(self._open(), ref, now)
            return replace(receipt, note=f"{receipt.note} Done without the lock: {error}".strip())

    def _write_killed(self, opened: _Opened, ref: FlagRef, now: datetime) -> Receipt:
        if not opened.document.count(ref.flag):
            raise NameNotFoundError("flag", ref.flag, opened.document.keys)
        raw, before, note, stamp = opened.document.value(ref.flag), None, "", Stamp(0, now.astimezone(UTC))
        try:
            before, stamp = _state(opened.document, ref), _block(opened.document, ref).stamp
            exposure = before.exposure.closed()
        except FlagError as error:
            exposure, revision = rules.closed(ref.flag, raw)
            stamp = replace(stamp, revision=revision, before_kill=opened.document.source(ref.flag))
            note = f"The state before is not known: {error} What the file held stands in the flag's metadata as 'beforeKill'."
        stamp = replace(stamp, revision=stamp.revision + 1, changed_at=now.astimezone(UTC))
        after = self._commit(opened, ref, FlagBlock(exposure, enabled=False, stamp=stamp))
        return Receipt(ref, "kill", before, after, now.astimezone(UTC), self.name, note)

    def _commit(self, opened: _Opened, ref: FlagRef, block: FlagBlock) -> FlagState:
        """Write `block` and return what the file says afterwards."""
        known = opened.document.count(ref.flag)
        old: Json = opened.document.value(ref.flag) if known else rules.new_flag(ref.flag, block.exposure)
        text = opened.document.with_flag(ref.flag, rules.to_json_block(block, old))
        replace_file(self.path, text, opened.seen)
        try:
            after = _state(self._open().document, ref)
        except ExpnbError as error:
            raise PushUncertainError(f"flag {ref.flag!r} was written, but cannot be read back: {error}") from error
        if (after.exposure, after.enabled) != (block.exposure, block.enabled):
            raise PushUncertainError(
                f"flag {ref.flag!r} was written as '{block.exposure}', but reads '{describe(after)}': another program wrote it at once. Read it and decide again."
            )
        return after

    @contextmanager
    def _writing(self, *, may_create: bool = False) -> Iterator[_Opened]:
        """The file, read under the lock."""
        self._open(may_create=may_create)  # before the lock, which leaves a file beside it
        with locked(self.path, self.lock_wait_seconds):
            yield self._open(may_create=may_create)

    def _open(self, *, may_create: bool = False) -> _Opened:
        if may_create and not self.path.exists() and not self.path.is_symlink():
            if not self.path.parent.is_dir():
                raise FlagFileError(
                    str(self.path),
                    "cannot be made: its folder does not exist. Make the folder, or check the path in expnb.toml.",
                )
            return _Opened(None, parse(EMPTY, str(self.path)))
        seen = read_file(self.path)
        return _Opened(seen, parse(seen.text, str(self.path)))

    def _check_present(self, document: FlagDocument, ref: FlagRef) -> None:
        if not document.count(ref.flag):
            raise NameNotFoundError("flag", ref.flag, document.keys)
        if document.count(ref.flag) > 1:
            raise FlagFileError(
                str(self.path),
                f"names the flag {ref.flag!r} twice, and readers differ in which one they take. Remove one of them.",
            )


def open_address(address: Address) -> FlagdFile:
    """The backend at ``flagd:PATH``."""
    return FlagdFile(address.root / address.place, address.environment, name=address.url)


def _block(document: FlagDocument, ref: FlagRef) -> FlagBlock:
    return rules.read_block(ref.flag, document.value(ref.flag))


def _state(document: FlagDocument, ref: FlagRef) -> FlagState:
    block = _block(document, ref)
    return FlagState(
        ref,
        block.exposure,
        rules.version(block, document.value(ref.flag)),
        block.enabled,
        block.stamp.changed_at,
        BUCKETING,
        block.stamp.plan_id,
    )


def _check_names(flag: str, exposure: Exposure) -> None:
    check_variants(exposure)
    split_weights(exposure.weights)
    for what, name in (("flag", flag), *(("variant", name) for name in exposure.weights)):
        with suppress(UnicodeEncodeError):
            if name and name.encode():
                continue
        raise FlagError(f"a {what} is called {name!r}, which no SDK can ask for. Give it a name of valid text.")


def _check_repeated(plan: RampPlan, found: FlagState, stamp: Stamp) -> None:
    """A plan whose answer was lost is not pushed twice: say that it is there."""
    if stamp.plan_id == plan.id and found.version != plan.base_version:
        change = f"this very plan was pushed already, at {found.changed_at:%Y-%m-%d %H:%M} UTC: now {describe(found)}"
        raise FlagConflictError(plan.ref.flag, plan.base_version, found.version, change)
