"""How the modules of posteriors import each other."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import expnb.posterior

HOME = Path(expnb.posterior.__file__).parent


def imported(path):
    """Modules that a file imports anywhere, in functions and for type hints too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names)


def test_no_module_imports_itself_through_others():
    names = {"expnb.posterior." + ".".join(path.relative_to(HOME).with_suffix("").parts): path for path in HOME.rglob("*.py") if path.name != "__init__.py"}  # fmt: skip
    TopologicalSorter({name: set(imported(path)) & set(names) for name, path in names.items()}).prepare()
