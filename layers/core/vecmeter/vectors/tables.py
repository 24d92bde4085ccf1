"""The two tables of a collection, named by our own number, and statements that speak of them.

Vectors lie apart from documents and metadata: an update of a row in an indexed table writes the HNSW index again
(1.4 s against 0.02 s for 1,000 rows). Statements are templates with ``{records}`` and ``{vectors}``; everything
else in them is a constant or a parameter.
"""

from __future__ import annotations

from functools import lru_cache
from typing import LiteralString

from psycopg import sql

from vecmeter.vectors.model import Collection, Hnsw, Metric, Storage

CREATE_TABLES: LiteralString = """
    CREATE TABLE {records} (
        record_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        namespace  text COLLATE "C" NOT NULL,
        id         text COLLATE "C" NOT NULL,
        version    bigint NOT NULL DEFAULT 1,
        document   text,
        metadata   jsonb NOT NULL DEFAULT '{{}}',
        updated_at timestamptz NOT NULL DEFAULT now(),
        expires_at timestamptz,
        -- What the last update replaced: RETURNING shows new rows only (stock.py).
        replaced_bytes integer NOT NULL DEFAULT 0,
        UNIQUE (namespace, id)
    );
    -- Without a list of pending entries, which every search with a filter would read through after writes.
    CREATE INDEX {records_metadata} ON {records} USING gin (metadata jsonb_path_ops) WITH (fastupdate = off);
    -- For the sweep of what has expired.
    CREATE INDEX {records_expires_at} ON {records} (expires_at) WHERE expires_at IS NOT NULL;
    -- Vectors up to a page (about 2,000 dimensions) lie in the row itself: comparing them all takes half the time, and
    -- the planner sees what reading them costs.
    CREATE TABLE {vectors} (
        record_id bigint PRIMARY KEY,
        namespace text COLLATE "C" NOT NULL,
        embedding vector({dimension}) NOT NULL,
        -- The record's, so that an index scan passes over what has expired and goes on.
        expires_at timestamptz
    ) WITH (toast_tuple_target = 8160);
    CREATE INDEX {vectors_namespace} ON {vectors} (namespace)
"""
# No foreign key between the two: every statement writes both, and the check would read each record again.
# Statements name records before vectors: dropping locks them in this order, and nothing deadlocks with it.

# Only with text search: the words of each document, apart, so that a change of metadata does not write them again.
CREATE_TEXTS: LiteralString = """
    CREATE TABLE {texts} (
        record_id bigint PRIMARY KEY,
        namespace text COLLATE "C" NOT NULL,
        terms     tsvector NOT NULL,
        -- Words of the document that are indexed, each occurrence: BM25's document length.
        length    integer NOT NULL
    );
    -- With a word for the namespace: of those with frequent words, only its own texts are read.
    CREATE INDEX {texts_terms} ON {texts} USING gin ((array_to_tsvector(ARRAY[chr(1) || namespace]) || terms))
    WITH (fastupdate = off)
"""
# What the index holds of a text ``t``, word by word.
OF_SPACE: LiteralString = "(array_to_tsvector(ARRAY[chr(1) || t.namespace]) || t.terms)"

# Which table that is, made anew for another language; NULL for none.
TEXTS_OID: LiteralString = "to_regclass('vecmeter.texts_' || {collection_id})::oid::bigint"

DROP_TABLES: LiteralString = "DROP TABLE IF EXISTS {records}, {vectors}, {texts}"

# What has not expired; what has is as good as deleted, and its rows are there until a sweep or a write takes them.
LIVE_RECORD: LiteralString = "(r.expires_at IS NULL OR r.expires_at > now())"
LIVE_VECTOR: LiteralString = "(v.expires_at IS NULL OR v.expires_at > now())"
# Writers wait until the end of the transaction, readers do not.
KEEP_WRITERS_OUT: LiteralString = "LOCK TABLE {records} IN SHARE MODE"

SCHEMA = "vecmeter"
# First half of the advisory lock that maintenance holds on a collection; the second is the collection's number.
MAINTENANCE_LOCK = 0x766D
# The same of another lock, held while an index of the records is built, and while the texts are made anew: the one
# waits for transactions to end, the other for the records, and without it they would wait for each other.
RECORDS_LOCK = 0x766E


def hnsw_name(collection_id: int, index_id: int) -> str:
    return f"vectors_{collection_id}_hnsw_{index_id}"


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
        "texts": sql.Identifier(SCHEMA, f"texts_{number}"),
        "records_metadata": sql.Identifier(f"{records}_metadata"),
        "records_expires_at": sql.Identifier(f"{records}_expires_at"),
        "vectors_namespace": sql.Identifier(f"{vectors}_namespace"),
        "texts_terms": sql.Identifier(f"texts_{number}_terms"),
        "collection_id": sql.Literal(number),
        "dimension": sql.Literal(collection.dimension),
        "operator": sql.SQL(collection.metric.operator),
        "text_search": sql.Literal(collection.text_search),
    }
    return sql.SQL(template).format(**identifiers).as_bytes(None)


def create_hnsw(collection: Collection, hnsw: Hnsw) -> bytes:
    """The statement that builds an index, concurrently."""
    held: LiteralString = (
        "embedding" if hnsw.namespace is None else embedding_of("embedding", "namespace", "{namespace}")
    )
    template = _CREATE_HNSW.replace("[indexed]", indexed_expression(collection.metric, hnsw.storage, held))
    if hnsw.namespace is not None:
        template = template.replace("[where]", _OF_NAMESPACE)
    opclass = {
        Storage.FLOAT: f"vector_{collection.metric.opclass}",
        Storage.HALF: f"halfvec_{collection.metric.opclass}",
        Storage.BINARY: "bit_hamming_ops",
    }[hnsw.storage]
    return (
        sql.SQL(template.replace("[where]", ""))
        .format(
            hnsw=sql.Identifier(hnsw_name(collection.collection_id, hnsw.index_id)),
            vectors=sql.Identifier(SCHEMA, table_names(collection.collection_id)[1]),
            opclass=sql.Identifier(opclass),
            dimension=sql.Literal(collection.dimension),
            namespace=sql.Literal(hnsw.namespace),
            m=sql.Literal(hnsw.m),
            ef_construction=sql.Literal(hnsw.ef_construction),
        )
        .as_bytes(None)
    )


_CREATE_HNSW: LiteralString = """
    CREATE INDEX CONCURRENTLY {hnsw} ON {vectors} USING hnsw ([indexed] {opclass})
    WITH (m = {m}, ef_construction = {ef_construction}) [where]
"""
# As searches put it: no other index can answer a CASE, and a partial one must have it word by word.
_OF_NAMESPACE: LiteralString = "WHERE CASE WHEN namespace = {namespace} THEN true ELSE false END"


def embedding_of(embedding: LiteralString, column: LiteralString, namespace: LiteralString) -> LiteralString:
    """A vector as the index of its namespace alone has it.

    It says of which one, so that no other index can answer: to PostgreSQL that of all vectors would often seem cheaper.
    """
    return "(CASE WHEN " + column + " = " + namespace + " THEN " + embedding + " END)"


def indexed_expression(metric: Metric, storage: Storage, vector: LiteralString) -> LiteralString:
    """What the HNSW index holds of a vector, as a template: itself, in half precision, or the signs of its numbers.

    Under cosine only the direction counts, so it is scaled to length 1 first: half precision ends at 65,504 and
    loses what is below 6e-8, and a vector that became zero would be missing from the index.
    """
    if storage is Storage.FLOAT:
        return "(" + vector + "::vector({dimension}))"
    if storage is Storage.BINARY:
        return "(binary_quantize(" + vector + ")::bit({dimension}))"
    if metric is Metric.COSINE:
        vector = "l2_normalize(" + vector + ")"
    return "(" + vector + "::halfvec({dimension}))"
