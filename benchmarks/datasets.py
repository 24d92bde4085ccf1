"""Sets of vectors that have neighbours worth finding, with queries that are not among them.

* ``fashion``: Fashion-MNIST, 60,000 images of 784 pixels, 1,000 of its 10,000 test images as queries, Euclidean
  distance (the fashion-mnist-784-euclidean of ann-benchmarks). From Debian's package ``dataset-fashion-mnist``.
* ``docstrings``: up to 500,000 passages of 384 dimensions, cosine distance; no download. See ``benchmarks.passages``.

Uniform random vectors have no place here: all of them are equally far from each other.
"""

from __future__ import annotations

import argparse
import gzip
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

CACHE = Path(__file__).parents[1] / ".bench"
FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_QUERIES = 1000
# Scores are sums of float32: the same distance computed twice may differ in the last digits.
_TOLERANCE = 1e-6
_QUERIES_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Dataset:
    """Vectors by number, and queries; ``metric`` is ours: l2 or cosine."""

    name: str
    metric: str
    vectors: Matrix
    queries: Matrix

    @property
    def dimension(self) -> int:
        return int(self.vectors.shape[1])

    @property
    def title(self) -> str:
        return f"{self.name}, {len(self.vectors):,} x {self.dimension}, {self.metric}"


class Truth:
    """The nearest neighbours by comparing every vector: what ``k`` matches of each query have at least to score."""

    def __init__(self, dataset: Dataset, queries: Matrix, k: int, members: NDArray[np.int64] | None = None) -> None:
        """``members``: the numbers of the vectors in question; all of them unless given."""
        self._vectors = dataset.vectors
        self._euclidean = dataset.metric == "l2"
        self._queries = queries
        self._members = None if members is None else frozenset(members.tolist())
        among = dataset.vectors if members is None else dataset.vectors[members]
        self.wanted = min(k, len(among))
        self._least = np.concatenate([self._kth_best(part, among) for part in _parts(queries)])

    def recall(self, found: Sequence[Sequence[int]]) -> float:
        """The part of the nearest that ``found`` has, query by query; of equally far ones any counts."""
        if self.wanted == 0:
            return 1.0
        hits = 0
        for query, least, ids in zip(self._queries, self._least, found, strict=True):
            told = [one for one in dict.fromkeys(ids) if self._members is None or one in self._members]
            scores = self._score(query[None], self._vectors[told[: self.wanted]])[0]
            hits += int((scores >= least - _TOLERANCE * max(1.0, abs(least))).sum())
        return hits / (len(found) * self.wanted)

    def _kth_best(self, queries: Matrix, among: Matrix) -> Matrix:
        if self.wanted == 0:
            return np.zeros(len(queries), dtype=np.float32)
        scores = self._score(queries, among)
        return np.partition(scores, -self.wanted, axis=1)[:, -self.wanted]

    def _score(self, queries: Matrix, among: Matrix) -> Matrix:
        """Higher is nearer. Vectors under cosine have length 1, so the inner product decides."""
        scores: Matrix = queries @ among.T
        if self._euclidean:
            scores -= np.einsum("ij,ij->i", among, among) / 2
        return scores


def load(name: str, vectors: int | None = None, cache: Path = CACHE) -> Dataset:
    """The set, of which the first ``vectors`` are taken (all unless given)."""
    dataset = {"fashion": _load_fashion, "docstrings": _load_docstrings}[name](cache)
    if vectors is None:
        return dataset
    if vectors > len(dataset.vectors):
        raise SystemExit(f"{name} has {len(dataset.vectors):,} vectors; --vectors {vectors:,} are not there.")
    return Dataset(name, dataset.metric, dataset.vectors[:vectors], dataset.queries)


def add_options(parser: argparse.ArgumentParser, *, dataset: str, vectors: int | None) -> None:
    parser.add_argument("--dataset", choices=("fashion", "docstrings"), default=dataset)
    parser.add_argument("--vectors", type=int, default=vectors, help="how many of the set; all of it unless given")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where embedded passages are kept (1 GB)")


def _load_fashion(cache: Path) -> Dataset:
    if not FASHION_FOLDER.is_dir():
        raise SystemExit(f"{FASHION_FOLDER} is not there: apt-get install dataset-fashion-mnist (Debian, Ubuntu)")
    base, queries = (_read_images(FASHION_FOLDER / f"{part}-images-idx3-ubyte.gz") for part in ("train", "t10k"))
    return Dataset("fashion", "l2", base, queries[:_QUERIES])


def _read_images(path: Path) -> Matrix:
    with gzip.open(path) as file:
        raw = file.read()
    # Magic number, images, rows and columns precede the pixels.
    images = int.from_bytes(raw[4:8], "big")
    return np.frombuffer(raw, np.uint8, offset=16).reshape(images, -1).astype(np.float32)


def _load_docstrings(cache: Path) -> Dataset:
    folder = cache / "docstrings"
    if not folder.is_dir():
        from benchmarks.passages import embed_passages

        base, queries = embed_passages(_QUERIES)
        cache.mkdir(parents=True, exist_ok=True)
        unfinished = Path(tempfile.mkdtemp(dir=cache))
        np.save(unfinished / "base.npy", base)
        np.save(unfinished / "queries.npy", queries)
        try:
            os.rename(unfinished, folder)
        except OSError:
            # Another run was first; both made the same.
            shutil.rmtree(unfinished)
    base, queries = (np.load(folder / f"{part}.npy", mmap_mode="r") for part in ("base", "queries"))
    return Dataset("docstrings", "cosine", base, np.asarray(queries))


def _parts(queries: Matrix) -> list[Matrix]:
    return [queries[start : start + _QUERIES_AT_ONCE] for start in range(0, len(queries), _QUERIES_AT_ONCE)]
