"""Projects: who owns them, and how they end.

A project's item is never removed. One that was deleted is marked, and its id stays its user's: bills and records name
projects by id, and whatever a request that was under way left behind must not come to somebody else.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from vecmeter.errors import (
    LedgerUnavailableError,
    ProjectBeingDeletedError,
    ProjectExistsError,
    ProjectNotEmptyError,
    ProjectNotFoundError,
)
from vecmeter.ledger import transactions
from vecmeter.ledger.audit import OPERATOR, Actor, AuditLog, Target
from vecmeter.ledger.encoding import Item
from vecmeter.ledger.model import Clock, Project, epoch_ms
from vecmeter.ledger.table import WRITE_ATTEMPTS, ConditionFailed, Table
from vecmeter.ledger.transactions import Write

_DIRECTORY = "DIRECTORY#PROJECT"
_LAST = "\x7f"  # sorts after every character an id may have
# How long a project stays closed to new keys and collections when whoever closed it died of it.
_CLOSED = timedelta(seconds=60)
# The deletion itself must be through before the project opens again, its repetitions (12.2 s) included.
_MARGIN = timedelta(seconds=30)
# Changes of one project that may get in the way of another.
_CHANGE_TRIES = 20
# Things that are named when they are in the way.
_NAMED = 10
# Not deleted, and nobody is about to.
_IS_OPEN = "attribute_not_exists(x) AND (attribute_not_exists(c) OR c < :now)"


class Projects:
    """Creates, finds, changes and deletes projects."""

    def __init__(self, table: Table, clock: Clock, audit: AuditLog) -> None:
        self._table = table
        self._clock = clock
        self._audit = audit

    def create(self, *, project_id: str, user_id: str, name: str | None, actor: Actor = OPERATOR) -> Project:
        """Create a project. The id of one that was deleted can be used by its user alone.

        Raises:
            ProjectExistsError: the id is taken.
        """
        project = Project(project_id=project_id, user_id=user_id, name=name, created_at=self._clock())
        values: Item = {":user": user_id, ":now": project.created_at.isoformat()}
        try:
            self._table.transact(
                transactions.update(
                    *_address(project_id),
                    update="SET u = :user, created_at = :now, #name = :name REMOVE x"
                    if name is not None
                    else "SET u = :user, created_at = :now REMOVE x, #name",
                    condition="attribute_not_exists(u) OR (attribute_exists(x) AND u = :user)",
                    values={**values, ":name": name},
                    names={"#name": "name"},
                ),
                transactions.insert({"pk": _DIRECTORY, "sk": project_position(project)}),
                *self._audit.writes(actor, "project.create", _target(project), None, _facts(project)),
            )
        except ConditionFailed:
            raise ProjectExistsError(f"Project {project_id!r} exists already.") from None
        return project

    def get(self, project_id: str) -> Project:
        """Raises ProjectNotFoundError: there is none, or it was deleted."""
        return find_project(self._table, project_id)

    def list(self, *, user_id: str | None = None, after: str = "") -> Iterator[Project]:
        """Projects in the order of their listing (user, id), after the position ``after``."""
        prefix = f"{user_id}#" if user_id else ""
        low = max(prefix, after + "\x00") if after else prefix
        for listed in self._table.query(_DIRECTORY, between=(low or " ", prefix + _LAST)):
            try:
                yield self.get(listed["sk"].split("#", 1)[1])
            except ProjectNotFoundError:
                continue  # deleted since the directory was read

    def rename(self, project_id: str, name: str | None, actor: Actor = OPERATOR) -> Project:
        """Give a project another name, or none. Raises ProjectNotFoundError."""
        for _ in range(_CHANGE_TRIES):
            project = self.get(project_id)
            if project.name == name:
                return project
            renamed = replace(project, name=name)
            try:
                self._table.transact(
                    transactions.update(
                        *_address(project_id),
                        update="REMOVE #name" if name is None else "SET #name = :name",
                        # The name is still the one that the record says it was.
                        condition="attribute_exists(u) AND attribute_not_exists(x) AND "
                        + ("attribute_not_exists(#name)" if project.name is None else "#name = :before"),
                        values={":name": name, ":before": project.name},
                        names={"#name": "name"},
                    ),
                    *self._audit.writes(actor, "project.change", _target(project), _facts(project), _facts(renamed)),
                )
            except ConditionFailed:
                continue
            return renamed
        raise LedgerUnavailableError("The project changes too fast; try again shortly.")

    def delete(self, project_id: str, in_use_by: Callable[[], Sequence[str]], actor: Actor = OPERATOR) -> None:
        """Delete a project in which nothing is left.

        It is closed to new keys and collections first, then looked through, then deleted by one transaction: before
        that it works as ever, after it is gone. If this process dies in between, it opens again by itself.

        Args:
            in_use_by: names what is left in the project.

        Raises:
            ProjectNotFoundError, ProjectNotEmptyError
            ProjectBeingDeletedError: by another request.
        """
        project, mark = self.get(project_id), secrets.token_hex(8)
        closed_until = self._close(project, mark)
        try:
            left = in_use_by()
            if left:
                raise ProjectNotEmptyError(f"Project {project_id!r} still has {_named(left)}.")
            if self._clock() > closed_until - _MARGIN:
                raise LedgerUnavailableError("Looking through the project took too long; try again.")
            self._finish(project, mark, actor)
        except Exception:
            self._open(project, mark)
            raise

    def is_open(self, project_id: str) -> bool:
        """Whether something may be made in the project: it is neither deleted nor being looked through for that.

        Whoever makes a thing that no transaction with the project's item can hold asks afterwards, and takes the thing
        back at a no: of the two, who makes and who deletes, one sees the other. A project that never existed passes.
        """
        item = self._table.get(*_address(project_id)) or {}
        return "x" not in item and item.get("c", 0) < epoch_ms(self._clock())

    def while_open(self, project_id: str | None) -> tuple[Write, ...]:
        """A part of the transaction that makes something in a project: it fails unless the project ``is_open``."""
        if project_id is None:
            return ()
        now = {":now": epoch_ms(self._clock())}
        return (transactions.check(*_address(project_id), condition=_IS_OPEN, values=now),)

    def _close(self, project: Project, mark: str) -> datetime:
        now = self._clock()
        until = now + _CLOSED
        try:
            self._table.update(
                *_address(project.project_id),
                update="SET c = :until, k = :mark",
                # The mark: of an earlier try of this very call, whose answer was lost.
                condition=f"attribute_exists(u) AND ({_IS_OPEN} OR (attribute_not_exists(x) AND k = :mark))",
                values={":now": epoch_ms(now), ":until": epoch_ms(until), ":mark": mark},
                attempts=WRITE_ATTEMPTS,
            )
        except ConditionFailed as failure:
            if "x" in (failure.item or {}):
                raise _missing(project.project_id) from None
            raise _being_deleted(project.project_id) from None
        return until

    def _open(self, project: Project, mark: str) -> None:
        """Undo ``_close``. Where that fails, the project opens when its time is over."""
        try:
            self._table.update(
                *_address(project.project_id),
                update="REMOVE c, k",
                condition="k = :mark",
                values={":mark": mark},
                attempts=WRITE_ATTEMPTS,
            )
        except (ConditionFailed, LedgerUnavailableError):
            return

    def _finish(self, project: Project, mark: str, actor: Actor) -> None:
        try:
            self._table.transact(
                transactions.update(
                    *_address(project.project_id),
                    update="SET x = :now REMOVE c, k",
                    # Closed by us and ever since: nothing was made in it after it was looked through.
                    condition="k = :mark AND attribute_not_exists(x)",
                    values={":now": self._clock().isoformat(), ":mark": mark},
                ),
                transactions.delete(_DIRECTORY, project_position(project), condition="attribute_exists(pk)"),
                *self._audit.writes(actor, "project.delete", _target(project), _facts(project), None),
            )
        except ConditionFailed:
            raise _being_deleted(project.project_id) from None


def find_project(table: Table, project_id: str) -> Project:
    """The project, read now. Raises ProjectNotFoundError: there is none, or it was deleted."""
    item = _read(table, project_id)
    return Project(
        project_id=project_id,
        user_id=item["u"],
        name=item.get("name"),
        created_at=datetime.fromisoformat(item["created_at"]),
        limits=item.get("lim", {}),
    )


def project_position(project: Project) -> str:
    """Where a project stands in its list; pass it as ``after`` for the next page."""
    return f"{project.user_id}#{project.project_id}"


def _address(project_id: str) -> tuple[str, str]:
    return f"P#{project_id}", "P"


def _read(table: Table, project_id: str) -> Item:
    item = table.get(*_address(project_id))
    if item is None or "u" not in item or "x" in item:
        raise _missing(project_id)
    return item


def _missing(project_id: str) -> ProjectNotFoundError:
    return ProjectNotFoundError(f"There is no project {project_id!r}.")


def _being_deleted(project_id: str) -> ProjectBeingDeletedError:
    return ProjectBeingDeletedError(f"Project {project_id!r} is being deleted; try again shortly.")


def _named(things: Sequence[str]) -> str:
    more = f" and {len(things) - _NAMED} more" if len(things) > _NAMED else ""
    return ", ".join(things[:_NAMED]) + more


def _target(project: Project) -> Target:
    return Target(kind="project", id=project.project_id, user_id=project.user_id, project_id=project.project_id)


def _facts(project: Project) -> dict[str, str | None]:
    return {"user_id": project.user_id, "name": project.name}
