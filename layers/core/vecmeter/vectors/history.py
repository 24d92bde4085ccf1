"""The history of maintenance runs, each written down when it begins and finished when it ends.

A run holds an advisory lock for as long as it lives. One that is called running and whose lock is free has died; the
next run that begins says so.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, LiteralString

import psycopg
from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from vecmeter.errors import VecmeterError
from vecmeter.vectors.connection import Connection
from vecmeter.vectors.turns import Turns

_logger = logging.getLogger("vecmeter.maintenance")

RUNS_KEPT = timedelta(days=90)
# First half of the advisory lock of a run; the second is its number.
_RUN_LOCK = 0x766F
_NEWEST = 2**62

_BEGIN: LiteralString = """
    INSERT INTO vecmeter.maintenance_runs (
        task, status, message, figures, started_at, finished_at, project_id, collection
    ) VALUES (
        %(task)s, 'running', 'under way', '{}', %(started_at)s, %(started_at)s, %(project_id)s, %(collection)s
    )
    RETURNING run_id
"""
_LOCK: LiteralString = "SELECT pg_advisory_lock(%s, (%s & 2147483647)::integer)"
_INTERRUPTED: LiteralString = """
    UPDATE vecmeter.maintenance_runs r SET status = 'interrupted', finished_at = %s, message = 'it died'
    WHERE status = 'running' AND NOT EXISTS (
        SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.granted AND l.objsubid = 2
          AND l.classid = %s AND l.objid = (r.run_id & 2147483647)::oid
    )
    RETURNING task, run_id
"""
_FINISH: LiteralString = """
    UPDATE vecmeter.maintenance_runs SET status = %(status)s, message = %(message)s, error = %(error)s,
        figures = %(figures)s, finished_at = %(finished_at)s
    WHERE run_id = %(run_id)s
"""
_WITHDRAW: LiteralString = "DELETE FROM vecmeter.maintenance_runs WHERE run_id = %s"
_FORGET: LiteralString = "DELETE FROM vecmeter.maintenance_runs WHERE started_at < %s"
_COUNT_OLD: LiteralString = "SELECT count(*) FROM vecmeter.maintenance_runs WHERE started_at < %s"
# A run is about a collection if it was asked for it, or did something for it.
_PAGE: LiteralString = """
    SELECT run_id, task, status, message, error, figures, started_at, project_id, collection,
           CASE WHEN status <> 'running' THEN finished_at END AS finished_at
    FROM vecmeter.maintenance_runs
    WHERE run_id < %(before)s
      AND (%(task)s::text IS NULL OR task = %(task)s) AND (%(status)s::text IS NULL OR status = %(status)s)
      AND (
        %(project_id)s::text IS NULL OR figures @> %(figures)s
        OR project_id = %(project_id)s AND (%(collection)s::text IS NULL OR collection = %(collection)s)
      )
    ORDER BY run_id DESC LIMIT %(limit)s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run of a task. ``status``: ``running``, ``ok``, ``error``, or ``interrupted``: it died.

    ``project_id``, ``collection``: what it was asked for alone.
    """

    run_id: int
    task: str
    status: str
    message: str
    error: str | None
    figures: dict[str, Any]
    started_at: datetime
    finished_at: datetime | None
    project_id: str | None
    collection: str | None


class RunUnderWay:
    """A run that was begun. Where the database was away, it is not in the history until it is finished."""

    def __init__(self, turns: Turns, task: str, started_at: datetime, of: Mapping[str, Any]) -> None:
        self._turns = turns
        self._session = ExitStack()
        self._run_id: int | None = None
        self._row = {
            "task": task,
            "started_at": started_at,
            "project_id": of.get("project_id"),
            "collection": of.get("collection"),
        }

    def begin(self) -> None:
        try:
            connection = self._session.enter_context(self._turns.connect())
            self._run_id = self._insert(connection)
            died = connection.execute(_INTERRUPTED, [self._row["started_at"], _RUN_LOCK]).fetchall()
        except (VecmeterError, psycopg.Error):
            _logger.exception("run not recorded", extra={"task": self._row["task"]})
            self.leave()
            return
        for task, run_id in died:
            _logger.error("run was interrupted", extra={"task": task, "run_id": run_id})

    def finish(self, outcome: Mapping[str, Any], finished_at: datetime) -> None:
        """Write down what came of it; collections for which there was nothing to do are left out."""
        figures = {name: value for name, value in outcome.items() if name not in ("status", "message", "error")}
        if "collections" in figures:
            figures["collections"] = [c for c in figures["collections"] if c.get("action") != "none"]
        parameters = {
            "status": outcome["status"],
            "message": outcome["message"],
            "error": outcome.get("error"),
            "figures": Jsonb(figures),
            "finished_at": finished_at,
        }
        try:
            # Not its own session, which may have been lost since; the lock is held until this is done.
            with self._turns.connect() as connection:
                run_id = self._insert(connection) if self._run_id is None else self._run_id
                connection.execute(_FINISH, {"run_id": run_id, **parameters})
        except (VecmeterError, psycopg.Error):
            _logger.exception("run not recorded", extra={"task": self._row["task"]})
        self.leave()

    def withdraw(self) -> None:
        """Nothing was run."""
        if self._run_id is not None:
            with self._turns.connect() as connection:
                connection.execute(_WITHDRAW, [self._run_id])
        self.leave()

    def leave(self) -> None:
        """Let go of the lock: a run that is not finished by now counts as interrupted."""
        with suppress(VecmeterError, psycopg.Error):
            self._session.close()

    def _insert(self, connection: Connection) -> int:
        """Nobody sees the row before its lock is held."""
        with connection.transaction():
            row = connection.execute(_BEGIN, self._row).fetchone()
            assert row is not None, "RETURNING a row that was inserted"
            connection.execute(_LOCK, [_RUN_LOCK, row[0]])
        return int(row[0])


class History:
    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def begin(self, task: str, started_at: datetime, of: Mapping[str, Any]) -> RunUnderWay:
        """Write down that a run begins. ``of``: its options, ``project_id`` and ``collection`` among them."""
        run = RunUnderWay(self._turns, task, started_at, of)
        run.begin()
        return run

    def page(
        self,
        *,
        before: int = _NEWEST,
        limit: int,
        task: str | None = None,
        status: str | None = None,
        project_id: str | None = None,
        collection: str | None = None,
    ) -> list[Run]:
        """Newest first: up to ``limit`` runs with numbers below ``before``, of these."""
        of = {"project_id": project_id, "collection": collection}
        wanted = {name: value for name, value in of.items() if value is not None}
        parameters = {"before": before, "limit": limit, "task": task, "status": status, **of}
        with self._turns.connect() as connection:
            cursor = connection.cursor(row_factory=class_row(Run))
            return cursor.execute(_PAGE, parameters | {"figures": Jsonb({"collections": [wanted]})}).fetchall()

    def count_old(self, now: datetime) -> int:
        """How many runs are past use."""
        with self._turns.connect() as connection:
            row = connection.execute(_COUNT_OLD, [now - RUNS_KEPT]).fetchone()
        assert row is not None, "an aggregate always answers"
        return int(row[0])

    def forget(self, now: datetime) -> int:
        """Delete runs that are past use; returns how many."""
        with self._turns.connect() as connection:
            return connection.execute(_FORGET, [now - RUNS_KEPT]).rowcount
