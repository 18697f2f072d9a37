"""The command that looks whether everything around a push is in order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from expnb.cli.shared import FAILURE, HERE, AsJson, Folder, Where, app, as_json_text, open_at
from expnb.errors import ExpnbError, NameNotFoundError, ParameterError, PathNotFoundError

if TYPE_CHECKING:
    import pandas as pd

    from expnb.flags.exposure_check import ExposureCheck
    from expnb.spec.experiment import Experiment
    from expnb.spec.flag import FlagState
    from expnb.workspace import Workspace


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    what: str
    ok: bool
    says: str


@app.command()
def doctor(
    name: Annotated[str, typer.Argument(help="Name of the experiment; all when left out.")] = "",
    workspace: Folder = HERE,
    environment: Where = None,
    *,
    exposures: Annotated[
        Path | None, typer.Option(help="Parquet or CSV file of logged exposures, in the experiment's columns.")
    ] = None,
    node: Annotated[Path | None, typer.Option(help="Folder with an installed @openfeature/flagd-core.")] = None,
    as_json: AsJson = False,
) -> None:
    """Look at workspace, flags, SDKs and logged exposures; exit code 1 when something disagrees."""
    if exposures and not name:
        raise ParameterError("--exposures is about one experiment. Write `expnb doctor NAME --exposures FILE`.")
    findings = list(_findings(open_at(workspace, environment), name, exposures, node))
    ok = all(finding.ok for finding in findings)
    if as_json:
        typer.echo(as_json_text({"ok": ok, "findings": findings}))
    else:
        for finding in findings:
            typer.echo(f"{'ok  ' if finding.ok else 'BAD '} {finding.what}: {finding.says}")
    raise typer.Exit(0 if ok else FAILURE)


def _findings(opened: Workspace, name: str, exposures: Path | None, node: Path | None) -> Iterator[Finding]:
    yield Finding("workspace", ok=True, says=f"{opened.root}, environment {opened.environment}")
    for one in [name] if name else opened.experiments:
        try:
            experiment = opened.experiment(one)
        except ExpnbError as error:
            yield Finding(one, ok=False, says=str(error))
            continue
        try:
            state = opened.flag(experiment)
        except NameNotFoundError:
            yield Finding(f"flag of {one}", ok=True, says=f"not made yet; `expnb create {one}` makes it")
            continue
        except ExpnbError as error:
            yield Finding(f"flag of {one}", ok=False, says=str(error))
            continue
        off = "" if state.enabled else ", disabled"
        yield Finding(f"flag of {one}", ok=True, says=f"{state.ref} {state.exposure}{off}, version {state.version}")
        yield from _sdks(opened, one, state, node)
        if exposures:
            yield _exposures(opened, experiment, state, exposures)


def _sdks(opened: Workspace, name: str, state: FlagState, node: Path | None) -> Iterator[Finding]:
    """What the SDKs say; only flagd files are evaluated by them."""
    from expnb.flags.flagd import FlagdFile  # noqa: PLC0415 - each command loads what it needs
    from expnb.flags.sdks import check_sdks  # noqa: PLC0415 - each command loads what it needs

    if not isinstance(opened.flags, FlagdFile):
        return
    promised, exposure, what = opened.flags.canaries(state.ref), state.exposure, f"SDKs of {name}"
    try:
        found = check_sdks(state.ref.flag, exposure.weights, exposure.control, promised=promised, node=node)
    except ExpnbError as error:
        yield Finding(what, ok=False, says=str(error))
        return
    yield from (Finding(what, ok=sdk.agrees, says=str(sdk)) for sdk in found)
    if not found:
        yield Finding(what, ok=True, says="none is installed here; run this command where the service runs")


def _exposures(opened: Workspace, experiment: Experiment, state: FlagState, file: Path) -> Finding:
    what = f"exposures of {experiment.name}"
    try:
        found = _checked(opened, experiment, state, file)
    except ExpnbError as error:
        return Finding(what, ok=False, says=str(error))
    return Finding(what, ok=found.ok, says=str(found))


def _checked(opened: Workspace, experiment: Experiment, state: FlagState, file: Path) -> ExposureCheck:
    from expnb.flags.bucketing import BUCKETING  # noqa: PLC0415 - each command loads what it needs
    from expnb.flags.exposures import check_exposures  # noqa: PLC0415 - each command loads what it needs
    from expnb.ledger.reading import entries_on, receipts  # noqa: PLC0415 - each command loads what it needs

    if state.bucketing != BUCKETING:
        raise ParameterError(
            f"exposures are recomputed for flagd files; flag {state.ref.flag!r} has the buckets {state.bucketing!r}. Leave --exposures out."
        )
    made = receipts(entries_on(opened.ledger, state.ref))
    known = [receipt.after for receipt in made]
    if made and made[0].before:
        known.insert(0, made[0].before)
    return check_exposures(
        state.ref.flag,
        known or state.exposure,
        _read(file),
        unit=experiment.unit,
        variant=experiment.variant,
        time=experiment.exposed_at,
        min_cell=experiment.min_cell,
    )


def _read(file: Path) -> pd.DataFrame:
    import pandas as pd  # noqa: PLC0415 - each command loads what it needs

    if not file.is_file():
        raise PathNotFoundError(str(file), "log of exposures", [path.name for path in file.parent.glob("*")])
    if file.suffix in {".parquet", ".pq"}:
        return pd.read_parquet(file)
    # Text as it stands: "007" is another unit than 7.
    return pd.read_csv(file, dtype=str, keep_default_na=False)
