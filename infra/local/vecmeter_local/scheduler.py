"""Runs the maintenance tasks at the rates of the deployed schedule."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from vecmeter_local.data_folder import DataFolder

_FILE = "schedule.json"
_LOOK_EVERY_SECONDS = 5.0

RunTask = Callable[[str], Mapping[str, Any]]


class Scheduler:
    """A thread that runs each task when its time has come.

    When each last ran is kept in the data folder: a stack that is up for an hour a day gets its daily tasks too.

    Args:
        schedule: task name -> seconds between two runs.
        run: runs one task; its result carries ``status``.
        report: takes a line about a task that failed.
    """

    def __init__(
        self, folder: DataFolder, schedule: Mapping[str, int], run: RunTask, report: Callable[[str], None]
    ) -> None:
        self._folder = folder
        self._schedule = schedule
        self._run = run
        self._report = report
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="scheduler", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No further task; one that runs gets 5 s, then it ends with its database connection."""
        self._stopping.set()
        self._thread.join(5)

    def _work(self) -> None:
        last = self._folder.read(_FILE) or {}
        # A new stack has nothing to maintain yet: its first runs are one interval away.
        last = {name: last.get(name, time.time()) for name in self._schedule}
        self._folder.write(_FILE, last)
        while not self._stopping.wait(_LOOK_EVERY_SECONDS):
            for name, interval in self._schedule.items():
                if self._stopping.is_set():
                    return
                if time.time() - last[name] >= interval:
                    last[name] = time.time()
                    self._run_one(name)
                    self._folder.write(_FILE, last)

    def _run_one(self, name: str) -> None:
        try:
            result = self._run(name)
        except Exception as error:  # noqa: BLE001 - whatever a task raises, the others go on
            if not self._stopping.is_set():
                self._report(f"maintenance task {name} failed: {error}")
            return
        if result.get("status") != "ok":
            self._report(f"maintenance task {name}: {dict(result)}")
