"""How a collection is made, by whichever route."""

from __future__ import annotations

from dataclasses import dataclass

from vecmeter.errors import LedgerUnavailableError, ProjectBeingDeletedError
from vecmeter.http.idempotency import WriteCall
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import Collection, EmbedderDefinition, IndexDefinition, Metric, Storage
from vecmeter.vectors.terms import Terms


@dataclass(frozen=True, slots=True, kw_only=True)
class NewCollection:
    """What a collection is to be."""

    name: str
    dimension: int
    metric: Metric
    index: IndexDefinition
    embedder: EmbedderDefinition | None
    options: Options


def create_collection(project: str, wanted: NewCollection, call: WriteCall, on: Terms) -> Collection:
    """Make a collection in a project.

    Raises:
        CollectionExistsError: the project has one of that name.
        ProjectBeingDeletedError: it is to have none any more.
        AnsweredBefore, LimitExceededError: the terms say no.
    """
    created = call.database(
        call.runtime.collections.create,
        project,
        wanted.name,
        dimension=wanted.dimension,
        metric=wanted.metric,
        index=wanted.index,
        embedder=wanted.embedder,
        options=wanted.options,
        on=on,
    )
    _keep_only_in_a_project(project, wanted.name, call)
    return created


def default_storage(metric: Metric) -> Storage:
    """Half precision where only direction counts; lengths and products may be beyond its range."""
    return Storage.HALF if metric is Metric.COSINE else Storage.FLOAT


def _keep_only_in_a_project(project: str, collection: str, call: WriteCall) -> None:
    """Take a new collection back if its project is being deleted, by somebody who may not have seen it.

    Raises ProjectBeingDeletedError.
    """
    try:
        if call.runtime.projects.is_open(project):
            return
    except LedgerUnavailableError:
        return  # the work is done, and the ledger's failing now does not undo it
    call.database(call.runtime.collections.drop, project, collection, even_protected=True)
    raise ProjectBeingDeletedError(f"Project {project!r} is being deleted.")
