"""Recall and speed of Vecmeter beside raw pgvector, chromadb and lancedb, over the same vectors in the same run.

    make bench-peers      once: the peers, in an environment of their own
    .venv/bin/python -m benchmarks.recall_speed --dataset fashion

Every client is a process. Rounds go from one subject to the next, so that a slow moment of the machine meets all of
them; what counts is the ratio. Prints Markdown.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks import datasets
from benchmarks.processes import Clients, chroma_server, http_server, require_peers
from benchmarks.stack import stack
from benchmarks.subjects import COLLECTION, PROJECT
from benchmarks.worker import EF_CONSTRUCTION, M

TOP_K = 10
MANY = 8
_RAW = "raw pgvector"
# What each subject's effort may be: ef_search. None: what a search gets that names none.
EFFORTS: dict[str, Sequence[int | None]] = {
    _RAW: (40, 100, 200),
    "vecmeter, search alone": (None, 40, 100, 200),
    "vecmeter, handler": (None,),
    "vecmeter, HTTP": (None,),
    "chromadb, HTTP": (100,),
    "lancedb, in process": (40, 100, 200),
}
PEERS = ("chromadb, HTTP", "lancedb, in process")
# The others search what these have written.
LOADERS = (_RAW, "vecmeter, HTTP", *PEERS)


@dataclass(slots=True)
class Figures:
    milliseconds: list[float] = field(default_factory=list)
    found: list[list[int]] = field(default_factory=list)
    per_second: dict[int, list[float]] = field(default_factory=dict)


def main() -> None:
    options = _options()
    dataset = datasets.load(options.dataset, options.vectors, options.cache)
    with tempfile.TemporaryDirectory(prefix="vecmeter-bench-") as name, stack(roomy=True) as dsn:
        folder = Path(name)
        np.save(folder / "vectors.npy", dataset.vectors)
        np.save(folder / "queries.npy", dataset.queries)
        with _subjects(options.subjects, dataset, dsn, folder) as subjects:
            print(f"### {dataset.title}\n")
            _load(subjects, str(folder / "vectors.npy"), len(dataset.vectors))
            truth = datasets.Truth(dataset, dataset.queries, TOP_K)
            figures = _measure(subjects, str(folder / "queries.npy"), len(dataset.queries), options)
            _print(figures, truth, options)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    datasets.add_options(parser, dataset="fashion", vectors=None)
    parser.add_argument("--rounds", type=int, default=5, help="the queries are dealt out to them")
    parser.add_argument("--seconds", type=float, default=1.5, help="of searching, per round and number of clients")
    parser.add_argument("--subjects", nargs="+", choices=EFFORTS, default=list(EFFORTS), metavar="SUBJECT")
    return parser.parse_args()


@contextmanager
def _subjects(names: Sequence[str], dataset: datasets.Dataset, dsn: str, folder: Path) -> Iterator[dict[str, Clients]]:
    secret = _create_collection(dataset)
    with ExitStack() as ends:
        port = ends.enter_context(http_server())
        subjects = {
            _RAW: Clients(
                "benchmarks.subjects:RawPgvector",
                {"dsn": dsn, "dimension": dataset.dimension, "metric": dataset.metric},
            ),
            "vecmeter, search alone": Clients("benchmarks.subjects:VecmeterSearcher", {}),
            "vecmeter, handler": Clients("benchmarks.subjects:VecmeterHandler", {"secret": secret}),
            "vecmeter, HTTP": Clients("benchmarks.subjects:VecmeterHttp", {"secret": secret, "port": port}),
        }
        if set(names) & set(PEERS):
            python = require_peers()
            chroma, lance = folder / "chroma", folder / "lance"
            chroma_port = ends.enter_context(chroma_server(chroma))
            place = {"port": chroma_port, "metric": dataset.metric, "folder": str(chroma)}
            subjects["chromadb, HTTP"] = Clients("benchmarks.peers:Chroma", place, python)
            place = {"folder": str(lance), "metric": dataset.metric}
            subjects["lancedb, in process"] = Clients("benchmarks.peers:Lance", place, python)
        for clients in subjects.values():
            ends.callback(clients.close)
        yield {name: subjects[name] for name in names}


def _create_collection(dataset: datasets.Dataset) -> str:
    """The collection, and a key for it whose limits are never reached."""
    from vecmeter.ledger.model import Policy, Role
    from vecmeter.runtime import runtime
    from vecmeter.vectors.model import IndexDefinition, Metric

    process = runtime()
    process.projects.create(project_id=PROJECT, user_id="bench", name=None)
    policy = Policy(daily_requests=10**9, monthly_requests=10**9)
    key = process.keys.create(user_id="bench", project_id=PROJECT, roles=(Role.SEARCH, Role.WRITE), policy=policy)
    index = IndexDefinition(m=M, ef_construction=EF_CONSTRUCTION)
    process.collections.create(
        PROJECT, COLLECTION, dimension=dataset.dimension, metric=Metric(dataset.metric), index=index, embedder=None
    )
    return key.secret


def _load(subjects: dict[str, Clients], vectors: str, count: int) -> None:
    print("| | write s | vectors/s | index s | both, vectors/s | MB on disk |\n|---|---|---|---|---|---|")
    for name, clients in subjects.items():
        if name not in LOADERS:
            continue
        (took,) = clients.order(1, {"do": "load", "vectors": vectors})
        write, index = took["write_s"], took["index_s"]
        figures = [f"{write:.1f}", f"{count / write:,.0f}", f"{index:.1f}", f"{count / (write + index):,.0f}"]
        print(f"| {name} | {' | '.join(figures)} | {took['bytes'] / 1e6:,.0f} |", flush=True)
    print()


def _measure(
    subjects: dict[str, Clients], queries: str, count: int, options: argparse.Namespace
) -> dict[tuple[str, int | None], Figures]:
    figures = {(name, effort): Figures() for name in subjects for effort in EFFORTS[name]}
    for turn in range(options.rounds):
        first, last = count * turn // options.rounds, count * (turn + 1) // options.rounds
        for (name, effort), figure in figures.items():
            _take_turn(subjects[name], effort, figure, queries, (first, last), options.seconds)
    return figures


def _take_turn(
    clients: Clients, effort: int | None, figure: Figures, queries: str, part: tuple[int, int], seconds: float
) -> None:
    first, last = part
    clients.order(MANY, {"do": "warm_up", "queries": queries, "effort": effort})
    (answer,) = clients.order(1, {"do": "ask", "queries": queries, "first": first, "last": last})
    figure.milliseconds += answer["ms"]
    figure.found += answer["found"]
    for count in (1, MANY):
        order = {"do": "keep_asking", "queries": queries, "start": time.monotonic() + 0.1, "seconds": seconds}
        answered = sum(one["answered"] for one in clients.order(count, order))
        figure.per_second.setdefault(count, []).append(answered / seconds)


def _print(figures: dict[tuple[str, int | None], Figures], truth: datasets.Truth, options: argparse.Namespace) -> None:
    print(f"| | ef_search | recall@{TOP_K} | p50 ms | p99 ms | searches/s, 1 client | {MANY} clients | p50 to raw |")
    print("|---|---|---|---|---|---|---|---|")
    raw = {effort: statistics.median(one.milliseconds) for (name, effort), one in figures.items() if name == _RAW}
    for (name, effort), figure in figures.items():
        median = statistics.median(figure.milliseconds)
        p99 = statistics.quantiles(figure.milliseconds, n=100)[98]
        beside = raw.get(effort or 100)
        speeds = [f"{statistics.median(figure.per_second[clients]):,.0f}" for clients in (1, MANY)]
        columns = [f"{truth.recall(figure.found):.4f}", f"{median:.2f}", f"{p99:.2f}", *speeds]
        columns.append(f"{median / beside:.2f}" if beside else "")
        print(f"| {name} | {effort or 'none given'} | {' | '.join(columns)} |")
    print(f"\n{options.rounds} rounds, each from subject to subject; {options.seconds:g} s per round for searches/s.")


if __name__ == "__main__":
    main()
