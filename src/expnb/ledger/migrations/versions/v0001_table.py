"""The table of entries, and its fences."""

from __future__ import annotations

revision = "0001"
down_revision = None

# The chain of hashes is the proof; the triggers are only a second fence, against a careless statement.
# In SQLite, INSERT OR REPLACE deletes without asking a DELETE trigger, so inserts are fenced too.
STATEMENTS = {
    "sqlite": (
        """CREATE TABLE ledger (
    seq INTEGER NOT NULL,
    kind TEXT NOT NULL,
    schema INTEGER NOT NULL,
    happened_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (seq)
)""",
        "CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        "CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        """CREATE TRIGGER ledger_in_order BEFORE INSERT ON ledger
    WHEN NEW.seq IS NOT (SELECT coalesce(max(seq), 0) + 1 FROM ledger)
      OR NEW.previous IS NOT coalesce((SELECT hash FROM ledger ORDER BY seq DESC LIMIT 1), hex(zeroblob(32)))
    BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END""",
    ),
    "postgresql": (
        """CREATE TABLE ledger (
    seq BIGINT NOT NULL,
    kind TEXT NOT NULL,
    schema INTEGER NOT NULL,
    happened_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL,
    body TEXT NOT NULL,
    previous TEXT NOT NULL,
    hash TEXT NOT NULL,
    PRIMARY KEY (seq)
)""",
        """CREATE FUNCTION ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the ledger is append-only';
END $$""",
        # The lock is that of a writer: whoever inserts without it waits here, and then sees what the writer wrote.
        """CREATE FUNCTION ledger_in_order() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    newest record;
BEGIN
    PERFORM pg_advisory_xact_lock(7306091418205);
    EXECUTE 'SELECT seq, hash FROM ' || TG_RELID::regclass || ' ORDER BY seq DESC LIMIT 1' INTO newest;
    IF NEW.seq <> coalesce(newest.seq, 0) + 1 OR NEW.previous <> coalesce(newest.hash, repeat('0', 64)) THEN
        RAISE EXCEPTION 'the ledger is append-only';
    END IF;
    RETURN NEW;
END $$""",
        "CREATE TRIGGER ledger_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger FOR EACH STATEMENT EXECUTE FUNCTION ledger_append_only()",
        "CREATE TRIGGER ledger_in_order BEFORE INSERT ON ledger FOR EACH ROW EXECUTE FUNCTION ledger_in_order()",
    ),
}


def upgrade() -> None:
    """Run by Alembic."""
    from alembic import op  # noqa: PLC0415 - 1 s, and a new ledger is made without it

    for statement in STATEMENTS[op.get_bind().dialect.name]:
        op.get_bind().exec_driver_sql(statement)
