"""Every exception of expnb.

Each is an `ExpnbError` and a matching built-in, keeps its facts as attributes, survives pickling, and reads as: what was found, what the rule is, what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MOST_ARMS = 50


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean 'x'?`` for the known name closest to `name`, one that begins with it first, else an empty text."""
    from difflib import get_close_matches  # noqa: PLC0415 - only needed when something went wrong

    by_folded = {other.casefold(): other for other in known}
    folded = name.casefold()
    near = get_close_matches(folded, by_folded, n=1)
    if near:  # whether anything is close at all decides if a check blocks
        longer = [other for other in by_folded if other.startswith(folded)]
        near = get_close_matches(folded, longer, n=1, cutoff=0.0) or near
    found = by_folded[near[0]] if near else name
    return f" Did you mean {found!r}?" if found != name else ""


class ExpnbError(Exception):
    """Base of every error that expnb raises on purpose."""


def check_choice(what: str, found: object, known: Sequence[object]) -> None:
    """Raise `SpecError` unless `found` is one of the `known` words."""
    if found not in known:
        names = [str(name) for name in known]
        raise SpecError(f"{what} is {found!r}; it is one of {', '.join(names)}.{nearest(str(found), names)}")


# --- what was asked: experiment files, metrics, policies -------------------------------------


class SpecError(ExpnbError, ValueError):
    """An experiment, metric or policy contradicts itself."""


class SpecFileError(SpecError):
    """A file of the workspace cannot be read as what it should be."""

    def __init__(self, file: str, problem: str) -> None:
        super().__init__(file, problem)
        self.file, self.problem = file, problem

    def __str__(self) -> str:
        return f"{self.file}: {self.problem}"


class UnknownKeyError(SpecError):
    """A file holds a key that expnb does not know."""

    def __init__(self, file: str, table: str, key: str, known: Sequence[str]) -> None:
        super().__init__(file, table, key, tuple(known))
        self.file, self.table, self.key, self.known = file, table, key, tuple(known)

    def __str__(self) -> str:
        hint = nearest(self.key, self.known) or f" Known keys: {', '.join(self.known)}."
        return f"{self.file}: unknown key {self.key!r} in {self.table}.{hint}"


class MissingKeyError(SpecError):
    """A file lacks a key that is required."""

    def __init__(self, file: str, table: str, key: str) -> None:
        super().__init__(file, table, key)
        self.file, self.table, self.key = file, table, key

    def __str__(self) -> str:
        return f"{self.file}: {self.table} has no {self.key!r}, which is required. Add a line `{self.key} = …`."


class PathNotFoundError(ExpnbError, FileNotFoundError):
    """A file that was named does not exist."""

    def __init__(self, path: str, what: str, siblings: Sequence[str] = ()) -> None:
        super().__init__(path, what, tuple(siblings))
        self.path, self.what, self.siblings = path, what, tuple(siblings)

    def __str__(self) -> str:
        from pathlib import PurePath  # noqa: PLC0415 - only needed when something went wrong

        path = PurePath(self.path)
        relative = "" if path.is_absolute() else "; it is taken relative to the working directory"
        hint = nearest(path.name, self.siblings) or f" Check the path{relative}."
        return f"no {self.what} at {self.path!r}.{hint}"


class NameNotFoundError(ExpnbError, LookupError):
    """An experiment, metric, flag or environment of that name does not exist."""

    def __init__(self, what: str, name: str, known: Sequence[str]) -> None:
        super().__init__(what, name, tuple(known))
        self.what, self.name, self.known = what, name, tuple(known)

    def __str__(self) -> str:
        known = f" Known: {', '.join(self.known)}." if self.known else f" There is no {self.what} yet."
        return f"no {self.what} is called {self.name!r}.{nearest(self.name, self.known) or known}"


# --- the data --------------------------------------------------------------------------------


class CohortError(ExpnbError, ValueError):
    """The data cannot answer the experiment's question."""


class ColumnNotFoundError(ExpnbError, LookupError):
    """The cohort lacks a column that the experiment names."""

    def __init__(self, column: str, available: Sequence[str]) -> None:
        super().__init__(column, tuple(available))
        self.column, self.available = column, tuple(available)

    def __str__(self) -> str:
        return f"cohort has no column {self.column!r}; it has {list(self.available)}.{nearest(self.column, self.available)}"


class EmptyCohortError(CohortError):
    """The cohort holds no row."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.source = source

    def __str__(self) -> str:
        return f"cohort {self.source} has no rows; an effect needs units in at least two arms. Check the filter or the dates of the query."


class ArmsError(CohortError):
    """The arms in the data are not those of the experiment."""

    def __init__(self, column: str, found: Sequence[str], expected: Sequence[str]) -> None:
        super().__init__(column, tuple(found), tuple(expected))
        self.column, self.found, self.expected = column, tuple(found), tuple(expected)

    def __str__(self) -> str:
        unknown = [name for name in self.found if name not in self.expected]
        if len(self.found) > MOST_ARMS:  # surely ids, which are not shown
            return f"column {self.column!r} holds {len(self.found):,} different values; the arms of the experiment are {list(self.expected)}. Name the column that holds the arm."
        if unknown:
            hint = nearest(unknown[0], self.expected) or " Add it to `weights`, or filter these rows out."
            return f"column {self.column!r} holds the arm {unknown[0]!r}, which the experiment does not name; its arms are {list(self.expected)}.{hint}"
        missing = [name for name in self.expected if name not in self.found]
        return f"column {self.column!r} holds only {list(self.found)}; the experiment also has {missing}. A comparison needs units in every arm: check the filter, or remove the arm from `weights`."


class NullArmError(CohortError):
    """Rows carry no arm."""

    def __init__(self, column: str, rows: int) -> None:
        super().__init__(column, rows)
        self.column, self.rows = column, rows

    def __str__(self) -> str:
        return f"{self.rows:,} rows have no value in the arm column {self.column!r}; every row needs one. Find out why the assignment was lost before you drop them: the loss may differ by arm."


class MetricValuesError(CohortError):
    """The values of a metric do not fit its kind."""

    def __init__(self, metric: str, problem: str) -> None:
        super().__init__(metric, problem)
        self.metric, self.problem = metric, problem

    def __str__(self) -> str:
        return f"metric {self.metric!r}: {self.problem}"


class UnitError(CohortError):
    """Units are missing, duplicated, or of a type that cannot name a unit."""


class SourceError(ExpnbError, TypeError):
    """A source is of a kind that no cohort can be made from."""


class ColumnValueError(SourceError):
    """A column holds a value of another type than the rest of it."""

    def __init__(self, column: str, value: str, problem: str) -> None:
        super().__init__(column, value, problem)
        self.column, self.value, self.problem = column, value, problem

    def __str__(self) -> str:
        return f"column {self.column!r} holds {repr(self.value) if self.value else 'a value'}{self.problem}"


class QueryTooLongError(ExpnbError, TimeoutError):
    """A query ran longer than the experiment allows, and was stopped."""

    def __init__(self, what: str, max_seconds: float) -> None:
        super().__init__(what, max_seconds)
        self.what, self.max_seconds = what, max_seconds

    def __str__(self) -> str:
        return f"{self.what} ran longer than {self.max_seconds:g} s and was stopped; [cost] max_seconds is {self.max_seconds:g}. Read fewer days, aggregate the rows in a query of your own, or raise max_seconds."


class TooManyRowsError(CohortError):
    """A source has more rows than the experiment allows to read."""

    def __init__(self, source: str, rows: int, max_rows: int) -> None:
        super().__init__(source, rows, max_rows)
        self.source, self.rows, self.max_rows = source, rows, max_rows

    def __str__(self) -> str:
        return f"{self.source} has about {self.rows:,} rows; [cost] max_rows is {self.max_rows:,}, and nothing was read. Filter the rows, read fewer days, or raise max_rows."


class FullScanError(CohortError):
    """A partitioned table would be read whole."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.source = source

    def __str__(self) -> str:
        return f"{self.source} is partitioned and no day is named, so every partition would be read. Give the experiment start, end and exposed_at, or an `sql` with a filter."


# --- posterior -------------------------------------------------------------------------------


class PosteriorError(ExpnbError, ValueError):
    """No posterior can be stated."""


class EngineError(ExpnbError, RuntimeError):
    """A sampler failed, or its diagnostics are too bad to state a probability."""


# --- flags -----------------------------------------------------------------------------------


class PushError(ExpnbError):
    """Something that kept a push from being done, or from being known to be done.

    Attributes
    ----------
    runbook : str
        The entry of docs/runbook.md that applies.
    """

    runbook = "refused"

    @property
    def sentence(self) -> str:
        """What happened, without the entry of the runbook."""
        return self._sentence()

    def _sentence(self) -> str:
        return super().__str__()

    def __str__(self) -> str:
        return f"{self.sentence} Runbook: {self.runbook}."


class PercentError(PushError, ValueError):
    """A percentage that no flag can serve."""

    runbook = "percent"

    def __init__(self, percent: float, rule: str, what: str = "enrolled") -> None:
        super().__init__(percent, rule, what)
        self.percent, self.rule, self.what = percent, rule, what

    def _sentence(self) -> str:
        return f"{self.what} is {self.percent:.10g} %; {self.rule}"


class FlagError(PushError, RuntimeError):
    """A flag backend could not do what was asked; nothing was changed."""


class FlagServerError(FlagError):
    """A flag server cannot be asked, or refuses to answer; nothing was changed."""

    def __init__(self, server: str, problem: str, runbook: str) -> None:
        super().__init__(server, problem, runbook)
        self.server, self.problem, self.runbook = server, problem, runbook

    def _sentence(self) -> str:
        return f"{self.server} {self.problem}"


class CredentialError(FlagError):
    """A credential that is named in expnb.toml is nowhere to be found."""

    runbook = "token-refused"

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def _sentence(self) -> str:
        return f"no credential is called {self.name!r}, neither in the environment nor in the keyring (service 'expnb'). Nothing was changed. Set it: export {self.name}=…, or `keyring set expnb {self.name}`."


class RebucketedError(FlagError):
    """Units are not put into the buckets that the experiment began with."""

    runbook = "rebucketed"


class OpenIntentError(FlagError):
    """An earlier push of the flag has no outcome yet."""

    runbook = "open-intent"


class FlagFileError(FlagError):
    """The flag file cannot be read or written."""

    runbook = "flag-file"

    def __init__(self, path: str, problem: str) -> None:
        super().__init__(path, problem)
        self.path, self.problem = path, problem

    def _sentence(self) -> str:
        return f"flag file {self.path!r} {self.problem}"


class FlagFileChangedError(FlagFileError):
    """Another program, one that takes no lock, replaced the flag file between our reading and our writing."""


class FlagFileLockedError(FlagFileError):
    """Somebody else holds the lock of the flag file, and does not let go."""


class FlagConflictError(FlagError):
    """The flag changed between the plan and the push."""

    runbook = "conflict"

    def __init__(self, flag: str, planned: str, found: str, change: str) -> None:
        super().__init__(flag, planned, found, change)
        self.flag, self.planned, self.found, self.change = flag, planned, found, change

    def _sentence(self) -> str:
        return (
            f"flag {self.flag!r} changed since the plan was made: planned on version {self.planned}, found {self.found} ({self.change}). "
            "Nothing was pushed. Look at that change, then decide and plan again."
        )


class FlagRaceError(FlagConflictError):
    """Somebody else changed the flag in the moment of the push; theirs came first, and ours was taken back."""

    def _sentence(self) -> str:
        return (
            f"flag {self.flag!r} changed in the moment of the push: planned on version {self.planned}, but {self.change} came first, as version {self.found}. "
            "Your change stood for a moment and was taken back: the flag serves theirs. Look at that change, then decide and plan again."
        )


class FlagEditedError(FlagError):
    """What a flag serves is not what its own metadata says."""

    runbook = "edited"

    def __init__(self, flag: str, problem: str) -> None:
        super().__init__(flag, problem)
        self.flag, self.problem = flag, problem

    def _sentence(self) -> str:
        return f"flag {self.flag!r} was edited outside expnb: {self.problem}. Undo that edit, or kill the flag (which rewrites it closed) and restore it from its last receipt."


class PlanExpiredError(FlagError):
    """A plan is too old to be pushed."""

    runbook = "expired"

    def __init__(self, flag: str, expired_at: str) -> None:
        super().__init__(flag, expired_at)
        self.flag, self.expired_at = flag, expired_at

    def _sentence(self) -> str:
        return f"the plan for flag {self.flag!r} expired at {self.expired_at}. Decide again on fresh data, then plan again."


class PlanVoidError(FlagError):
    """A decision taken again at the push is worse than the one that was planned."""

    runbook = "void"

    def __init__(self, flag: str, planned: str, now: str, reason: str) -> None:
        super().__init__(flag, planned, now, reason)
        self.flag, self.planned, self.now, self.reason = flag, planned, now, reason

    def _sentence(self) -> str:
        return f"the plan for flag {self.flag!r} said {self.planned}, the decision now says {self.now}: {self.reason} Nothing was pushed. Plan again from the new decision."


class ApprovalError(PushError, PermissionError):
    """Somebody else has to agree first, or may not agree."""

    runbook = "approvals"


class PushUncertainError(FlagError):
    """What a backend holds after a push is not what was asked for, or cannot be read."""

    runbook = "uncertain"


class AnswerLostError(PushUncertainError):
    """A change was sent to a flag server, and no answer says what became of it."""

    def __init__(self, server: str, how: str, under_way: bool) -> None:  # noqa: FBT001 - all of it survives pickling
        super().__init__(server, how, under_way)
        self.server, self.how = server, how
        self.under_way = under_way  # the server may still be working on it

    def _sentence(self) -> str:
        return (
            f"{self.server} {self.how} after a change was sent; it may be done. Nothing is sent twice: read the flag."
        )


# --- ledger ----------------------------------------------------------------------------------


class LedgerError(PushError, RuntimeError):
    """The ledger cannot be read or written."""

    runbook = "ledger"


class LedgerBrokenError(LedgerError):
    """The chain of the ledger does not hold together."""

    runbook = "ledger-broken"

    def __init__(self, seq: int, problem: str) -> None:
        super().__init__(seq, problem)
        self.seq, self.problem = seq, problem

    def _sentence(self) -> str:
        return f"ledger entry {self.seq}: {self.problem}"


class ReplayError(ExpnbError, LookupError):
    """A past decision cannot be recomputed: it is not recorded, or its cells are gone."""


# --- reports ---------------------------------------------------------------------------------


class ParameterError(ExpnbError, ValueError):
    """A parameter that the notebook does not know, or that must not be written into one."""


class ReportError(ExpnbError, RuntimeError):
    """A notebook failed while it ran."""
