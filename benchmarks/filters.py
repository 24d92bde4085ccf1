"""How long it takes to find what a filter lets through, with the field declared filterable and without.

    .venv/bin/python -m benchmarks.filters [--rows 100000]

The times are those of the statement that finds a search's candidates, up to 10,000 of them, in a namespace with half of
the rows; planning included. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import psycopg

from benchmarks.stack import stack
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Database
from vecmeter.vectors.field_indexes import create_index
from vecmeter.vectors.filters import compile_filter
from vecmeter.vectors.model import Collection, FieldType, FilterableField, IndexDefinition, IndexType, Metric
from vecmeter.vectors.tables import statement

SHARES = (0.5, 0.1, 0.01, 0.001)
DECLARED = (
    FilterableField("number", FieldType.NUMBER),
    FilterableField("text", FieldType.STRING),
    FilterableField("label", FieldType.STRING),
    FilterableField("tags", FieldType.STRING),
)
CANDIDATES = """
    SELECT count(*) FROM (
        SELECT r.record_id FROM {records} r WHERE r.namespace = %(namespace)s AND [filter] LIMIT 10001
    ) candidates
"""
REPETITIONS = 15


def metadata(position: int, count: int) -> dict[str, Any]:
    place = (position * 7919) % count  # each once, in no order
    return {
        "number": place,
        "text": f"{place:07d}",
        "label": "half" if place % 2 else "tenth" if place % 10 == 0 else f"label {place % 1000}",
        "tags": ["all", f"tag {place % 100}", f"rare {place % 1000}"],
        "title": "about as many words as the title and the source of a document have " * 3,
    }


def cases(count: int) -> Iterator[tuple[str, dict[str, Any]]]:
    for share in SHARES:
        low = count // 3
        high = low + int(share * count)
        yield f"range of numbers, {share:.1%}", {"number": {"$gte": low, "$lt": high}}
        yield f"range of texts, {share:.1%}", {"text": {"$gte": f"{low:07d}", "$lt": f"{high:07d}"}}
    yield "equal, 50.0%", {"label": "half"}
    yield "equal, 10.0%", {"label": "tenth"}
    yield "equal, 0.1%", {"label": "label 4"}
    yield "list contains, 1.0%", {"tags": {"$contains": "tag 17"}}
    yield "list contains, 0.1%", {"tags": {"$contains": "rare 17"}}
    for length in (10, 32, 33, 1000, 10_000):
        yield f"one of {length:,} texts", {"text": {"$in": [f"{count * n // length:07d}" for n in range(length)]}}
    yield "has a text, texts, 0.1%", {"label": {"$has": "label 4"}}
    yield "has a text, texts, 50.0%", {"label": {"$has": "half"}}
    yield "has a text, lists, 1.0%", {"tags": {"$has": "tag 17"}}
    yield "has a text, lists, 0.1%", {"tags": {"$has": "rare 17"}}
    for length in (10, 33, 10_000):
        yield f"has any of {length:,}, texts", {"text": {"$has": [f"{count * n // length:07d}" for n in range(length)]}}
        yield f"has any of {length:,}, lists", {"tags": {"$has": [f"rare {n}" for n in range(length)]}}
    yield "not equal, 50.0%", {"label": {"$ne": "half"}}


def median_ms(connection: psycopg.Connection, text: bytes, parameters: dict[str, Any]) -> tuple[float, int]:
    taken, found = [], 0
    for _ in range(REPETITIONS):
        start = time.perf_counter()
        row = connection.execute(text, parameters).fetchone()
        taken.append((time.perf_counter() - start) * 1e3)
        found = row[0] if row else 0
    return statistics.median(taken), found


def fill(connection: psycopg.Connection, collection: Collection, count: int) -> None:
    insert = statement("COPY {records} (namespace, id, metadata) FROM STDIN", collection)
    with connection.cursor().copy(insert) as copy:
        for position in range(count):
            copy.write_row((str(position // 7 % 2), str(position), json.dumps(metadata(position, count))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    count = parser.parse_args().rows
    with stack() as dsn, psycopg.connect(dsn, autocommit=True, options="-c plan_cache_mode=force_custom_plan") as own:
        collections = Collections(Database(lambda: dsn))
        options: dict[str, Any] = {"metric": Metric.COSINE, "index": IndexDefinition(type=IndexType.NONE)}
        collection = collections.create("bench", "filters", dimension=2, embedder=None, **options)
        fill(own, collection, count)
        own.execute(statement("VACUUM ANALYZE {records}", collection))
        times: dict[str, list[float]] = {}
        passed: dict[str, int] = {}
        for fields in ((), DECLARED):
            for field in fields:
                own.execute(create_index(collection, field))
            own.execute(statement("ANALYZE {records}", collection))
            for name, filter in cases(count):
                compiled = compile_filter(filter, fields)
                assert compiled is not None
                text = statement(CANDIDATES.replace("[filter]", compiled.expression), collection)
                taken, passed[name] = median_ms(own, text, {"namespace": "1", **compiled.parameters})
                times.setdefault(name, []).append(taken)
        print(f"{count:,} rows, half of them in the namespace; median of {REPETITIONS}, ms\n")
        print("| filter | passes | undeclared | declared |\n|---|---|---|---|")
        for name, (undeclared, declared) in times.items():
            print(f"| {name} | {min(passed[name], 10_000):,} | {undeclared:.1f} | {declared:.1f} |")


if __name__ == "__main__":
    main()
