"""The statements that write vectors. Each writes both tables, its receipt, and how it changed the stock."""

from __future__ import annotations

from typing import LiteralString

from vecmeter.vectors.stock import RECORD_BYTES

# What every write ends with: its receipt, which is also its answer (Database.write); how it changed the stock, which is
# kept beside it (stock.py); and the collection's own limits.
_ACCOUNT: LiteralString = """
    receipt AS (
        INSERT INTO vecmeter.receipts (receipt_id, answer) SELECT %(receipt)s, [answer] RETURNING answer
    ), totals AS (
        SELECT [totals]
    ), change AS (
        INSERT INTO vecmeter.stock_changes (collection_id, vectors, bytes)
        SELECT {collection_id}, vectors, bytes FROM totals WHERE vectors <> 0 OR bytes <> 0
    )
    SELECT receipt.answer, t.vectors, t.bytes, t.all_vectors, t.all_bytes,
           free.max_vectors, free.max_storage_bytes [more]
    FROM receipt CROSS JOIN totals t CROSS JOIN free [join]
"""
# A record's first version is 1, so the version tells an insert from an update.
_GROWTH: LiteralString = """
    count(*) FILTER (WHERE version = 1) AS vectors, coalesce(sum(bytes - replaced_bytes), 0)::bigint AS bytes,
    count(*) AS all_vectors, coalesce(sum(bytes), 0)::bigint AS all_bytes
"""
# One row where the write may take place at once: it is bound to what follows it, or the collection has no limits.
_FREE: LiteralString = """
    free AS (
        SELECT max_vectors, max_storage_bytes FROM vecmeter.collections
        WHERE collection_id = {collection_id}
          AND (%(bound)s OR (max_vectors IS NULL AND max_storage_bytes IS NULL))
    )
"""
# Insert a batch. The answer has the versions of what was written, in the order of namespace and id.
_INSERT: LiteralString = (
    """
    WITH [free], input AS (
        SELECT input.* FROM free, unnest(
            %(namespaces)s::text[], %(ids)s::text[], %(documents)s::text[], %(metadata)s::text[],
            %(embeddings)b::vector[]
        ) AS input (namespace, id, document, metadata, embedding)
    ), written AS (
        INSERT INTO {records} AS r (namespace, id, document, metadata)
        SELECT namespace, id, document, metadata::jsonb FROM input
        -- One order for all writers: two batches with the same ids wait for each other instead of deadlocking.
        ORDER BY namespace COLLATE "C", id COLLATE "C"
        ON CONFLICT (namespace, id) [on_conflict]
        RETURNING r.record_id, r.namespace, r.id, r.version, [bytes] AS bytes, r.replaced_bytes
    ), embedded AS (
        INSERT INTO {vectors} AS v (record_id, namespace, embedding)
        SELECT w.record_id, w.namespace, i.embedding FROM written w JOIN input i USING (namespace, id)
        -- An unchanged vector is left alone: rewriting it would write the HNSW index again. By bits, for -0.0 = 0.0.
        ON CONFLICT (record_id) DO UPDATE SET embedding = excluded.embedding
        WHERE vector_send(v.embedding) <> vector_send(excluded.embedding)
    ), [account]
""".replace("[account]", _ACCOUNT)
    .replace("[answer]", "coalesce(array_agg(version ORDER BY namespace, id), '{{}}') FROM written [having]")
    .replace("[having]", "HAVING EXISTS (SELECT FROM free)")
    .replace("[totals]", _GROWTH + " FROM written")
    .replace("[more]", "")
    .replace("[join]", "")
    .replace("[free]", _FREE)
    .replace("[bytes]", RECORD_BYTES)
)
_REPLACE: LiteralString = """
    DO UPDATE
    SET document = excluded.document, metadata = excluded.metadata, version = r.version + 1, updated_at = now(),
        replaced_bytes = [bytes]
""".replace("[bytes]", RECORD_BYTES)
UPSERT: LiteralString = _INSERT.replace("[on_conflict]", _REPLACE)
ADD: LiteralString = _INSERT.replace("[on_conflict]", "DO NOTHING")
# What is there of a batch that is going to be written, and the collection's own limits.
PRESENT: LiteralString = """
    SELECT c.max_vectors, c.max_storage_bytes, present.vectors, present.bytes
    FROM vecmeter.collections c CROSS JOIN (
        SELECT count(*) AS vectors, coalesce(sum([bytes]), 0)::bigint AS bytes
        FROM {records} r JOIN unnest(%(namespaces)s::text[], %(ids)s::text[]) AS input (namespace, id)
            USING (namespace, id)
    ) present
    WHERE c.collection_id = {collection_id}
""".replace("[bytes]", RECORD_BYTES)
# Change some fields of one vector's metadata. The vector's own table is not touched, nor its index.
PATCH: LiteralString = (
    """
    WITH [free], patched AS (
        UPDATE {records} AS r
        SET metadata = (r.metadata - %(unset)s::text[]) || %(set)s::jsonb, version = r.version + 1, updated_at = now(),
            replaced_bytes = [bytes]
        WHERE r.namespace = %(namespace)s AND r.id = %(id)s
        RETURNING r.version, r.metadata, [bytes] AS bytes, r.replaced_bytes
    ), [account]
""".replace("[account]", _ACCOUNT)
    .replace("[answer]", "coalesce(array_agg(version), '{{}}') FROM patched")
    .replace("[totals]", _GROWTH + " FROM patched")
    .replace("[more]", ", patched.metadata")
    .replace("[join]", "LEFT JOIN patched ON true")
    .replace("[free]", _FREE)
    .replace("[bytes]", RECORD_BYTES)
)
_LOSS: LiteralString = """
    -count(*) AS vectors, coalesce(-sum(bytes), 0)::bigint AS bytes, 0::bigint AS all_vectors, 0::bigint AS all_bytes
    FROM gone
"""
# Delete from both tables at once; locked in the order of all writers first.
DELETE: LiteralString = (
    """
    WITH free AS (
        SELECT NULL::bigint AS max_vectors, NULL::bigint AS max_storage_bytes
    ), found AS (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [condition] ORDER BY r.id FOR UPDATE
    ), gone AS (
        DELETE FROM {records} r USING found WHERE r.record_id = found.record_id
        RETURNING r.record_id, [bytes] AS bytes
    ), unembedded AS (
        DELETE FROM {vectors} v USING gone WHERE v.record_id = gone.record_id
    ), [account]
""".replace("[account]", _ACCOUNT)
    .replace("[answer]", "ARRAY[count(*)] FROM gone")
    .replace("[totals]", _LOSS)
    .replace("[more]", "")
    .replace("[join]", "")
    .replace("[bytes]", RECORD_BYTES)
)
