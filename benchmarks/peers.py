"""Other vector stores, as ``benchmarks.worker`` searches with them. They live in an environment of their own:
requirements/peers.txt, ``make bench-peers``.
"""

from __future__ import annotations

import os
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.worker import EF_CONSTRUCTION, EF_SEARCH, M

_BATCH = 5000


class Chroma:
    """chromadb's server over HTTP, by its own client. Its HNSW index is built while vectors are added.

    What ``ef_search`` a collection is made with its server keeps until it is started again: there is no effort to aim.
    """

    def __init__(self, port: int, metric: str, folder: str) -> None:
        os.environ["ANONYMIZED_TELEMETRY"] = "False"
        import chromadb

        hnsw: Any = {"space": metric, "max_neighbors": M, "ef_construction": EF_CONSTRUCTION, "ef_search": EF_SEARCH}
        client = chromadb.HttpClient(host="127.0.0.1", port=port)
        self._collection = client.get_or_create_collection(
            "bench", configuration={"hnsw": hnsw}, embedding_function=None
        )
        self._folder = folder

    def load(self, vectors: Any) -> dict[str, float]:
        started = time.perf_counter()
        for start in range(0, len(vectors), _BATCH):
            batch = vectors[start : start + _BATCH]
            self._collection.add(ids=[str(i) for i in range(start, start + len(batch))], embeddings=batch)
        # The log is worked off in the background: a search has to wait for it.
        self.search(vectors[0])
        return {"write_s": time.perf_counter() - started, "index_s": 0.0, "bytes": _bytes_of(self._folder)}

    def aim(self, effort: int | None) -> None:
        assert effort in (None, EF_SEARCH)

    def search(self, query: Any) -> list[int]:
        answer = self._collection.query(query_embeddings=[query], n_results=10, include=["distances"])
        return [int(id) for id in answer["ids"][0]]


class Lance:
    """lancedb in this process: IVF_HNSW_SQ, twice as many candidates compared by their full vectors."""

    def __init__(self, folder: str, metric: str) -> None:
        import lancedb

        self._folder = folder
        self._metric = metric
        self._database = lancedb.connect(folder)
        self._table = self._database.open_table("bench") if "bench" in self._database.table_names() else None
        self._effort = EF_SEARCH

    def load(self, vectors: Any) -> dict[str, float]:
        import pyarrow as pa

        dimension = vectors.shape[1]
        started = time.perf_counter()
        for start in range(0, len(vectors), _BATCH):
            batch = vectors[start : start + _BATCH]
            column = pa.FixedSizeListArray.from_arrays(pa.array(batch.reshape(-1)), dimension)
            rows = pa.table({"id": pa.array(range(start, start + len(batch)), pa.int64()), "vector": column})
            if self._table is None:
                self._table = self._database.create_table("bench", rows)
            else:
                self._table.add(rows)
        assert self._table is not None
        written = time.perf_counter()
        self._table.create_index(
            metric=self._metric,
            index_type="IVF_HNSW_SQ",
            num_partitions=1,
            m=M,
            ef_construction=EF_CONSTRUCTION,
            wait_timeout=timedelta(hours=1),
        )
        indexed = time.perf_counter()
        self._table.optimize()
        return {"write_s": written - started, "index_s": indexed - written, "bytes": _bytes_of(self._folder)}

    def aim(self, effort: int | None) -> None:
        self._effort = effort or EF_SEARCH

    def search(self, query: Any) -> list[int]:
        assert self._table is not None
        asked = self._table.search(query).limit(10).ef(self._effort).refine_factor(2).select(["id", "_distance"])
        ids: list[int] = asked.to_arrow()["id"].to_pylist()
        return ids


def _bytes_of(folder: str) -> int:
    return sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
