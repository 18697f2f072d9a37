"""Ledgers of any length, in a file and on a real server."""

import datetime as dt
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import create_engine, insert, select
from sqlalchemy.pool import NullPool
from tests.servers import postgres_server

from expnb.ledger import entry as module
from expnb.ledger.store import START, TABLE

NOW = dt.datetime(2026, 3, 1, 12, tzinfo=dt.UTC)


def fill(ledger, bodies, kind="look"):
    """Append many bodies in one transaction: as `append` does it, without its wait for the disk after each."""
    time = module.time_text(NOW)
    rows = []
    with ledger._store.appending() as connection:
        last = connection.execute(select(TABLE).order_by(TABLE.c.seq.desc()).limit(1)).first()
        seq, previous = (last.seq, last.hash) if last else (0, START)
        for body in bodies:
            seq, text = seq + 1, module.body_text(body)
            entry_hash = module.hash_entry(seq, kind, 1, time, time, text, previous)
            rows.append(dict(zip(TABLE.c.keys(), (seq, kind, 1, time, time, text, previous, entry_hash), strict=True)))
            previous = entry_hash
        if rows:
            connection.execute(insert(TABLE), rows)


@pytest.fixture(name="fill", scope="session")
def fill_fixture():
    """A function that appends many bodies at once."""
    return fill


# --- a ledger in every place -----------------------------------------------------------------


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A PostgreSQL of its own, in a folder that other users may enter."""
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory(prefix="expnb-tests-") as name:
        Path(name).chmod(0o755)
        with postgres_server(Path(name, "postgres"), "ledgers in PostgreSQL") as server:
            yield server


_numbers = count(1)


@dataclass
class Place:
    """Where a ledger is, and how to get at its table behind its back."""

    name: str
    url: str  # of SQLAlchemy

    @contextmanager
    def raw(self):
        """A connection of somebody who knows the database."""
        engine = create_engine(self.url, poolclass=NullPool)
        with engine.begin() as connection:
            yield connection

    def take_fences_down(self):
        with self.raw() as connection:
            if self.url.startswith("sqlite"):
                for fence in ("ledger_no_update", "ledger_no_delete", "ledger_in_order"):
                    connection.exec_driver_sql(f"DROP TRIGGER {fence}")
            else:
                connection.exec_driver_sql("ALTER TABLE ledger DISABLE TRIGGER USER")


def server_place(server, monkeypatch):
    schema = f"team_{next(_numbers)}"
    bare = server.url.replace("postgresql://", "postgresql+psycopg://")
    with Place("postgresql", bare).raw() as connection:
        connection.exec_driver_sql(f"CREATE SCHEMA {schema}")
    monkeypatch.setenv("TEAM_LEDGER", f"{server.url}?options=-csearch_path%3D{schema}")
    return Place("postgresql", f"{bare}?options=-csearch_path%3D{schema}")


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request, tmp_path, monkeypatch):
    """A place for a ledger that was not begun; its connection is called TEAM_LEDGER."""
    if request.param == "postgresql":
        return server_place(request.getfixturevalue("server"), monkeypatch)
    url = f"sqlite:///{tmp_path / 'team' / 'ledger.sqlite'}"
    monkeypatch.setenv("TEAM_LEDGER", url)
    return Place("sqlite", url)


@pytest.fixture
def on_server(server, monkeypatch):
    """A place on the server."""
    return server_place(server, monkeypatch)
