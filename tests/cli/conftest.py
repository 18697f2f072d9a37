"""Commands as they are typed."""

import pytest

from expnb.cli import main


@pytest.fixture
def run(demo, capsys, monkeypatch):
    """Run a command in the demo workspace; exit code, output, errors."""
    monkeypatch.chdir(demo.root)

    def call(*arguments):
        with pytest.raises(SystemExit) as done:
            main(arguments)
        out, err = capsys.readouterr()
        return done.value.code, out, err

    return call
