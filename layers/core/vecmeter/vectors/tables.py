"""The two tables of a collection, named by our own number, and statements that speak of them.

Vectors lie apart from documents and metadata: an update of a row in an indexed table writes the HNSW index again
(1.4 s against 0.02 s for 1,000 rows). Statements are templates with ``{records}`` and ``{vectors}``; everything
else in them is a constant or a parameter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import LiteralString

from psycopg import sql

from vecmeter.vectors.model import Collection, Metric, Storage

CREATE_TABLES: LiteralString = """
    CREATE TABLE {records} (
        record_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        namespace  text COLLATE "C" NOT NULL,
        id         text COLLATE "C" NOT NULL,
        version    bigint NOT NULL DEFAULT 1,
        document   text,
        metadata   jsonb NOT NULL DEFAULT '{{}}',
        updated_at timestamptz NOT NULL DEFAULT now(),
        -- What the last update replaced: RETURNING shows new rows only (stock.py).
        replaced_bytes integer NOT NULL DEFAULT 0,
        UNIQUE (namespace, id)
    );
    -- Without a list of pending entries, which every search with a filter would read through after writes.
    CREATE INDEX {records_metadata} ON {records} USING gin (metadata jsonb_path_ops) WITH (fastupdate = off);
    -- Vectors up to a page (about 2,000 dimensions) lie in the row itself: comparing them all takes half the time, and
    -- the planner sees what reading them costs.
    CREATE TABLE {vectors} (
        record_id bigint PRIMARY KEY,
        namespace text COLLATE "C" NOT NULL,
        embedding vector({dimension}) NOT NULL
    ) WITH (toast_tuple_target = 8160);
    CREATE INDEX {vectors_namespace} ON {vectors} (namespace)
"""
# No foreign key between the two: every statement writes both, and the check would read each record again.
# Statements name records before vectors: dropping locks them in this order, and nothing deadlocks with it.

DROP_TABLES: LiteralString = "DROP TABLE IF EXISTS {records}, {vectors}"

CREATE_HNSW: LiteralString = """
    CREATE INDEX CONCURRENTLY {hnsw} ON {vectors} USING hnsw ([indexed_column] {opclass})
    WITH (m = {m}, ef_construction = {ef_construction})
"""

SCHEMA = "vecmeter"
# First half of the advisory lock that maintenance holds on a collection; the second is the collection's number.
MAINTENANCE_LOCK = 0x766D


def hnsw_name(collection_id: int) -> str:
    return f"vectors_{collection_id}_hnsw"


def table_names(collection_id: int) -> tuple[str, str]:
    return f"records_{collection_id}", f"vectors_{collection_id}"


@lru_cache(maxsize=4096)
def statement(template: LiteralString, collection: Collection) -> bytes:
    """The template with the collection's tables, operator and types filled in; cached, for it is asked per request."""
    number = collection.collection_id
    records, vectors = table_names(number)
    identifiers = {
        "records": sql.Identifier(SCHEMA, records),
        "vectors": sql.Identifier(SCHEMA, vectors),
        "records_metadata": sql.Identifier(f"{records}_metadata"),
        "vectors_namespace": sql.Identifier(f"{vectors}_namespace"),
        "hnsw": sql.Identifier(hnsw_name(number)),
        "collection_id": sql.Literal(number),
        "dimension": sql.Literal(collection.dimension),
        "operator": sql.SQL(collection.metric.operator),
        "opclass": sql.SQL(_opclass(collection)),
        "m": sql.Literal(collection.index.m),
        "ef_construction": sql.Literal(collection.index.ef_construction),
    }
    return sql.SQL(template).format(**identifiers).as_bytes(None)


def indexed_expression(metric: Metric, storage: Storage, vector: LiteralString) -> LiteralString:
    """What the HNSW index holds of a vector, as a template: itself, or half precision.

    Under cosine only the direction counts, so it is scaled to length 1 first: half precision ends at 65,504 and
    loses what is below 6e-8, and a vector that became zero would be missing from the index.
    """
    if storage is Storage.FLOAT:
        return "(" + vector + ")"
    if metric is Metric.COSINE:
        vector = "l2_normalize(" + vector + ")"
    return "(" + vector + "::halfvec({dimension}))"


def _opclass(collection: Collection) -> str:
    kind = "vector" if collection.index.storage is Storage.FLOAT else "halfvec"
    return f"{kind}_{collection.metric.opclass}"
