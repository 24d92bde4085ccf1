"""The statements that write vectors. Each writes all tables of a collection, its receipt, what it did to the stock."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import LiteralString

from vecmeter.vectors.model import Collection
from vecmeter.vectors.revisions import RAISE
from vecmeter.vectors.stock import RECORD_BYTES
from vecmeter.vectors.tables import LIVE_RECORD, statement


@dataclass(frozen=True, slots=True)
class WriteTemplate:
    """A statement for collections without text search, and for those with it."""

    plain: LiteralString
    with_texts: LiteralString

    def of(self, collection: Collection, condition: LiteralString = "") -> bytes:
        """The statement for a collection; ``condition`` says which records of a namespace are meant."""
        template = self.plain if collection.text_search is None else self.with_texts
        return statement(template.replace("[condition]", condition), collection)


# What every write ends with: its receipt, which is also its answer (Database.write); how it changed the stock, which is
# kept beside it (stock.py); that it changed the collection (revisions.py); and the collection's own limits.
_ACCOUNT: LiteralString = """
    receipt AS (
        INSERT INTO vecmeter.receipts (receipt_id, answer)
        SELECT %(receipt)s, [answer] HAVING EXISTS (SELECT FROM free) RETURNING answer
    ), totals AS (
        SELECT [totals]
    ), change AS (
        INSERT INTO vecmeter.stock_changes (collection_id, vectors, bytes)
        SELECT {collection_id}, vectors, bytes FROM totals WHERE vectors <> 0 OR bytes <> 0
    ), [raise]
    SELECT receipt.answer, t.vectors, t.bytes, t.all_vectors, t.all_bytes,
           free.max_vectors, free.max_storage_bytes [more]
    FROM receipt CROSS JOIN totals t CROSS JOIN free
""".replace("[raise]", RAISE).replace("[wrote]", "EXISTS (SELECT FROM totals WHERE all_vectors <> 0 OR vectors <> 0)")
# A row that replaces none says so.
_GROWTH: LiteralString = """
    count(*) FILTER (WHERE replaced_bytes = 0) AS vectors, coalesce(sum(bytes - replaced_bytes), 0)::bigint AS bytes,
    count(*) AS all_vectors, coalesce(sum(bytes), 0)::bigint AS all_bytes
"""
# One row where the write may take place: the texts are in the language that this write believes. A change of the
# language locks the table first, so that is true until the write's end.
CURRENT: LiteralString = """
    SELECT [columns] FROM vecmeter.collections
    WHERE collection_id = {collection_id} AND text_search IS NOT DISTINCT FROM {text_search}
"""
# And it may take place at once: it is bound to what follows it, or the collection has no limits.
_FREE: LiteralString = (
    "free AS ("
    + CURRENT.replace("[columns]", "max_vectors, max_storage_bytes")
    + "AND (%(bound)s OR (max_vectors IS NULL AND max_storage_bytes IS NULL)))"
)
# What takes no room is free of limits.
_FREE_OF_LIMITS: LiteralString = (
    "free AS (" + CURRENT.replace("[columns]", "NULL::bigint AS max_vectors, NULL::bigint AS max_storage_bytes") + ")"
)
# The words of a document, and how many of them.
_WORDS: LiteralString = """
    CROSS JOIN LATERAL (
        SELECT to_tsvector({text_search}::regconfig, coalesce([document], '')) AS terms OFFSET 0
    ) words CROSS JOIN LATERAL (
        SELECT coalesce(sum(cardinality(positions)), 0) AS length FROM unnest(words.terms)
    ) counted
"""
# Every record has a row, if of no words: a statement that deletes or updates rows does not see those which another has
# inserted meanwhile.
_WRITE_TEXTS: LiteralString = """, worded AS (
        INSERT INTO {texts} AS t (record_id, namespace, terms, length)
        SELECT w.record_id, w.namespace, words.terms, counted.length FROM [written] w [words]
        ON CONFLICT (record_id) DO UPDATE SET terms = excluded.terms, length = excluded.length
        WHERE t.terms <> excluded.terms
    )
""".replace("[words]", _WORDS.replace("[document]", "w.document"))
# The texts of all records, when a collection is given a language.
FILL_TEXTS: LiteralString = """
    INSERT INTO {texts} (record_id, namespace, terms, length)
    SELECT r.record_id, r.namespace, words.terms, counted.length FROM {records} r [words]
""".replace("[words]", _WORDS.replace("[document]", "r.document"))

# Insert a batch. The answer has the versions of what was written, in the order of namespace and id.
_INSERT: LiteralString = (
    """
    WITH [free], input AS (
        SELECT input.* FROM free, unnest(
            %(namespaces)b::text[], %(ids)b::text[], %(documents)b::text[], %(metadata)b::text[],
            %(expires_at)b::text[], %(embeddings)b::vector[]
        ) AS input (namespace, id, document, metadata, expires_at, embedding)
    ), written AS (
        INSERT INTO {records} AS r (namespace, id, document, metadata, expires_at)
        SELECT namespace, id, document, metadata::jsonb, expires_at::timestamptz FROM input
        -- One order for all writers: two batches with the same ids wait for each other instead of deadlocking.
        ORDER BY namespace COLLATE "C", id COLLATE "C"
        ON CONFLICT (namespace, id) DO UPDATE
        SET document = excluded.document, metadata = excluded.metadata, expires_at = excluded.expires_at,
            -- In the place of what has expired it is the first again.
            version = CASE WHEN [live] THEN r.version + 1 ELSE 1 END, updated_at = now(), replaced_bytes = [bytes]
        [where]
        RETURNING r.record_id, r.namespace, r.id, r.version, [bytes] AS bytes, r.replaced_bytes [document]
    ), embedded AS (
        INSERT INTO {vectors} AS v (record_id, namespace, embedding, expires_at)
        SELECT w.record_id, w.namespace, i.embedding, i.expires_at::timestamptz
        FROM written w JOIN input i USING (namespace, id)
        -- An unchanged vector is left alone: rewriting it would write the HNSW index again. By bits, for -0.0 = 0.0.
        ON CONFLICT (record_id) DO UPDATE SET embedding = excluded.embedding, expires_at = excluded.expires_at
        WHERE vector_send(v.embedding) <> vector_send(excluded.embedding)
           OR v.expires_at IS DISTINCT FROM excluded.expires_at
    ) [texts], [account]
""".replace("[account]", _ACCOUNT)
    .replace("[answer]", "coalesce(array_agg(version ORDER BY namespace, id), '{{}}') FROM written")
    .replace("[totals]", _GROWTH + " FROM written")
    .replace("[more]", "")
    .replace("[free]", _FREE)
    .replace("[bytes]", RECORD_BYTES)
    .replace("[live]", LIVE_RECORD)
)
_REPLACE: LiteralString = _INSERT.replace("[where]", "")
_INSERT_ONLY: LiteralString = _INSERT.replace("[where]", "WHERE NOT " + LIVE_RECORD)
_INSERT_TEXTS: LiteralString = _WRITE_TEXTS.replace("[written]", "written")
UPSERT = WriteTemplate(
    plain=_REPLACE.replace("[texts]", "").replace("[document]", ""),
    with_texts=_REPLACE.replace("[texts]", _INSERT_TEXTS).replace("[document]", ", r.document"),
)
ADD = WriteTemplate(
    plain=_INSERT_ONLY.replace("[texts]", "").replace("[document]", ""),
    with_texts=_INSERT_ONLY.replace("[texts]", _INSERT_TEXTS).replace("[document]", ", r.document"),
)
# What is there of a batch that is going to be written, and the collection's own limits.
PRESENT: LiteralString = """
    SELECT c.max_vectors, c.max_storage_bytes, present.vectors, present.bytes
    FROM vecmeter.collections c CROSS JOIN (
        SELECT count(*) AS vectors, coalesce(sum([bytes]), 0)::bigint AS bytes
        FROM {records} r JOIN unnest(%(namespaces)b::text[], %(ids)b::text[]) AS input (namespace, id)
            USING (namespace, id)
    ) present
    WHERE c.collection_id = {collection_id}
""".replace("[bytes]", RECORD_BYTES)

# Length of metadata as the shortest JSON in UTF-8, where it may be more than is allowed: PostgreSQL writes a space
# after colons and commas.
METADATA_BYTES: LiteralString = """
    CASE WHEN octet_length(r.metadata::text) > %(max_metadata_bytes)s
    THEN octet_length(r.metadata::text) - (
        SELECT sum(CASE jsonb_typeof(part)
            WHEN 'object' THEN greatest(2 * (SELECT count(*) FROM jsonb_object_keys(part)) - 1, 0)
            WHEN 'array' THEN greatest(jsonb_array_length(part) - 1, 0)
            ELSE 0
        END) FROM jsonb_path_query(r.metadata, 'strict $.**') AS part
    )
    ELSE 0 END
"""
# Change some of the vectors of a namespace; locked in the order of all writers first. The answer is how many, and the
# newest version. What becomes too large is counted, for the transaction to be undone.
_PATCH: LiteralString = (
    """
    WITH [free], found AS (
        SELECT r.record_id FROM {records} r
        WHERE EXISTS (SELECT FROM free) AND r.namespace = %(namespace)s AND [live] AND [condition]
        ORDER BY r.id FOR UPDATE
    ), patched AS (
        UPDATE {records} AS r
        SET metadata = (r.metadata - %(unset)s::text[]) || %(set)s::jsonb [changes], version = r.version + 1,
            updated_at = now(), replaced_bytes = [bytes]
        FROM found WHERE r.record_id = found.record_id
        RETURNING r.record_id, r.namespace, r.id, r.version, r.document, [bytes] AS bytes, r.replaced_bytes,
                  [metadata_bytes] AS metadata_bytes
    ) [others], [account]
""".replace("[account]", _ACCOUNT)
    .replace("[answer]", "ARRAY[count(*), coalesce(max(version), 0)] FROM patched")
    .replace("[totals]", _GROWTH + " FROM patched")
    .replace(
        "[more]",
        """, (SELECT coalesce(jsonb_agg(jsonb_build_array(id, metadata_bytes)), '[]') FROM (
            SELECT id, metadata_bytes FROM patched WHERE metadata_bytes > %(max_metadata_bytes)s ORDER BY id LIMIT 100
        ) large)""",
    )
    .replace("[free]", _FREE)
    .replace("[metadata_bytes]", METADATA_BYTES)
    .replace("[bytes]", RECORD_BYTES)
    .replace("[live]", LIVE_RECORD)
)
_PATCH_VECTORS: LiteralString = """, embedded AS (
        UPDATE {vectors} AS v SET [changes] FROM patched p WHERE v.record_id = p.record_id
    )
"""


@cache
def patch(*, document: bool, expires_at: bool, embedding: bool) -> WriteTemplate:
    """The statement that changes the metadata and what else is said. A table of which nothing changes is left alone."""
    records: LiteralString = ""
    vectors: LiteralString = ""
    if document:
        records += ", document = %(document)s"
    if expires_at:
        records += ", expires_at = %(expires_at)s"
        vectors += "expires_at = %(expires_at)s"
    if embedding:
        vectors += ", " if vectors else ""
        vectors += "embedding = %(embedding)b::vector"
    others = _PATCH_VECTORS.replace("[changes]", vectors) if vectors else ""
    plain = _PATCH.replace("[changes]", records)
    return WriteTemplate(
        plain=plain.replace("[others]", others),
        with_texts=plain.replace(
            "[others]", others + _WRITE_TEXTS.replace("[written]", "patched") if document else others
        ),
    )


_LOSS: LiteralString = """
    -count(*) AS vectors, coalesce(-sum(bytes), 0)::bigint AS bytes, 0::bigint AS all_vectors, 0::bigint AS all_bytes
    FROM gone
"""
_GONE: LiteralString = """
    gone AS (
        DELETE FROM {records} r USING found WHERE r.record_id = found.record_id
        RETURNING r.record_id, r.version, [bytes] AS bytes
    ), unembedded AS (
        DELETE FROM {vectors} v USING gone WHERE v.record_id = gone.record_id
    )
""".replace("[bytes]", RECORD_BYTES)
_GONE_TEXTS: LiteralString = """, unworded AS (
        DELETE FROM {texts} t USING gone WHERE t.record_id = gone.record_id
    )
"""
# Delete from all tables at once; locked in the order of all writers first. The answer is how many, and the newest
# version.
_DELETE: LiteralString = (
    """
    WITH [free], found AS (
        SELECT r.record_id FROM {records} r
        WHERE EXISTS (SELECT FROM free) AND r.namespace = %(namespace)s AND [live] AND [condition]
        ORDER BY r.id FOR UPDATE
    ), [gone] [texts], [account]
""".replace("[gone]", _GONE)
    .replace("[account]", _ACCOUNT)
    .replace("[answer]", "ARRAY[count(*), coalesce(max(version), 0)] FROM gone")
    .replace("[totals]", _LOSS)
    .replace("[more]", "")
    .replace("[free]", _FREE_OF_LIMITS)
    .replace("[live]", LIVE_RECORD)
)
DELETE = WriteTemplate(
    plain=_DELETE.replace("[texts]", ""),
    with_texts=_DELETE.replace("[texts]", _GONE_TEXTS),
)
# Take away some of what has expired; rows that a writer has in hand are left to the next time.
_SWEEP: LiteralString = (
    """
    WITH found AS (
        SELECT r.record_id FROM {records} r WHERE EXISTS ([current]) AND r.expires_at <= now()
        LIMIT %(limit)s FOR UPDATE SKIP LOCKED
    ), [gone] [texts], change AS (
        INSERT INTO vecmeter.stock_changes (collection_id, vectors, bytes)
        SELECT {collection_id}, -count(*), -sum(bytes) FROM gone HAVING count(*) > 0
    ), [raise]
    SELECT count(*) FROM gone
""".replace("[gone]", _GONE)
    .replace("[raise]", RAISE)
    .replace("[wrote]", "EXISTS (SELECT FROM gone)")
    .replace("[current]", CURRENT)
    .replace("[columns]", "")
)
SWEEP = WriteTemplate(
    plain=_SWEEP.replace("[texts]", ""),
    with_texts=_SWEEP.replace("[texts]", _GONE_TEXTS),
)
