"""Search by words: BM25 in plain SQL over the texts of a collection.

The score of a document is the sum over the words of the query of

    idf * n * (k1 + 1) / (n + k1 * (1 - b + b * length / mean))

where n is how often the document has the word, and idf = ln(1 + (N - df + 0.5) / (df + 0.5)), which is never negative
(Robertson and Zaragoza, The Probabilistic Relevance Framework, 2009; this idf is Lucene's).

Most documents have one of the words or another, and scoring them all takes a second at 500,000. So it goes in two steps
within the one statement, as MaxScore does (Turtle and Flood, 1995). First come the documents with the rarest words, or,
where no word is rare, with several words at once. The worst of the best of these sets the bar. A word brings less than
its idf * (k1 + 1): what cannot come up to the bar by the words it has is not looked at. Nothing is lost by it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, LiteralString

from vecmeter.vectors.filters import CompiledFilter
from vecmeter.vectors.model import Collection, Plan, Query
from vecmeter.vectors.search_statements import Hits, SearchStatement, Shape, search_template
from vecmeter.vectors.tables import OF_SPACE, statement
from vecmeter.vectors.vector_search import query_parameters, shape_of

# Words of a query that count, the rarest of them.
MAX_WORDS = 64
# Documents that are scored without a further thought.
FEW = 5_000

# The documents of a namespace with few vectors, all of them.
_OWN_CORPUS: LiteralString = """
    corpus AS MATERIALIZED (
        SELECT count(*)::float8 AS documents, coalesce(avg(length), 1)::float8 AS mean FROM {texts} t
        WHERE [of_space] @@ (%(space)s::text)::tsquery AND length > 0
    ), known AS MATERIALIZED (
        SELECT NULL::text AS lexeme, NULL::float8 AS documents WHERE false
    )
"""
# Those of the collection: how many there are as PostgreSQL's planner knows it, their length by about 100 pages of them,
# the same every time, and how many have each of the most frequent words by PostgreSQL's own statistics. A collection of
# up to 100 pages is counted.
_COLLECTION_CORPUS: LiteralString = """
    corpus AS MATERIALIZED (
        SELECT stored, greatest(stored * filled, 1) AS documents, coalesce(mean, 1) AS mean
        FROM (
            SELECT count(*) AS sampled, (avg(length) FILTER (WHERE length > 0))::float8 AS mean,
                   coalesce(avg((length > 0)::integer), 0)::float8 AS filled
            FROM {texts} TABLESAMPLE SYSTEM (
                least(100, 100 * 100 * 8192.0 / greatest(pg_relation_size(to_regclass([texts])), 1))
            ) REPEATABLE (0)
        ) sample CROSS JOIN (
            SELECT reltuples / nullif(relpages, 0)::float8 AS density, pg_relation_size(oid) / 8192.0 AS pages
            FROM pg_class WHERE oid = to_regclass([texts])
        ) found CROSS JOIN LATERAL (
            SELECT CASE WHEN pages <= 100 THEN sampled WHEN density > 0 THEN density * pages ELSE sampled * pages / 100
                   END::float8 AS stored
        ) counted
    ), known AS MATERIALIZED (
        SELECT lexeme, frequency * stored AS documents FROM corpus CROSS JOIN pg_stats s
        CROSS JOIN unnest(s.most_common_elems::text::text[], s.most_common_elem_freqs) AS common (lexeme, frequency)
        WHERE s.schemaname = 'vecmeter' AND s.tablename = 'texts_' || {collection_id} AND s.attname = 'terms'
          AND lexeme IS NOT NULL
    )
""".replace("[texts]", "'vecmeter.texts_' || {collection_id}")

# The words of the query, from the rarest on. ``weight``: the most a word can bring; ``suffix``: it and all that are
# more frequent; ``together``: how many documents may have all up to it of those that are not rare; ``slope``: what the
# length of a document counts, here because reading it elsewhere for each document takes longer than the rest.
_WORDS: LiteralString = """
    asked AS MATERIALIZED (
        SELECT lexeme, cardinality(positions) AS times, known.documents,
               '''' || replace(replace(lexeme, '\\', '\\\\'), '''', '''''') || '''' AS quoted
        FROM unnest(to_tsvector({text_search}::regconfig, %(words)s::text)) LEFT JOIN known USING (lexeme)
        ORDER BY known.documents NULLS FIRST, times DESC, lexeme LIMIT %(max_words)s
    ), numbered AS MATERIALIZED (
        SELECT quoted, times, coalesce(
            documents, (SELECT count(*) FROM {texts} t WHERE [of_space] @@ ([space] quoted)::tsquery)
        )::float8 AS df FROM asked
    ), weighed AS MATERIALIZED (
        SELECT quoted, quoted::tsquery AS word, df, documents, [k1] * [b] / mean AS slope,
               times * [gain] * ln(1 + (greatest(documents - df, 0) + 0.5) / (df + 0.5)) AS weight
        FROM numbered CROSS JOIN corpus WHERE df > 0
    ), words AS MATERIALIZED (
        SELECT *, row_number() OVER rarest AS place, count(*) OVER () AS number,
               sum(weight) OVER (ORDER BY weight, quoted DESC) AS suffix, sum(df) OVER rarest <= %(few)s AS is_rare,
               documents * exp(sum(ln(least(df / documents, 1))) FILTER (WHERE df > %(few)s) OVER rarest) AS together
        FROM weighed WINDOW rarest AS (ORDER BY weight DESC, quoted)
    )
"""
_SCORE: LiteralString = """
    (SELECT sum(w.weight * (1 - [norm] / ([norm] + [occurrences]))) FROM words w) AS score
""".replace("[norm]", "([k1] * (1 - [b]) + w.slope * t.length)")
# How often a document has a word. What ts_rank says of a single word is the sum of 1 / i^2 for i up to that number,
# times 0.1 / 1.644934 (calc_rank_or in PostgreSQL's tsrank.c); the rest of that sum is 1 / (number + 1/2), very nearly.
# Unfolding the document with unnest() takes ten times as long.
_OCCURRENCES: LiteralString = "round(1 / (1.64493406685 - 16.4493406685 * ts_rank(t.terms, w.word)) - 0.5)"

# The first step, and what it leaves to the second: a query of words, all of them already with those of the filter.
_PROBE: LiteralString = """
    probe AS MATERIALIZED (
        SELECT nullif(concat_ws(' | ', string_agg(quoted, ' | ') FILTER (WHERE is_rare), (
            SELECT '(' || string_agg(quoted, ' & ') || ')' FROM words
            WHERE NOT is_rare AND place <= coalesce(
                (SELECT min(place) FROM words WHERE together <= %(few)s),
                (SELECT CASE WHEN bool_or(is_rare) THEN 0 ELSE %(max_words)s END FROM words)
            )
        )), '') AS query FROM words
    ), near AS MATERIALIZED (
        [few_scored]
        SELECT t.record_id, [score] FROM {texts} t
        WHERE [of_space] @@ (SELECT (%(space)s::text || ' & (' || query || ')')::tsquery FROM probe) [unless_few]
    ), best AS MATERIALIZED (
        SELECT * FROM (SELECT * FROM near ORDER BY score DESC, record_id OFFSET 0) near
        WHERE [passes] LIMIT %(texts_wanted)s
    ), bar AS MATERIALIZED (
        -- A little lower, for a sum in another order may be a little lower.
        SELECT CASE WHEN count(*) >= %(texts_wanted)s THEN min(score) * (1 - 1e-9) ELSE 0 END AS bar FROM best
    )
"""
# With its rarest word, and of the more frequent ones enough to come up to the bar: one, or two, or three of them. For
# many words the query would be longer than it is worth, and is only about the rarest, or the two rarest.
_REST: LiteralString = """
    rest AS MATERIALIZED (
        SELECT (
            %(space)s::text || ' & ('
            || string_agg(one.quoted || coalesce(' & (' || two.quoted || ')', ''), ' | ') || ')'
            || (SELECT coalesce(' & !(' || query || ')', '') FROM probe)
        )::tsquery AS query
        FROM words one CROSS JOIN bar CROSS JOIN LATERAL (
            SELECT string_agg(two.quoted || coalesce(' & (' || three.quoted || ')', ''), ' | ') AS quoted
            FROM words two CROSS JOIN LATERAL (
                SELECT string_agg(three.quoted, ' | ') AS quoted FROM words three
                WHERE three.place > two.place AND one.weight + two.weight < bar AND one.number <= 8
                  AND one.weight + two.weight + three.suffix >= bar
            ) three
            WHERE two.place > one.place AND one.weight < bar AND one.number <= 16 AND one.weight + two.suffix >= bar
              AND (one.weight + two.weight >= bar OR three.quoted IS NOT NULL OR one.number > 8)
        ) two
        WHERE one.suffix >= bar AND (one.weight >= bar OR two.quoted IS NOT NULL OR one.number > 16)
          AND NOT (SELECT bool_and(is_rare) FROM words) [unless_few]
    ), more AS MATERIALIZED (
        SELECT t.record_id, [score] FROM {texts} t WHERE [of_space] @@ (SELECT query FROM rest)
    ), worded AS MATERIALIZED (
        SELECT * FROM (
            SELECT * FROM (SELECT * FROM best UNION ALL SELECT * FROM more) either
            ORDER BY score DESC, record_id OFFSET 0
        ) near
        WHERE [passes] LIMIT %(texts_wanted)s
    )
"""
_PASSES: LiteralString = """
    (SELECT [live_record] AND [filter] FROM {records} r WHERE r.record_id = near.record_id)
"""

# Words by another language than the texts are in, or while these are being indexed, would miss matches silently.
LANGUAGE_HOLDS: LiteralString = """
    EXISTS (
        SELECT FROM vecmeter.collections
        WHERE collection_id = {collection_id} AND text_search = {text_search} AND texts_ready
    )
"""
# Named first, and so locked first, as a drop does.
_RECORDS_FIRST: LiteralString = "records_first AS (SELECT FROM {records}),"
# Where the filter lets little through, that is scored and nothing else.
_CANDIDATES: LiteralString = """
    texts_passing AS MATERIALIZED (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [live_record] AND [filter]
        LIMIT %(few)s + 1
    ), texts_few AS MATERIALIZED (
        SELECT CASE WHEN count(*) <= %(few)s THEN count(*) END AS n FROM texts_passing
    ),
"""
_FEW_SCORED: LiteralString = """
    SELECT t.record_id, [score] FROM texts_passing CROSS JOIN LATERAL (
        SELECT * FROM {texts} t WHERE t.record_id = texts_passing.record_id OFFSET 0
    ) t
    WHERE (SELECT n FROM texts_few) IS NOT NULL AND t.terms @@ (SELECT string_agg(quoted, ' | ')::tsquery FROM words)
    UNION ALL
"""
_UNLESS_FEW: LiteralString = "AND (SELECT n FROM texts_few) IS NULL"


def text_statement(
    collection: Collection, query: Query, compiled: CompiledFilter | None, is_small: bool
) -> SearchStatement:
    """The statement of a search by words; ``is_small``: the namespace is a corpus of its own."""
    return SearchStatement(
        plan=Plan.TEXT,
        text=statement(_template(shape_of(query, compiled), is_small), collection),
        parameters={
            **query_parameters(query, compiled),
            # The best of each group may lie anywhere.
            **text_parameters(query, None if query.group_by is not None else query.wanted),
        },
    )


def text_parameters(query: Query, wanted: int | None) -> dict[str, Any]:
    """What ``worded`` refers to, the ``wanted`` best documents or (None) all there are."""
    # The word that every text of the namespace has in the index (tables.py), as a query.
    space = ("\x01" + query.namespace).replace("\\", "\\\\").replace("'", "''")
    return {"words": query.text, "space": f"'{space}'", "texts_wanted": wanted, "few": FEW, "max_words": MAX_WORDS}


@lru_cache(maxsize=1024)
def _template(shape: Shape, is_small: bool) -> LiteralString:
    candidates, worded = text_ctes(shape, is_small)
    return search_template(
        Hits(
            rows="SELECT record_id, NULL::float8 AS distance, score FROM worded",
            order="score DESC",
            ctes=candidates,
            count="(SELECT n FROM texts_few)" if shape.filter is not None else "NULL::bigint",
            more_ctes=", " + worded,
            holds=LANGUAGE_HOLDS,
        ),
        shape,
    )


def text_ctes(shape: Shape, is_small: bool) -> tuple[LiteralString, LiteralString]:
    """What a statement begins with, each with a comma behind it; and the CTEs that end in ``worded``."""
    filtered = shape.filter is not None
    corpus = _OWN_CORPUS if is_small else _COLLECTION_CORPUS
    worded = fill_score(
        ", ".join((corpus, _WORDS, _PROBE, _REST))
        .replace("[few_scored]", _FEW_SCORED if filtered else "")
        .replace("[unless_few]", _UNLESS_FEW if filtered else "")
        .replace("[passes]", _PASSES)
        .replace("[of_space]", OF_SPACE)
        .replace("[space]", "%(space)s::text || ' & ' ||" if is_small else "")
    )
    return _CANDIDATES if filtered else _RECORDS_FIRST, worded


def fill_score(template: LiteralString) -> LiteralString:
    """A template with BM25's formula for [score], for rows ``t`` of {texts}, and its usual parameters."""
    return (
        template.replace("[score]", _SCORE)
        .replace("[occurrences]", _OCCURRENCES)
        .replace("[gain]", "2.2")
        .replace("[k1]", "1.2")
        .replace("[b]", "0.75")
    )
