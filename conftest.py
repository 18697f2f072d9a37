"""Doctests run in an empty folder of their own."""

import pytest


@pytest.fixture(autouse=True)
def _doctest_folder(request, tmp_path, monkeypatch):
    if type(request.node).__name__ == "DoctestItem":  # pytest exports no name for it
        monkeypatch.chdir(tmp_path)
