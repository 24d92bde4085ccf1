"""Running a task for a caller who cannot wait as long as it may take."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from vecmeter.runtime import Runtime
from vecmeter.tasks import Task, check_place, check_task, is_on, run_task

# Of the time a request has, so much is for what comes after the task.
_SPARE_SECONDS = 9


def start_task(runtime: Runtime, name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task as long as a request may wait. Its outcome; or ``status`` ``started``, and the history has the rest.

    A long task is handed over to the maintenance function, where there is one. A server goes on with it in a thread. In
    a function that knows of no other it ends in time, and the schedule does what is left.

    Raises:
        TaskNotFoundError, InvalidRequestError: as ``run_task`` does, before anything is started.
        ProjectNotFoundError, CollectionNotFoundError: what it is about is not there.
        UnavailableError: the maintenance function cannot be invoked.
    """
    task = check_task(name, options, by_api=True)
    check_place(runtime, options)
    seconds = max(1, runtime.settings.request_timeout_seconds - _SPARE_SECONDS)
    if task.is_long and runtime.maintenance_function is not None and not is_on(options, "dry_run"):
        runtime.maintenance_function.start(name, options)
        return _started(name, task)
    if task.is_long and runtime.settings.database_pool_size > 1:
        return _in_thread(runtime, name, task, options, seconds)
    return run_task(runtime, name, options, by_api=True, ends_at=time.monotonic() + seconds)


def _in_thread(runtime: Runtime, name: str, task: Task, options: Mapping[str, Any], seconds: float) -> dict[str, Any]:
    ended: Future[dict[str, Any]] = Future()

    def run() -> None:
        try:
            ended.set_result(run_task(runtime, name, options, by_api=True))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is for who waits
            ended.set_exception(error)

    threading.Thread(target=run, name=f"task {name}", daemon=True).start()
    try:
        return ended.result(seconds)
    except TimeoutError:
        return _started(name, task)


def _started(name: str, task: Task) -> dict[str, Any]:
    message = f"under way: {task.message}; see the history of runs"
    return {"task": name, "status": "started", "message": message, "error": None}
