"""The rows of ``vecmeter.collections``, which define the collections there are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, LiteralString

from psycopg.rows import RowMaker
from psycopg.types.json import Jsonb

from vecmeter.vectors.connection import Connection
from vecmeter.vectors.model import (
    Collection,
    EmbedderDefinition,
    FieldType,
    FilterableField,
    Hnsw,
    IndexDefinition,
    IndexType,
    Metric,
    Storage,
)

# How long an instance may believe a definition. A collection that was dropped shows itself at once, because its
# tables are gone; what may be late for so long is only how searches go about it.
DEFINITION_SECONDS = 30.0

_COLUMNS: LiteralString = """
    c.collection_id, c.project_id, c.name, c.dimension, c.metric, c.index_type, c.index_m, c.index_ef_construction,
    c.index_storage, c.embedder_provider, c.embedder_model, c.created_at, c.ef_search, c.tuned_ef_search,
    c.target_recall, c.text_search, c.texts_ready, c.filterable, c.deletion_protection, c.tags, c.requested,
    'vector'::regtype::oid::bigint AS vector_oid,
    coalesce(h.hnsw, '[]') AS hnsw
    FROM vecmeter.collections c
    LEFT JOIN LATERAL (
        SELECT jsonb_agg(jsonb_build_object(
            'index_id', h.index_id, 'namespace', h.namespace, 'storage', h.storage, 'm', h.m,
            'ef_construction', h.ef_construction, 'vectors', h.vectors, 'recall', h.recall
        )) AS hnsw
        FROM vecmeter.hnsw_indexes h
        JOIN pg_index i ON i.indexrelid = to_regclass('vecmeter.vectors_' || c.collection_id || '_hnsw_' || h.index_id)
        WHERE h.collection_id = c.collection_id AND h.state = 'ready' AND i.indisvalid
    ) h ON true
"""
# One definition, with the HNSW indexes that may be used.
_FIND: LiteralString = "SELECT " + _COLUMNS + " WHERE c.project_id = %(project_id)s AND c.name = %(name)s"
_LOCK: LiteralString = _FIND + " FOR UPDATE OF c"
_READ: LiteralString = "SELECT " + _COLUMNS + " WHERE c.collection_id = %(collection_id)s"
# A page of a project's definitions, by name.
_PAGE: LiteralString = (
    "SELECT " + _COLUMNS + " WHERE c.project_id = %(project_id)s AND c.name > %(after)s ORDER BY c.name LIMIT %(limit)s"
)
# Every definition there is, for maintenance.
_ALL: LiteralString = "SELECT " + _COLUMNS + " ORDER BY c.collection_id"
_INSERT: LiteralString = """
    INSERT INTO vecmeter.collections (
        project_id, name, dimension, metric, index_type, index_m, index_ef_construction, index_storage,
        embedder_provider, embedder_model, ef_search, target_recall, text_search, filterable, deletion_protection, tags,
        requested
    ) VALUES (
        %(project_id)s, %(name)s, %(dimension)s, %(metric)s, %(index_type)s, %(m)s, %(ef_construction)s, %(storage)s,
        %(provider)s, %(model)s, %(ef_search)s, %(target_recall)s, %(text_search)s, %(filterable)s,
        %(deletion_protection)s, %(tags)s, %(requested)s
    )
"""
# All that may be changed of a definition.
_UPDATE: LiteralString = """
    UPDATE vecmeter.collections SET
        index_type = %(index_type)s, index_m = %(m)s, index_ef_construction = %(ef_construction)s,
        index_storage = %(storage)s, ef_search = %(ef_search)s, target_recall = %(target_recall)s,
        text_search = %(text_search)s, texts_ready = %(texts_ready)s, filterable = %(filterable)s,
        deletion_protection = %(deletion_protection)s, tags = %(tags)s
    WHERE collection_id = %(collection_id)s
"""
_DELETE: LiteralString = """
    WITH forgotten AS (DELETE FROM vecmeter.hnsw_indexes WHERE collection_id = %(collection_id)s)
    DELETE FROM vecmeter.collections WHERE collection_id = %(collection_id)s
"""
_TEXTS_ARE_READY: LiteralString = """
    UPDATE vecmeter.collections SET texts_ready = true
    WHERE collection_id = %s AND text_search = %s
      AND to_regclass('vecmeter.texts_' || collection_id)::oid::bigint = %s
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a collection may have, or not: see ``Collection``. All but ``requested`` may be changed later on."""

    ef_search: int | None = None
    target_recall: float = 0.95
    text_search: str | None = None
    filterable: tuple[FilterableField, ...] = ()
    deletion_protection: bool = False
    tags: Mapping[str, str] = field(default_factory=dict)
    requested: Mapping[str, Any] | None = None


DEFAULTS = Options()


def find(connection: Connection, project_id: str, name: str) -> Collection | None:
    return _one(connection, _FIND, {"project_id": project_id, "name": name})


def lock(connection: Connection, project_id: str, name: str) -> Collection | None:
    """The definition, which nobody else changes or deletes until the end of the transaction."""
    return _one(connection, _LOCK, {"project_id": project_id, "name": name})


def read(connection: Connection, collection_id: int) -> Collection | None:
    return _one(connection, _READ, {"collection_id": collection_id})


def read_page(connection: Connection, project_id: str, *, after: str, limit: int) -> list[Collection]:
    """Up to ``limit`` definitions of a project whose names come after ``after``."""
    parameters = {"project_id": project_id, "after": after, "limit": limit}
    return connection.cursor(row_factory=_collection_row).execute(_PAGE, parameters).fetchall()


def read_all(connection: Connection) -> list[Collection]:
    return connection.cursor(row_factory=_collection_row).execute(_ALL).fetchall()


def insert(
    connection: Connection,
    project_id: str,
    name: str,
    *,
    dimension: int,
    metric: Metric,
    index: IndexDefinition,
    embedder: EmbedderDefinition | None,
    options: Options,
) -> None:
    """Raises psycopg's UniqueViolation where the project has a collection of that name."""
    parameters = {
        "project_id": project_id,
        "name": name,
        "dimension": dimension,
        "metric": metric.value,
        "provider": embedder.provider if embedder else None,
        "model": embedder.model if embedder else None,
        "requested": Jsonb(options.requested) if options.requested is not None else None,
        **_changeable(index, options),
    }
    connection.execute(_INSERT, parameters)


def update(connection: Connection, collection: Collection) -> None:
    """Make the definition what ``collection`` says, as far as it may be changed."""
    of = collection
    parameters = {
        "collection_id": of.collection_id,
        "texts_ready": of.texts_ready,
        **_changeable(of.index, of),
    }
    connection.execute(_UPDATE, parameters)


def texts_are_ready(connection: Connection, collection: Collection, table: int | None) -> None:
    """Say that every document's words are in this table, unless it was made anew meanwhile."""
    connection.execute(_TEXTS_ARE_READY, [collection.collection_id, collection.text_search, table])


def delete(connection: Connection, collection: Collection) -> None:
    connection.execute(_DELETE, {"collection_id": collection.collection_id})


def _changeable(index: IndexDefinition, of: Options | Collection) -> Mapping[str, Any]:
    return {
        "index_type": index.type.value,
        "m": index.m,
        "ef_construction": index.ef_construction,
        "storage": index.storage.value,
        "ef_search": of.ef_search,
        "target_recall": of.target_recall,
        "text_search": of.text_search,
        "filterable": Jsonb([{"field": one.field, "type": one.type.value} for one in of.filterable]),
        "deletion_protection": of.deletion_protection,
        "tags": Jsonb(of.tags),
    }


def _one(connection: Connection, text: LiteralString, parameters: Mapping[str, Any]) -> Collection | None:
    return connection.cursor(row_factory=_collection_row).execute(text, parameters).fetchone()


def _collection_row(cursor: Any) -> RowMaker[Collection]:
    names = [column.name for column in cursor.description or ()]

    def make(values: Any) -> Collection:
        row = dict(zip(names, values, strict=True))
        provider, model = row.pop("embedder_provider"), row.pop("embedder_model")
        index = IndexDefinition(
            type=IndexType(row.pop("index_type")),
            m=row.pop("index_m"),
            ef_construction=row.pop("index_ef_construction"),
            storage=Storage(row.pop("index_storage")),
        )
        row["metric"] = Metric(row["metric"])
        row["filterable"] = tuple(FilterableField(f["field"], FieldType(f["type"])) for f in row["filterable"])
        row["hnsw"] = tuple(Hnsw(**{**h, "storage": Storage(h["storage"])}) for h in row["hnsw"])
        embedder = EmbedderDefinition(provider=provider, model=model) if provider else None
        return Collection(**row, index=index, embedder=embedder)

    return make
