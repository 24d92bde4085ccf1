"""The local stack: PostgreSQL, the DynamoDB emulator and the workers that serve HTTP, up until asked to stop."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg.conninfo import conninfo_to_dict

from vecmeter_local.data_folder import DataFolder
from vecmeter_local.disk_space import DiskSpace
from vecmeter_local.emulator import DynamoDbEmulator
from vecmeter_local.environment import composition_environment
from vecmeter_local.postgres import PostgresServer
from vecmeter_local.processes import Child
from vecmeter_local.scheduler import Scheduler
from vecmeter_local.server import listen, url_of, wait_until_ready
from vecmeter_local.stops import StopRequests
from vecmeter_local.supervision import Part, Supervision
from vecmeter_local.worker import Worker

if TYPE_CHECKING:
    from mypy_boto3_dynamodb import DynamoDBClient

    from vecmeter.runtime import Runtime
    from vecmeter.settings import Settings

_WATCH_SECONDS = 0.2
_ADMIN_KEY = "admin-key.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class StackOptions:
    host: str
    port: int
    data_dir: Path
    demo: bool
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningStack:
    """What stack.json says; scripts rely on exactly these names."""

    url: str
    admin_key: str
    postgres_dsn: str
    dynamodb_endpoint: str
    table_name: str
    pid: int


def run_stack(options: StackOptions, stops: StopRequests) -> None:
    """Start everything, serve until a stop is asked for, and stop everything in the opposite order.

    Raises:
        LocalStackError: a part did not start, or ended again and again while the stack was up.
        StopRequestedError: a stop was asked for before the stack was up.
    """
    started = time.monotonic()
    folder = DataFolder(options.data_dir.resolve())
    with ExitStack() as parts:
        folder.refuse_if_held()
        listener = parts.enter_context(listen(options.host, options.port))
        parts.callback(os.close, folder.lock())
        folder.stack_file.unlink(missing_ok=True)
        services = _start_services(options, folder, parts, stops)
        runtime = _compose(parts, stops)
        admin_key = _ensure_admin_key(runtime, folder)
        workers = _start_workers(options.workers, folder, listener, parts, stops)
        stack = RunningStack(
            url=url_of(listener),
            admin_key=admin_key,
            postgres_dsn=os.environ["DATABASE_URL"],
            dynamodb_endpoint=os.environ["AWS_ENDPOINT_URL_DYNAMODB"],
            table_name=os.environ["TABLE_NAME"],
            pid=os.getpid(),
        )
        folder.write(folder.stack_file.name, asdict(stack))
        parts.callback(folder.stack_file.unlink, missing_ok=True)
        seconds = time.monotonic() - started
        print(f"Vecmeter is up at {stack.url} after {seconds:.1f} s; data in {folder.path}", flush=True)
        print(_summary(runtime.settings, options.workers), flush=True)
        _start_scheduler(runtime, folder, parts)
        if options.demo:
            _start_demo(stack, folder, parts, stops)
        else:
            print("Ctrl-C stops it.", flush=True)
        _watch([*services, *workers], folder, stops)
        print("\nStopping ...", file=sys.stderr)


def _start_services(options: StackOptions, folder: DataFolder, parts: ExitStack, stops: StopRequests) -> list[Part]:
    """Start the services the environment does not name, and complete the environment; those that were started."""
    started: list[Part] = []
    database_url = os.environ.get("DATABASE_URL", "")
    if not database_url:
        postgres = PostgresServer(folder.path)
        parts.callback(postgres.stop)
        stops.hasten_with(lambda: _signal(postgres.child, signal.SIGQUIT))
        database_url = postgres.start()
        DiskSpace(folder.path, database_url).require()
        started.append(postgres)
    else:
        named = conninfo_to_dict(database_url)
        print(f"DATABASE_URL is set: using database {named.get('dbname')} of {named.get('host')}.", flush=True)
    stops.check()
    endpoint = os.environ.get("AWS_ENDPOINT_URL_DYNAMODB", "")
    emulated = not endpoint
    if emulated:
        emulator = DynamoDbEmulator(folder.path)
        parts.callback(emulator.stop)
        endpoint = emulator.start()
        started.append(emulator)
    else:
        print(f"AWS_ENDPOINT_URL_DYNAMODB is set: using the DynamoDB at {endpoint}.", flush=True)
    environment = composition_environment(
        os.environ,
        database_url=database_url,
        dynamodb_endpoint=endpoint,
        emulated=emulated,
        # A line per request would tear the demo's progress bar.
        log_level="WARNING" if options.demo else "INFO",
    )
    # boto3 and Powertools read the process's own environment.
    os.environ.clear()
    os.environ.update(environment)
    stops.check()
    return started


def _compose(parts: ExitStack, stops: StopRequests) -> Runtime:
    """Migrate, create the table when it is missing, and wire the runtime."""
    # Imported here: they read the environment, which is complete only now.
    from vecmeter.ledger.table import create_client, create_table
    from vecmeter.logs import configure_logging
    from vecmeter.runtime import build_runtime
    from vecmeter.settings import Settings
    from vecmeter.vectors.migrations.runner import migrate

    settings = Settings.from_environment(os.environ)
    configure_logging(settings.log_level, settings.log_format, "local")
    migrate(settings.database_url)
    client = create_client()
    if not _table_exists(client, settings.table_name):
        create_table(client, settings.table_name)
    client.close()
    stops.check()
    runtime = build_runtime(settings)
    parts.callback(runtime.close)
    return runtime


def _table_exists(client: DynamoDBClient, name: str) -> bool:
    try:
        client.describe_table(TableName=name)
    except client.exceptions.ResourceNotFoundException:
        return False
    return True


def _ensure_admin_key(runtime: Runtime, folder: DataFolder) -> str:
    """The secret of a system admin key that authenticates; the kept one, or a new one."""
    from vecmeter.errors import AuthenticationError
    from vecmeter.ledger.keys import parse_secret

    kept = folder.read(_ADMIN_KEY)
    if kept is not None:
        try:
            runtime.keys.authenticate(parse_secret(str(kept["key"])))
        except (AuthenticationError, KeyError):
            pass
        else:
            return str(kept["key"])
    created = runtime.policies.create_key(
        user_id="system", project_id=None, roles=("admin", "search", "write"), name="local admin"
    )
    folder.write(_ADMIN_KEY, {"api_key_id": created.key.api_key_id, "key": created.secret})
    return created.secret


def _start_workers(
    count: int, folder: DataFolder, listener: socket.socket, parts: ExitStack, stops: StopRequests
) -> list[Worker]:
    """Start the workers; back when the first of them answers."""
    workers = [Worker(folder.path, number, listener) for number in range(1, count + 1)]
    parts.callback(_stop_workers, workers, listener)
    for worker in workers:
        stops.hasten_with(worker.hasten)
        worker.start()
    wait_until_ready(listener, lambda: _any_alive(workers) and not stops.stopping.is_set())
    stops.check()
    return workers


def _stop_workers(workers: Sequence[Worker], listener: socket.socket) -> None:
    listener.close()  # with theirs the last: new connections are refused
    with ThreadPoolExecutor(len(workers)) as executor:
        list(executor.map(Worker.stop, workers))


def _any_alive(workers: Sequence[Worker]) -> bool:
    return any(worker.child is not None and worker.child.alive() for worker in workers)


def _start_scheduler(runtime: Runtime, folder: DataFolder, parts: ExitStack) -> None:
    from vecmeter.tasks import SCHEDULE, run_task

    scheduler = Scheduler(
        folder, SCHEDULE, lambda name: run_task(runtime, name, {}), lambda line: print(line, file=sys.stderr)
    )
    parts.callback(scheduler.stop)
    scheduler.start()


def _start_demo(stack: RunningStack, folder: DataFolder, parts: ExitStack, stops: StopRequests) -> None:
    from vecmeter_local.demo import Demo

    demo = Demo(
        url=stack.url,
        prefix=os.environ.get("API_PREFIX", "/v1"),
        admin_key=stack.admin_key,
        folder=folder,
        stopping=stops.stopping,
    )
    thread = threading.Thread(target=demo.run, name="demo", daemon=True)
    parts.callback(thread.join, 10)
    thread.start()


def _watch(parts: Sequence[Part], folder: DataFolder, stops: StopRequests) -> None:
    supervision = Supervision(parts)
    databases = [part for part in parts if isinstance(part, PostgresServer)]
    disk_space = DiskSpace(folder.path, databases[0].dsn()) if databases else None
    while not stops.stopping.wait(_WATCH_SECONDS):
        supervision.look()
        if disk_space is not None:
            disk_space.look()


def _signal(child: Child | None, number: signal.Signals) -> None:
    if child is not None:
        child.signal(number)


def _summary(settings: Settings, workers: int) -> str:
    """What a look at the settings should tell at a start; no secrets."""
    text = f"{workers} worker{'s' if workers > 1 else ''}, {settings.database_pool_size} database connections each"
    return f"{text}, embedder {settings.embedder_provider}, log {settings.log_format} {settings.log_level}"
