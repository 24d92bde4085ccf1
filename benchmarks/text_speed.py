"""How long searches by words, by both and by vector take among many documents.

    .venv/bin/python -m benchmarks.text_speed --documents 500000

The documents are paragraphs of the docstrings of the standard library and of what is installed, put together at random,
so that there are as many as are wanted; the questions are runs of a few words from one of them, as somebody would type
who half remembers it. The searches take turns.
"""

from __future__ import annotations

import argparse
import ast
import os
import random
import re
import statistics
import sysconfig
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import batched, islice
from pathlib import Path

from benchmarks.text_quality import database_server
from vecmeter.embedding.built_in import load_built_in_embedder
from vecmeter.errors import CollectionNotFoundError
from vecmeter.runtime import Runtime, build_runtime
from vecmeter.settings import Settings
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.model import Collection, IndexDefinition, Metric, Mode, Query, Vector
from vecmeter.vectors.turns import Orders

DIMENSION = 64
NAMESPACES = ("", "customer")
# One document of so many lies in the second namespace.
CUSTOMER = 100
QUESTIONS = 100


def paragraphs() -> list[list[str]]:
    """Of each file's docstrings."""
    found = []
    for folder in dict.fromkeys(sysconfig.get_path(name) for name in ("stdlib", "purelib")):
        for path in sorted(Path(folder).rglob("*.py")):
            with suppress(SyntaxError, ValueError), warnings.catch_warnings(action="ignore"):
                tree = ast.parse(path.read_bytes())
                texts = [ast.get_docstring(node) or "" for node in ast.walk(tree) if isinstance(node, _DOCUMENTED)]
                parts = [part for text in texts for part in re.split(r"\n\s*\n", text) if len(part) > 30]
                found.append(parts)
    return [parts for parts in found if parts]


_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def documents(rng: random.Random) -> Iterator[str]:
    """A paragraph of a file, and often more of the file, and sometimes of any other."""
    files = paragraphs()
    everything = [part for parts in files for part in parts]
    while True:
        parts = [rng.choice(everything)]
        if rng.random() < 0.2:
            parts += rng.sample(file := rng.choice(files), min(len(file), 2))
        if rng.random() < 0.5:
            parts.append(rng.choice(everything))
        if rng.random() < 0.15:
            parts += rng.choices(everything, k=rng.randint(1, 6))
        yield " ".join(parts).replace("\x00", "")


def question(rng: random.Random, document: str) -> str:
    words = re.findall(r"[A-Za-z]{3,}", document)
    start = rng.randrange(max(1, len(words) - 6))
    return " ".join(words[start : start + rng.randint(2, 6)])


def load(runtime: Runtime, count: int) -> tuple[Collection, list[str]]:
    """A collection of so many documents, indexed, and questions about some of them."""
    embedder = load_built_in_embedder(DIMENSION)
    with suppress(CollectionNotFoundError):
        return runtime.collections.get("bench", "documents"), _questions(count)
    collection = runtime.collections.create(
        "bench",
        "documents",
        dimension=DIMENSION,
        metric=Metric.COSINE,
        index=IndexDefinition(ef_construction=64),
        embedder=None,
        options=Options(text_search="english"),
    )
    for batch in batched(enumerate(islice(documents(random.Random(1)), count)), 1000):
        embedded = embedder.embed_documents([text for _, text in batch])
        runtime.records.upsert(
            collection,
            [
                Vector(
                    id=str(at), document=text, numbers=numbers, namespace=NAMESPACES[at % CUSTOMER == 0],
                    metadata={"tenth": at % 10, "thousandth": at % 1000},
                )
                for (at, text), numbers in zip(batch, embedded.vectors, strict=True)
            ],
        )  # fmt: skip
    _say("written")
    runtime.maintenance.build_indexes([collection])
    runtime.maintenance.vacuum_analyze([collection], Orders(force=True))
    _say("indexed")
    return runtime.collections.use("bench", "documents", lambda found: found, fresh=True), _questions(count)


def _questions(count: int) -> list[str]:
    """About some of the documents."""
    rng = random.Random(2)
    of = rng.sample(list(islice(documents(random.Random(1)), min(count, 20_000))), QUESTIONS)
    return [asked for document in of if (asked := question(rng, document))]


def measure(
    runtime: Runtime, collection: Collection, asked: list[str]
) -> tuple[dict[tuple[str, str], list[float]], dict[tuple[str, str], float]]:
    """Milliseconds of each search, and of the server's CPU on average, by its mode and by what it is narrowed to."""
    server_cpu = _backend_cpu(runtime)
    vectors = load_built_in_embedder(DIMENSION).embed_queries(asked).vectors
    narrowed = {
        "": Query(),
        "filter 10 %": Query(filter={"tenth": 3}),
        "filter 0.1 %": Query(filter={"thousandth": 7}),
        "namespace 1 %": Query(namespace=NAMESPACES[1]),
    }
    taken: dict[tuple[str, str], list[float]] = {}
    used: dict[tuple[str, str], float] = {}
    for text, numbers in zip(asked, vectors, strict=True):
        for name, to in narrowed.items():
            for mode in Mode:
                query = Query(mode=mode, text=text, numbers=numbers, filter=to.filter, namespace=to.namespace)
                started, cpu = time.perf_counter(), server_cpu()
                runtime.searcher.search(collection, query)
                taken.setdefault((mode.value, name), []).append((time.perf_counter() - started) * 1000)
                used[mode.value, name] = used.get((mode.value, name), 0.0) + (server_cpu() - cpu) * 1000
    return taken, {key: total / len(taken[key]) for key, total in used.items()}


def _backend_cpu(runtime: Runtime) -> Callable[[], float]:
    """Seconds of CPU that the one session of the database has used, whatever else the machine does."""
    [pid] = runtime.database.run(lambda c: c.execute("SELECT pg_backend_pid()").fetchone()) or [0]
    clock = os.sysconf("SC_CLK_TCK")

    def seconds() -> float:
        # Up to its last bracket the line has the program's name; 12 and 13 of what follows are user and system time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / clock

    return seconds


def _say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, help="keep the database there, or use what is there")
    options = parser.parse_args()
    # Nothing is asked of AWS; the objects want to know where it would be.
    os.environ.setdefault("AWS_DEFAULT_REGION", "us-east-1")
    os.environ.setdefault("AWS_ACCESS_KEY_ID", "none")
    os.environ.setdefault("AWS_SECRET_ACCESS_KEY", "none")
    with database_server(options.folder) as dsn:
        settings = {"DATABASE_URL": dsn, "TABLE_NAME": "none", "STATEMENT_TIMEOUT_MS": "600000"}
        runtime = build_runtime(Settings.from_environment(settings))
        collection, asked = load(runtime, options.documents)
        taken, used = measure(runtime, collection, asked)
        runtime.database.close()
    print(f"{options.documents} documents, {len(asked)} questions, top_k 10, ms")
    print(f"{'':10}{'':16}{'p50':>8}{'p95':>8}{'max':>8}{'CPU mean':>10}")
    for (mode, name), times in taken.items():
        p50, p95 = statistics.median(times), statistics.quantiles(times, n=20)[18]
        print(f"{mode:10}{name:16}{p50:8.1f}{p95:8.1f}{max(times):8.1f}{used[mode, name]:10.1f}")


if __name__ == "__main__":
    main()
