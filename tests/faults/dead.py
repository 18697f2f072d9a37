"""A workspace around which everything is down."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.shop import NAME, Shop


def break_ledger(shop: Shop) -> None:
    """A ledger that is no database any more."""
    for path in shop.ledger_file.parent.glob("ledger.sqlite*"):
        path.unlink()
    shop.ledger_file.write_bytes(b"no database " * 1000)


def move_ledger_to(shop: Shop, connection: str) -> None:
    """The team's ledger in place of the file's."""
    config = shop.root / "expnb.toml"
    config.write_text(f'{config.read_text()}\n[ledger]\nconnection = "{connection}"\n')


@contextmanager
def silent_server() -> Iterator[int]:
    """A port that takes connections and never says a word, as a hanging database does."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(50)
        yield listening.getsockname()[1]


def break_the_rest(shop: Shop) -> None:
    """No metric, no data, no cache can be read."""
    (shop.root / "metrics").mkdir(exist_ok=True)
    (shop.root / "metrics" / "shop.toml").write_text("[[metrics")
    (shop.root / "cohort.parquet").write_bytes(b"PAR1 and nothing else")


def break_glass_command(shop: Shop) -> None:
    """What an operator types, as a process of its own."""
    words = ["kill", NAME, "--break-glass", "--environment", shop.environment, "--as", "ana"]
    call = "import sys; from expnb.cli import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", call, *words, "--workspace", str(shop.root)],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
