"""Vecmeter by its three entrances, and raw pgvector: what ``benchmarks.worker`` searches with."""

from __future__ import annotations

import base64
import json
import socket
import time
from array import array
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import Any

import numpy as np
import psycopg

from benchmarks.in_process import build_indexes
from benchmarks.search_request import event
from benchmarks.worker import EF_CONSTRUCTION, M
from vecmeter.runtime import runtime
from vecmeter.vectors.model import Query
from vecmeter.vectors.packing import configure, pack_vector
from vecmeter.vectors.turns import Orders

PROJECT, COLLECTION = "bench", "bench"
PATH = f"/v1/projects/{PROJECT}/collections/{COLLECTION}"
_BATCH = 1000
# The server closes a connection that rests for five seconds.
_SERVER_WAITS_SECONDS = 3
_COPY = "COPY bench_raw (id, embedding) FROM STDIN (FORMAT binary)"
# The leanest search there is: the index alone, prepared once, planned once. Formatted with the set's own figures.
_RAW_SEARCH = """
    SELECT id,
        embedding::halfvec({dimension}) {operator} %(numbers)b::vector({dimension})::halfvec({dimension}) AS distance
    FROM bench_raw ORDER BY distance LIMIT 10
"""
_OPERATORS = {"l2": ("<->", "halfvec_l2_ops"), "cosine": ("<=>", "halfvec_cosine_ops")}


class RawPgvector:
    """psycopg and pgvector with its best settings: a half precision index, prepared, without a plan per search."""

    def __init__(self, dsn: str, dimension: int, metric: str) -> None:
        self._connection = psycopg.connect(
            dsn, autocommit=True, prepare_threshold=0, options="-c plan_cache_mode=force_generic_plan"
        )
        configure(self._connection)
        self._dimension = dimension
        operator, self._opclass = _OPERATORS[metric]
        self._search = _RAW_SEARCH.format(dimension=dimension, operator=operator).encode()

    def load(self, vectors: Any) -> dict[str, float]:
        run = self._connection.execute
        run(f"CREATE TABLE bench_raw (id bigint PRIMARY KEY, embedding vector({self._dimension}))".encode())
        started = time.perf_counter()
        with self._connection.cursor().copy(_COPY) as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
            for start in range(0, len(vectors), _BATCH):
                copy.write(_copied(start, vectors[start : start + _BATCH]))
            copy.write(b"\xff\xff")
        written = time.perf_counter()
        run("SET maintenance_work_mem = '2GB'")
        run(
            f"CREATE INDEX ON bench_raw USING hnsw ((embedding::halfvec({self._dimension})) {self._opclass}) "
            f"WITH (m = {M}, ef_construction = {EF_CONSTRUCTION})".encode()
        )
        indexed = time.perf_counter()
        run("VACUUM ANALYZE bench_raw")
        size = run("SELECT pg_total_relation_size('bench_raw')").fetchone()
        assert size is not None
        return {"write_s": written - started, "index_s": indexed - written, "bytes": size[0]}

    def aim(self, effort: int | None) -> None:
        self._connection.execute("SELECT set_config('hnsw.ef_search', %s, false)", [str(effort or 40)])

    def search(self, query: Any) -> list[int]:
        numbers = pack_vector(array("f", query.tobytes()))
        return [row[0] for row in self._connection.execute(self._search, {"numbers": numbers}).fetchall()]


class VecmeterSearcher:
    """The search itself in this process: no HTTP, no ledger."""

    def __init__(self) -> None:
        self._runtime = runtime()
        self._ef_search: int | None = None

    def aim(self, effort: int | None) -> None:
        self._ef_search = effort

    def search(self, query: Any) -> list[int]:
        collection = self._runtime.collections.get(PROJECT, COLLECTION)
        asked = Query(numbers=array("f", query.tobytes()), top_k=10, include_metadata=False, ef_search=self._ef_search)
        return [int(match.id) for match in self._runtime.searcher.search(collection, asked).matches]


class VecmeterHandler:
    """The Lambda function's handler with an API Gateway event: the whole request, ledger included."""

    def __init__(self, secret: str) -> None:
        from search_function.handler import handler

        self._handler = handler
        self._secret = secret
        self._effort: dict[str, int] = {}

    def aim(self, effort: int | None) -> None:
        self._effort = {} if effort is None else {"ef_search": effort}

    def search(self, query: Any) -> list[int]:
        body = {"vector": _base64(query), "include": [], **self._effort}
        answer = self._handler(
            event(f"{PATH}/search", self._secret, body),
            SimpleNamespace(aws_request_id="bench", get_remaining_time_in_millis=lambda: 29_000),
        )
        assert answer["statusCode"] == 200, answer
        return [int(match["id"]) for match in json.loads(answer["body"])["matches"]]


class VecmeterHttp:
    """The local server over HTTP, as a client sees it."""

    def __init__(self, secret: str, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=120)
        self._used_at = 0.0
        self._headers = {"Authorization": f"Bearer {secret}", "Content-Type": "application/json"}
        self._effort: dict[str, int] = {}

    def load(self, vectors: Any) -> dict[str, float]:
        started = time.perf_counter()
        for start in range(0, len(vectors), _BATCH):
            batch = enumerate(vectors[start : start + _BATCH], start)
            self._post("/vectors", {"vectors": [{"id": str(i), "vector": _base64(v)} for i, v in batch]})
        written = time.perf_counter()
        process = runtime()
        build_indexes(process, process.maintenance.select())
        indexed = time.perf_counter()
        process.maintenance.vacuum_analyze(process.maintenance.select(), Orders(force=True))
        collection = process.collections.use(PROJECT, COLLECTION, lambda found: found, fresh=True)
        size = process.collections.size(collection)
        return {"write_s": written - started, "index_s": indexed - written, "bytes": size.bytes}

    def aim(self, effort: int | None) -> None:
        self._effort = {} if effort is None else {"ef_search": effort}

    def search(self, query: Any) -> list[int]:
        answer = self._post("/search", {"vector": _base64(query), "include": [], **self._effort})
        return [int(match["id"]) for match in answer["matches"]]

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if time.monotonic() - self._used_at > _SERVER_WAITS_SECONDS:
            self._connection.close()
            self._connection.connect()
            self._connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._used_at = time.monotonic()
        self._connection.request("POST", PATH + path, json.dumps(body), self._headers)
        response = self._connection.getresponse()
        content = response.read()
        assert response.status == 200, content
        answer: dict[str, Any] = json.loads(content)
        return answer


def _copied(first: int, vectors: Any) -> bytes:
    """Rows of binary COPY, made all at once: number of columns, then each with its length; big-endian."""
    dimension = vectors.shape[1]
    fields = ["columns >i2", "id_bytes >i4", "id >i8", "vector_bytes >i4", "dimension >i2", "unused >i2"]
    row = np.dtype([tuple(field.split()) for field in fields] + [("numbers", ">f4", dimension)])
    rows = np.zeros(len(vectors), row)
    rows["columns"], rows["id_bytes"], rows["vector_bytes"], rows["dimension"] = 2, 8, 4 + 4 * dimension, dimension
    rows["id"] = np.arange(first, first + len(vectors))
    rows["numbers"] = vectors
    return rows.tobytes()


def _base64(vector: Any) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
