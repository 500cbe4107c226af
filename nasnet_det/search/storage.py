"""Storage of studies: database URLs, connections, and database errors in one line."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import RDBStorage
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import SQLAlchemyError

from nasnet_det.safe_io.values import first_line

_CONNECT_SECONDS = 10
#: The modules that connect to a server, for a URL that names none: the first that is installed.
_DRIVERS = {"postgresql": ("psycopg", "psycopg2"), "mysql": ("mysqldb", "pymysql")}
_MODULES = {"mysqldb": "MySQLdb"}
#: The ends of SQLite files that may be given by their path; Optuna keeps a ``.log`` in another form.
_SQLITE = (".db", ".db3", ".sqlite", ".sqlite3")


class StudyError(RuntimeError):
    """A study that is unusable or not writable; the message says what to do."""


def storage_url(storage: str | Path) -> URL:
    """Return the URL of a database: the given one, or that of an SQLite file.

    Raises:
        StudyError: if it is not a URL of a database that Optuna can keep a study in, or one in memory.
    """
    if isinstance(storage, Path) or ("://" not in storage and storage.endswith(_SQLITE)):
        return URL.create("sqlite", database=str(Path(storage).absolute()))
    try:
        url = make_url(storage)
        url.get_dialect()
        installed = [name for name in _DRIVERS.get(url.drivername, ()) if find_spec(_MODULES.get(name, name))]
        url = url.set(drivername=f"{url.drivername}+{installed[0]}") if installed else url
    except SQLAlchemyError:
        raise StudyError(
            f"{storage!r} is not a database URL: expected postgresql://USER:PASSWORD@HOST/DATABASE, "
            "mysql://USER:PASSWORD@HOST/DATABASE, sqlite:///FILE or FILE.db"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise StudyError(f"{storage!r} is a database in memory, which ends with the command: expected sqlite:///FILE")
    if url.get_backend_name() == "sqlite" and url.database and url.database.startswith("~/"):
        url = url.set(database=str(Path(url.database).expanduser()))
    return url


def format_url(url: URL) -> str:
    """Return a URL without its password, an SQLite file's path alone."""
    return str(url.database) if url.drivername == "sqlite" else url.render_as_string(hide_password=True)


def connect(url: URL, reading: bool = False) -> RDBStorage:
    """Return Optuna's storage at a URL; the folder of an SQLite file is created.

    Args:
        url: the database's.
        reading: True if nothing will be written, so that an SQLite file may be where nothing can be.
    """
    arguments: dict[str, Any] = {}
    if url.get_backend_name() == "sqlite":
        arguments = {"timeout": 60}
        if url.database and not url.database.startswith("file:"):
            path = Path(url.database).absolute()
            read_only = reading and _is_read_only(path)
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            options = {"mode": "ro", "immutable": "1"} if read_only else {}
            # As SQLite's own address: SQLAlchemy 2.0 takes a question mark in a path for its end.
            url = url.set(database=f"file:{quote(str(path))}", query={**url.query, **options, "uri": "true"})
    elif url.get_backend_name() in ("postgresql", "mysql"):
        arguments = {"connect_timeout": _CONNECT_SECONDS}
    make = partial(RDBStorage, url.render_as_string(hide_password=False))
    engine = {"connect_args": arguments, "pool_pre_ping": True}
    try:
        backend = make(engine_kwargs=dict(engine))
    except (SQLAlchemyError, StorageInternalError) as error:
        words = f"{error} {error.__cause__}"
        if "already exists" not in words and "UNIQUE" not in words.upper():
            raise
        time.sleep(1)  # until another process that is making the tables is done
        backend = make(engine_kwargs=dict(engine))
    if url.get_backend_name() == "sqlite" and "immutable" not in url.query:
        sqlalchemy.event.listen(backend.engine, "connect", _tune_sqlite)
        backend.engine.dispose()
    return backend


def _is_read_only(file: Path) -> bool:
    """Return whether SQLite cannot write to a file and make its log beside it.

    Raises:
        StudyError: if trials are in a log that only a writer can read.
    """
    if os.access(file, os.W_OK) and os.access(file.parent, os.W_OK):
        return False
    log = file.with_name(f"{file.name}-wal")
    if log.is_file() and log.stat().st_size:
        raise StudyError(f"{file} is read-only, and its last trials are still in {log.name}: copy both, and read those")
    return True


def _tune_sqlite(connection: Any, _: Any) -> None:
    # A search writes often and little. With a write-ahead log a commit need not wait for the disk: a killed process
    # loses nothing, a power failure at most the last trials, and never the file.
    # Not every file system can do that.
    if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] == "wal":
        connection.execute("PRAGMA synchronous=NORMAL")


@contextmanager
def storage_errors(url: URL) -> Iterator[None]:
    """Turn errors of a database into a :class:`StudyError` of one line."""
    try:
        yield
    except ImportError as error:
        raise StudyError(f"{format_url(url)}: its driver is not installed ({first_line(error)})") from None
    except (UpdateFinishedTrialError, KeyError) as error:
        raise StudyError(
            f"another program has ended a trial of this search, or deleted the study, in {format_url(url)}: "
            f"{first_line(error)}; run the same command again"
        ) from None
    except (SQLAlchemyError, StorageInternalError, OSError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        words = first_line(getattr(cause, "orig", None) or cause)
        is_file = url.get_backend_name() == "sqlite"
        advice = "is it an SQLite file, on a disk with room?" if is_file else "is it there and running?"
        if _full(words):
            advice = "free space on its disk, then run the same command again"
        raise StudyError(f"the study's database {format_url(url)} cannot be used: {words}; {advice}") from None


def _full(words: str) -> bool:
    return any(sign in words.lower() for sign in ("full", "no space", "quota"))
