"""TOML files to values, with errors that name file, table and key."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, get_args, get_origin, get_type_hints

from expnb.errors import (
    ExpnbError,
    MissingKeyError,
    NameNotFoundError,
    PathNotFoundError,
    SpecError,
    SpecFileError,
    UnknownKeyError,
)
from expnb.spec.experiment import Cost, Epoch, Events, Expectation, Experiment, Question, Totals, Traffic
from expnb.spec.metric import MEASURES, Direction, Metric, MetricKind, TotalsColumns
from expnb.spec.policy import Policy, preset
from expnb.spec.prior import Prior

if TYPE_CHECKING:
    from pydantic import TypeAdapter, ValidationError

SCHEMA = 1
Table = Mapping[str, object]
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricDefinition:
    """A metric of the catalogue: one definition for everybody."""

    name: str
    kind: MetricKind
    owner: str
    version: str
    direction: Direction = "increase"
    column: str = ""
    sql: str = ""
    ibis: str = ""
    numerator: str = ""
    denominator: str = ""
    q: float | None = None
    cap: float | None = None
    event: str = ""
    from_days: float = 0.0
    window_days: float | None = None
    at: str = ""
    covariate: str = ""
    totals: TotalsColumns | None = None
    unit: str = ""
    description: str = ""
    certified: bool = False
    rope: float | None = None
    rope_abs: float | None = None
    margin: float | None = None
    margin_abs: float | None = None


# What the catalogue fixes; role, rope, margin, covariate, the time of an outcome and the columns of totals are the experiment's own choice.
DEFINING_KEYS = (*MEASURES, "owner", "version", "description", "certified")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExperimentFile:
    """The shape of `experiments/NAME.toml`."""

    schema: int
    experiment: Question
    metrics: tuple[Metric, ...]
    policy: Policy = field(default_factory=Policy)
    prior: Prior = field(default_factory=Prior)
    traffic: Traffic | None = None
    events: Events | None = None
    totals: Totals | None = None
    expect: tuple[Expectation, ...] = ()
    epochs: tuple[Epoch, ...] = ()
    cost: Cost = field(default_factory=Cost)


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueFile:
    """The shape of `metrics/*.toml`."""

    schema: int
    metrics: tuple[MetricDefinition, ...]


def read_experiment(
    path: str | Path,
    *,
    catalogue: Mapping[str, MetricDefinition] | None = None,
    guardrails: Sequence[str] = (),
    policy: Mapping[str, object] | None = None,
) -> Experiment:
    """The experiment in a TOML file.

    Parameters
    ----------
    path : str or Path
    catalogue : mapping of str to MetricDefinition
        Metrics that the file may refer to by name.
    guardrails : sequence of str
        Catalogue metrics that every experiment inherits as guardrails.
    policy : mapping, optional
        Fields of the policy that hold whatever the file says, as an environment sets them.

    Returns
    -------
    Experiment

    Raises
    ------
    PathNotFoundError, SpecFileError, UnknownKeyError, MissingKeyError, NameNotFoundError
        The file is left alone; the message names file, table and key.
    """
    catalogue = catalogue or {}
    raw = dict(read_toml(path, "experiment file"))
    raw["metrics"] = _resolve_metrics(_tables(raw.get("metrics", []), str(path)), catalogue, guardrails, str(path))
    raw["policy"] = _overridden(_with_preset(raw.get("policy", {}), str(path)), policy or {})
    file = parse(raw, ExperimentFile, str(path))
    parts = {entry.name: getattr(file.experiment, entry.name) for entry in fields(Question)}
    try:
        tables = {
            entry.name: getattr(file, entry.name)
            for entry in fields(file)
            if entry.name not in {"schema", "experiment"}
        }
        return Experiment(**parts, **tables)
    except ExpnbError as error:
        raise SpecFileError(str(path), str(error)) from error


def read_catalogue(folder: Path) -> dict[str, MetricDefinition]:
    """All metric definitions in the TOML files of a folder, by name.

    Raises
    ------
    SpecFileError
        If two files define the same metric, or a definition contradicts itself.
    """
    catalogue: dict[str, MetricDefinition] = {}
    for path in sorted(folder.glob("*.toml")):
        for metric in parse(read_toml(path, "metric file"), CatalogueFile, str(path)).metrics:
            if metric.name in catalogue:
                raise SpecFileError(
                    str(path),
                    f"metric {metric.name!r} is defined a second time. A metric has one definition: keep one.",
                )
            try:
                as_metric(metric)
            except SpecError as error:
                raise SpecFileError(str(path), str(error)) from error
            catalogue[metric.name] = metric
    return catalogue


def as_metric(definition: MetricDefinition) -> Metric:
    """A definition of the catalogue as a metric that is only shown.

    Raises
    ------
    SpecError
        If the definition contradicts itself.
    """
    return Metric(**_definition(definition))  # type: ignore[arg-type]  # the fields of one are those of the other


def read_toml(path: str | Path, what: str) -> Table:
    """The content of a TOML file.

    Raises
    ------
    PathNotFoundError
        If there is no such file.
    SpecFileError
        If it is no TOML; the message has line and column.
    """
    path = Path(path)
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        siblings = [other.name for other in path.parent.glob("*.toml")] if path.parent.is_dir() else []
        raise PathNotFoundError(str(path), what, siblings) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SpecFileError(str(path), f"no valid TOML: {error}.") from error


def parse(raw: Table, shape: type[T], file: str) -> T:
    """`raw` as a `shape`, unknown keys refused.

    Raises
    ------
    UnknownKeyError, MissingKeyError, SpecFileError
    """
    from pydantic import ValidationError  # noqa: PLC0415 - 0.1 s that only file reading needs

    if raw.get("schema", SCHEMA) != SCHEMA:
        raise SpecFileError(file, f"schema is {raw['schema']!r}; this version of expnb reads schema {SCHEMA}.")
    _check_keys(raw, shape, "the file", file)
    try:
        reader: TypeAdapter[T] = _reader(shape)  # type: ignore[arg-type]  # a class is hashable
        return reader.validate_python(raw)
    except ValidationError as error:
        raise _translate(error, file) from error


@cache  # to build one takes longer than a push
def _reader(shape: type[T]) -> TypeAdapter[T]:
    from pydantic import TypeAdapter  # noqa: PLC0415 - as above

    return TypeAdapter(shape)


def _check_keys(raw: object, shape: object, table: str, file: str) -> None:
    """Refuse keys that no field of the dataclass `shape` takes, at any depth."""
    if isinstance(raw, list | tuple):
        inner = get_args(shape)
        for number, part in enumerate(raw, 1):
            name = part.get("name", number) if isinstance(part, Mapping) else number
            _check_keys(part, inner[0] if inner else None, f"{table} {name!r}", file)
        return
    if get_origin(shape) is Mapping:
        for key, part in raw.items() if isinstance(raw, Mapping) else ():
            _check_keys(part, get_args(shape)[1], f"{table.rstrip(']')}.{key}]", file)
        return
    shape = next((part for part in (shape, *get_args(shape)) if is_dataclass(part)), None)
    if not isinstance(raw, Mapping) or shape is None:
        return
    hints = get_type_hints(shape)
    for key, part in raw.items():
        if key not in hints:
            raise UnknownKeyError(file, table, key, list(hints))
        _check_keys(part, hints[key], f"[{key}]" if table == "the file" else f"{table.rstrip(']')}.{key}]", file)


def _translate(error: ValidationError, file: str) -> SpecFileError | MissingKeyError:
    first = error.errors()[0]
    *table, key = [str(part) for part in first["loc"]] or ["the file"]
    where = f"[{'.'.join(table)}]" if table else "the file"
    if first["type"] == "missing":
        return MissingKeyError(file, where, key)
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, ExpnbError):
        return SpecFileError(file, str(cause))
    rule = first["msg"].removeprefix("Input should be ")
    return SpecFileError(file, f"{key!r} in {where} is {first['input']!r}; it should be {rule}.")


def _with_preset(raw: object, file: str) -> object:
    """A policy with what its preset sets; what stands beside the preset takes precedence."""
    if not isinstance(raw, Mapping):
        return raw
    own = dict(raw)
    try:
        chosen = preset(str(own.pop("preset", "superiority")))
    except SpecError as error:
        raise SpecFileError(file, str(error)) from error
    return {**chosen, **own}


def _overridden(raw: object, policy: Mapping[str, object]) -> object:
    """A policy with fields of an environment in place of its own; of the tables in it key by key."""
    if not isinstance(raw, Mapping):
        return raw
    both = {
        key: {**own, **value} if isinstance(own := raw.get(key), Mapping) and isinstance(value, Mapping) else value
        for key, value in policy.items()
    }
    return {**raw, **both}


def _tables(raw: object, file: str) -> list[Table]:
    if isinstance(raw, list) and all(isinstance(part, Mapping) for part in raw):
        return raw
    raise SpecFileError(file, "metrics are tables of their own. Write `[[metrics]]` above each of them.")


def _resolve_metrics(
    entries: list[Table], catalogue: Mapping[str, MetricDefinition], guardrails: Sequence[str], file: str
) -> list[Table]:
    """Entries of the file with their catalogue definitions filled in, inherited guardrails behind them."""
    named = {str(entry.get("name", "")) for entry in entries}
    resolved = [_resolve_metric(entry, catalogue, file) for entry in entries]
    for name in guardrails:
        if name not in catalogue:
            raise NameNotFoundError("metric", name, list(catalogue))
        if name not in named:
            resolved.append(_definition(catalogue[name]) | {"role": "guardrail"})
    return resolved


def _resolve_metric(entry: Table, catalogue: Mapping[str, MetricDefinition], file: str) -> Table:
    name = str(entry.get("name", ""))
    if name not in catalogue:
        if "kind" not in entry and name:
            raise SpecFileError(
                file,
                f"metric {name!r} has no kind and is not in the catalogue ({', '.join(catalogue) or 'which is empty'}). Define it here with `kind`, or correct the name.",
            )
        return entry
    redefined = [key for key in DEFINING_KEYS if key in entry]
    if redefined:
        raise SpecFileError(
            file,
            f"metric {name!r} comes from the catalogue; {', '.join(redefined)} cannot be changed here. Remove the key, change the catalogue for everybody, or choose another name.",
        )
    return _definition(catalogue[name]) | dict(entry)


def _definition(metric: MetricDefinition) -> dict[str, object]:
    given = {entry.name: getattr(metric, entry.name) for entry in fields(metric)}
    return {key: value for key, value in given.items() if value not in (None, "")}
