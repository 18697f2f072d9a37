"""Who may import whom: the table of the architecture, held by the code."""

import ast
from pathlib import Path

import pytest

import expnb

ROOT = Path(expnb.__file__).parent
ALL = "all"
LAYERS: dict[str, str] = {
    "errors": "",
    "_version": "",
    "spec": "errors",
    "stats": "errors spec",
    "cohorts": "errors spec stats",
    "datasets": "errors spec cohorts",
    "posterior": "errors spec stats _version",
    "models": "errors spec stats posterior _version",
    "decisions": "errors spec stats posterior",
    "planning": "errors spec stats posterior decisions",
    "flags": "errors spec decisions",
    "ledger": "errors spec decisions flags",
    "charts": "errors spec stats posterior decisions planning ledger",
    "pushing": "errors spec decisions flags ledger",
    "workspace": "errors spec stats cohorts posterior decisions planning flags ledger pushing",
    "history": "errors spec stats cohorts posterior models decisions flags ledger workspace",
    "hygiene": "errors spec flags history workspace",
    "widgets": "errors spec stats posterior decisions ledger charts",
    "reports": "errors spec decisions workspace",
    "demo": ALL,
    "cli": ALL,
    "__init__": ALL,
    "__main__": ALL,
}


def layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported_layers(path: Path) -> set[str]:
    """Layers that a file imports, those for type hints too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively; imports name their layer"
            names.add(node.module or "")
            names |= {f"{node.module}.{alias.name}" for alias in node.names} if node.module == "expnb" else set()
    return {name.split(".")[1] for name in names if name.startswith("expnb.")}


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_layer_imports_only_the_layers_named_in_its_row(path):
    allowed = LAYERS[layer(path)]
    if allowed == ALL:
        return
    assert imported_layers(path) <= {layer(path), *allowed.split()}


def test_only_models_know_pymc_and_arviz():
    for path in FILES:
        text = path.read_text()
        if layer(path) != "models":
            assert "import pymc" not in text, path
            assert "import arviz" not in text, path


def test_decisions_and_posteriors_never_import_a_network_client():
    for path in FILES:
        if layer(path) in {"spec", "stats", "posterior", "decisions", "charts", "widgets"}:
            tree = ast.parse(path.read_text())
            modules = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
            modules |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
            assert not {name.split(".")[0] for name in modules} & {"httpx", "requests", "socket", "urllib", "http"}, (
                path
            )
