"""An append-only log that notices when it was changed, shortened, or replaced by an older copy.

Rows live in one SQLite file; each row's SHA-256 covers its content and the hash before it. A chain alone
cannot tell a shorter past from the present, so a small file beside it (``<log>.counter``) holds how many rows
there are, the hash of the last, and the hash of the whole file. It is renamed into place after SQLite has committed
and before the append returns: a crash in between leaves the log ahead of the counter, which is honest and is
caught up; a log *behind* its counter is an older copy and is refused. The file's hash also covers the bytes between
the rows, so that no byte of it changes unnoticed.

SQLite keeps its rollback journal, not a write-ahead log: between transactions the one file is everything.

What this cannot notice: someone who replaces both files by older ones together. The head hash is therefore
also printed in certificates, where others keep it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import threading
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privacy.accounting.events import canonical_bytes
from privacy.errors import LedgerError

_BUSY_S = 60.0
_SCHEMA = """CREATE TABLE IF NOT EXISTS chain (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL, body TEXT NOT NULL, previous TEXT NOT NULL, hash TEXT NOT NULL
) STRICT"""
_GENESIS = "0" * 64


@dataclass(frozen=True)
class Row:
    """One row: ``hash`` = SHA-256 of the canonical JSON of all the other fields."""

    number: int
    kind: str
    body: dict[str, Any]
    previous: str
    hash: str


@dataclass
class Transaction:
    """The verified rows, and those to append to them; nobody else writes until it ends."""

    rows: list[Row]
    _stored: int = field(init=False)

    def __post_init__(self) -> None:
        self._stored = len(self.rows)

    @property
    def appended(self) -> list[Row]:
        """The rows that are not in the file yet."""
        return self.rows[self._stored :]

    def append(self, kind: str, body: dict[str, Any]) -> Row:
        """Adds a row; it is durable once the transaction has ended without an exception."""
        number, previous = len(self.rows), self.rows[-1].hash if self.rows else _GENESIS
        row = Row(number, kind, body, previous, _digest(number, kind, body, previous))
        self.rows.append(row)
        return row


class ChainedLog:
    """The log in a file, or in memory for simulations.

    Args:
        path: of the SQLite file, or None for memory.
        create: make an empty log if there is none.

    Raises:
        LedgerError: there is no log and ``create`` is False, or one of the two files is missing.
    """

    def __init__(self, path: Path | None, *, create: bool = True) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._memory = (
            sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
            if path is None
            else None
        )
        if path is not None:
            _prepare_files(path, _counter_path(path), create)

    @contextmanager
    def transaction(self) -> Generator[Transaction]:
        """Verifies everything, gives the rows, and writes what was appended, all under one exclusive lock.

        Two processes on one file take turns, so nobody decides on rows that are not the last ones. An
        exception inside appends nothing.

        Raises:
            LedgerError: naming the first row that cannot be trusted, or what is wrong with the files.
        """
        try:
            with self._lock, self._connection() as database:
                with _exclusive(database):
                    transaction = Transaction(self._verified_rows(database))
                    yield transaction
                    for row in transaction.appended:
                        fields = (
                            row.number,
                            row.kind,
                            canonical_bytes(row.body).decode(),
                            row.previous,
                            row.hash,
                        )
                        database.execute("INSERT INTO chain VALUES (?, ?, ?, ?, ?)", fields)
                if transaction.appended and self._path is not None:
                    self._advance_counter(database, _counter_path(self._path))
        except sqlite3.Error as error:
            raise LedgerError(f"the ledger {self._path or 'in memory'} cannot be used: {error}") from error

    @contextmanager
    def _connection(self) -> Generator[sqlite3.Connection]:
        # A connection for each transaction: none is ever shared between threads or carried through a fork.
        if self._memory is not None:
            self._memory.execute(_SCHEMA)
            yield self._memory
            return
        address = (
            f"{self._path.absolute().as_uri()}?mode=rw" if self._path else ""
        )  # a file that vanished stays so
        with closing(sqlite3.connect(address, uri=True, isolation_level=None, timeout=_BUSY_S)) as database:
            database.execute(
                "PRAGMA synchronous = EXTRA"
            )  # durable on return, the journal's directory included
            database.execute(_SCHEMA)
            yield database

    def _verified_rows(self, database: sqlite3.Connection) -> list[Row]:
        rows: list[Row] = []
        # All at once: a half-read statement, kept alive by an exception's traceback, would keep its lock.
        query = "SELECT number, kind, body, previous, hash FROM chain ORDER BY number"
        stored = database.execute(query).fetchall()
        for position, fields in enumerate(stored):
            rows.append(_verified_row(position, rows[-1].hash if rows else _GENESIS, fields))
        if self._path is not None:
            _check_counter(rows, _file_digest(database), _counter_path(self._path))
        return rows

    def _advance_counter(self, database: sqlite3.Connection, counter: Path) -> None:
        # In a transaction of its own, so that a slower process cannot put an older count over a newer one.
        with _exclusive(database):
            newest = "SELECT number, hash FROM chain ORDER BY number DESC LIMIT 1"
            number, head = database.execute(newest).fetchone()
            _write_counter(counter, int(number) + 1, str(head), _file_digest(database))


@contextmanager
def _exclusive(database: sqlite3.Connection) -> Generator[None]:
    database.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        database.execute("ROLLBACK")
        raise
    database.execute("COMMIT")


def _digest(number: int, kind: str, body: dict[str, Any], previous: str) -> str:
    document = {"number": number, "kind": kind, "body": body, "previous": previous}
    return hashlib.sha256(canonical_bytes(document)).hexdigest()


def _verified_row(position: int, previous: str, fields: tuple[int, str, str, str, str]) -> Row:
    number, kind, text, stated_previous, stated_hash = fields
    if number != position:
        raise LedgerError(
            f"row {position} of the ledger is missing (row {number} follows row {position - 1})"
        )
    body = _canonical_object(text)
    if body is None or stated_previous != previous or stated_hash != _digest(number, kind, body, previous):
        raise LedgerError(f"row {position} of the ledger was changed: its hash does not match its content")
    return Row(number, kind, body, previous, stated_hash)


def _canonical_object(text: object) -> dict[str, Any] | None:
    """Parses a JSON object; None unless it is spelled in the one way that is hashed."""
    if not isinstance(text, str) or not text.startswith("{"):
        return None
    try:
        body = json.loads(text)
        return body if canonical_bytes(body).decode() == text else None
    except ValueError:
        return None


def _file_digest(database: sqlite3.Connection) -> str:
    """SHA-256 of the file as SQLite holds it.

    Not read through another descriptor: closing that would drop this process's locks on the file
    (https://www.sqlite.org/howtocorrupt.html, section 2.2).
    """
    return hashlib.sha256(database.serialize()).hexdigest()


def _check_counter(rows: list[Row], file: str, counter: Path) -> None:
    """Compares the rows with what the counter remembers, and catches up one that a crash left behind."""
    if not rows and not counter.exists():
        # Before the first row: from here on a log without a counter is never trusted.
        _write_counter(counter, 0, _GENESIS)
        return
    remembered = _read_counter(counter)
    count = remembered.rows
    if len(rows) < count:
        raise LedgerError(
            f"the ledger ends before row {len(rows)}, but {count} were written: an older or shortened copy"
        )
    if count and rows[count - 1].hash != remembered.head:
        raise LedgerError(
            f"row {count - 1} of the ledger is not the one its counter remembers: another history"
        )
    if count < len(rows):
        _write_counter(counter, len(rows), rows[-1].hash, file)
    elif remembered.file is not None and remembered.file != file:
        raise LedgerError(
            "the ledger file was changed outside of its rows (another program wrote to it, or a byte flipped): "
            "restore it from a copy of the same age"
        )


def _counter_path(path: Path) -> Path:
    return path.with_name(path.name + ".counter")


def _prepare_files(path: Path, counter: Path, create: bool) -> None:
    if not path.exists() and counter.exists() and (rows := _read_counter(counter).rows) > 0:
        raise LedgerError(f"{path} is missing, but its counter remembers {rows} rows: restore the ledger")
    if not create and not (path.exists() and counter.exists()):
        raise LedgerError(f"there is no ledger at {path}")
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))


@dataclass(frozen=True)
class _Counter:
    rows: int
    head: str
    file: str | None = None  # absent in counters of versions that did not know it yet


def _read_counter(counter: Path) -> _Counter:
    try:
        document = json.loads(counter.read_bytes())
        remembered = _Counter(**document)
    except (OSError, ValueError, TypeError) as error:
        raise LedgerError(
            f"{counter} cannot be read ({error}): the ledger cannot be trusted without it"
        ) from error
    types = type(remembered.rows), type(remembered.head), type(remembered.file)
    if types[:2] != (int, str) or types[2] not in (str, type(None)) or remembered.rows < 0:
        raise LedgerError(f"{counter} holds {document}: it was not written by a ledger")
    return remembered


def _write_counter(counter: Path, rows: int, head: str, file: str | None = None) -> None:
    document = {"rows": rows, "head": head} | ({} if file is None else {"file": file})
    beside = counter.with_name(counter.name + ".new")
    descriptor = os.open(beside, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "wb") as written:
        written.write(canonical_bytes(document))
        written.flush()
        os.fsync(written.fileno())
    beside.replace(counter)
    directory = os.open(counter.parent, os.O_RDONLY)
    try:
        os.fsync(directory)  # the rename itself must survive a power cut
    finally:
        os.close(directory)
