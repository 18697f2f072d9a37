"""Pages quote what was measured, and nothing else."""

import ast
import json
import re

import pytest
from bench.document import FIGURE, HERE, PAGES, RESULTS, filled


def named_in_the_benchmarks():
    """Patterns of all texts in their code; what is filled in may be any word."""
    for path in HERE.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield re.escape(node.value)
            elif isinstance(node, ast.JoinedStr):
                yield "".join(
                    re.escape(part.value) if isinstance(part, ast.Constant) else r"\w*" for part in node.values
                )


NAMES = [name for name in set(named_in_the_benchmarks()) if len(name.replace(r"\w*", "")) >= 6]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_pages_show_the_results(page):
    text = page.read_text()
    assert filled(text, json.loads(RESULTS.read_text())) == text, "run python -m bench.document"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_quoted_figure_has_a_benchmark(page):
    text = page.read_text()
    assert len(FIGURE.findall(text)) == text.count("<!-- "), "a comment without a number behind it"
    measured = json.loads(RESULTS.read_text())
    for name in FIGURE.findall(text):
        assert name in measured or any(re.fullmatch(pattern, name) for pattern in NAMES), name


@pytest.mark.parametrize(
    ("result", "shown"),
    [
        ({"value": 0.01558, "unit": "seconds"}, "0.0156 s"),
        ({"value": 455.3, "unit": "MB"}, "455 MB"),
        ({"value": 0.9506, "unit": "share"}, "95.1 %"),
        ({"value": -0.1892, "unit": "share"}, "-18.9 %"),
        ({"value": 1.349e-08, "unit": "probability"}, "1.35e-08"),
        ({"value": 3.26, "unit": "ratio"}, "3.26"),
    ],
)
def test_a_value_is_written_once_and_written_again(result, shown):
    new = filled("| x | <!-- name --> not yet measured times |", {"name": result})
    assert new == f"| x | <!-- name --> {shown} times |"
    assert filled(new, {"name": result}) == new
    assert filled(new, {}) == new


def test_words_behind_a_number_stay():
    text = "<!-- a --> 3.26 times as fast, <!-- b --> 0.5 s, <!-- c --> 12 seconds"
    results = {name: {"value": 2.0, "unit": "seconds" if name == "b" else "ratio"} for name in "abc"}
    assert filled(text, results) == "<!-- a --> 2 times as fast, <!-- b --> 2 s, <!-- c --> 2 seconds"


def test_every_page_with_a_table_of_figures_names_the_command():
    for page in PAGES:
        text = page.read_text()
        if FIGURE.search(text):
            assert re.search(r"make bench|python -m bench", text), page.name
