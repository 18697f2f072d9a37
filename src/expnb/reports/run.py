"""Run a template with checked parameters, and render it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from expnb.errors import NameNotFoundError, ParameterError, ReportError
from expnb.reports.parameters import Parameter, check_parameters, refuse_secrets
from expnb.spec.canonical import Json
from expnb.workspace import Workspace

TEMPLATE = "ramp_decision"
RUNNER_SETS = ("experiment", "workspace", "environment", "actor")


@dataclass(frozen=True, slots=True)
class Report:
    """A template that was run: the notebook, its page, and the decision it came to.

    Parameters
    ----------
    notebook, page : Path
        The executed notebook and its HTML.
    decision : mapping
        As recorded in the ledger.
    """

    notebook: Path
    page: Path
    decision: Mapping[str, Json]


def notebooks_folder() -> Path:
    """Where worked examples and templates lie: inside the installed package, or beside `src/` in a checkout."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "notebooks", package.parents[1] / "notebooks") if folder.is_dir())


def template_path(name: str) -> Path:
    """Path of a template.

    Raises
    ------
    NameNotFoundError
        If there is none of that name.
    """
    folder = notebooks_folder() / "templates"
    path = folder / f"{name}.ipynb"
    if not path.is_file():
        raise NameNotFoundError("template", name, sorted(other.stem for other in folder.glob("*.ipynb")))
    return path


def run_report(
    workspace: Workspace,
    experiment: str,
    *,
    template: str = TEMPLATE,
    parameters: Mapping[str, Parameter] | None = None,
    now: datetime | None = None,
    progress: bool = False,
) -> Report:
    """Run a template on an experiment, unattended, and render it to HTML.

    Parameters
    ----------
    workspace : Workspace
        Reports go to its folder `reports/`.
    experiment : str
        Name of the experiment.
    template : str
        Name of the template.
    parameters : mapping, optional
        Of the template; an unknown one is refused.
    now : datetime, optional
        Dates the files; the workspace's clock when left out.
    progress : bool
        Show a bar per cell.

    Raises
    ------
    ParameterError, NameNotFoundError
        Before anything runs.
    ReportError
        If a cell fails; the notebook is kept and shows the error.
    """
    import papermill  # noqa: PLC0415 - 3.6 s, only when a report runs
    from papermill.exceptions import PapermillExecutionError  # noqa: PLC0415

    source = template_path(template)
    workspace.experiment(experiment)
    known = template_parameters(source)
    asked = {key: value for key, value in check_parameters(parameters or {}, known).items() if key not in RUNNER_SETS}
    for key in RUNNER_SETS:
        if key in (parameters or {}):
            raise ParameterError(
                f"parameter {key!r} is set by the runner; name the experiment and open the workspace instead."
            )
    stem = workspace.root / "reports" / f"{experiment}-{now or workspace.clock():%Y-%m-%d-%H%M%S}"
    notebook = stem.with_suffix(".ipynb")
    notebook.parent.mkdir(parents=True, exist_ok=True)
    with static_mode(), inside(workspace.root):
        try:
            papermill.execute_notebook(
                str(source),
                str(notebook.relative_to(workspace.root)),
                parameters={
                    **asked,
                    "experiment": experiment,
                    "workspace": ".",
                    "environment": workspace.environment,
                    "actor": workspace.actor,
                },
                cwd=".",
                kernel_name="python3",
                progress_bar=progress,
                # The kernel listens on loopback and its messages are signed: that they are not encrypted is no news.
                extra_arguments=["--log-level=ERROR"],
            )
        except PapermillExecutionError as error:
            refuse_secrets(notebook)
            raise ReportError(
                f"cell {error.exec_count} of {source.stem} failed: {error.ename}: {error.evalue} The notebook {notebook.relative_to(workspace.root)} shows where."
            ) from error
    refuse_secrets(notebook)
    return Report(notebook, render(notebook), _decision(workspace, experiment))


def template_parameters(path: Path) -> dict[str, Parameter]:
    """Parameters of a template with their defaults, from its `parameters` cell."""
    import ast  # noqa: PLC0415

    import nbformat  # noqa: PLC0415 - 0.3 s, only when a report runs

    for cell in nbformat.read(path, as_version=4).cells:  # type: ignore[no-untyped-call]
        if "parameters" in cell.metadata.get("tags", []):
            return {
                node.targets[0].id: ast.literal_eval(node.value)
                for node in ast.parse(cell.source).body
                if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            }
    raise ReportError(f"template {path.name} has no cell tagged `parameters`. Tag the cell that holds the defaults.")


def render(notebook: Path) -> Path:
    """An executed notebook as one HTML page without code, readable offline."""
    from nbconvert import HTMLExporter  # noqa: PLC0415 - 1 s, only when a report runs

    # The default page loads four libraries from a CDN; a report has to be readable without one.
    remote = ("mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url")
    exporter = HTMLExporter(  # type: ignore[no-untyped-call]
        exclude_input=True, exclude_input_prompt=True, exclude_output_prompt=True, **dict.fromkeys(remote, "")
    )
    page, _ = exporter.from_filename(str(notebook))
    path = notebook.with_suffix(".html")
    path.write_text(page, encoding="utf-8")
    return path


@contextmanager
def static_mode() -> Iterator[None]:
    """Kernels started inside show tables instead of widgets."""
    before = os.environ.get("EXPNB_STATIC")
    os.environ["EXPNB_STATIC"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["EXPNB_STATIC"]
        else:
            os.environ["EXPNB_STATIC"] = before


@contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Run in a folder: papermill writes the paths it is given into the notebook, so they must be relative."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def _decision(workspace: Workspace, experiment: str) -> Mapping[str, Json]:
    entries = workspace.ledger.entries(kind="decision", experiment=experiment)
    decision = [entry for entry in entries if entry.body["environment"] == workspace.environment][-1].body["decision"]
    if not isinstance(decision, dict):
        raise ReportError(f"the ledger holds no readable decision on {experiment!r}. Run `expnb ledger verify`.")
    return decision
