"""How good the matches of vector, text and hybrid search are: graded nDCG@10 on Cranfield.

    .venv/bin/python -m benchmarks.text_quality <folder with cran.all.1400, cran.qry and cranqrel>

1,400 abstracts of aerodynamics and 225 questions with graded judgements (Cleverdon, 1967). The collection is a real one
and the searches are those of the search function, with the built-in embedder; CRANFIELD may name the folder instead.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from vecmeter.embedding.registry import get_embedder
from vecmeter.vectors.collections import Collections
from vecmeter.vectors.connection import Database
from vecmeter.vectors.definitions import Options
from vecmeter.vectors.migrations.runner import migrate
from vecmeter.vectors.model import Collection, Fusion, IndexDefinition, Metric, Mode, Query, Vector
from vecmeter.vectors.records import Records
from vecmeter.vectors.search import Searcher
from vecmeter_local.postgres import PostgresServer

TOP_K = 10
DIMENSION = 256
# How the relevance codes of the collection count: 1 is a complete answer, 4 of minimum interest.
GAINS = {1: 4, 2: 3, 3: 2, 4: 1}
# By title: what a search is asked for.
SEARCHES: Mapping[str, Query] = {
    "vector": Query(mode=Mode.VECTOR),
    "text": Query(mode=Mode.TEXT),
    **{
        f"hybrid, {fusion.value}, text_weight {weight}": Query(mode=Mode.HYBRID, fusion=fusion, text_weight=weight)
        for fusion in Fusion
        for weight in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    },
    "hybrid, as it is": Query(mode=Mode.HYBRID),
}


@dataclass(frozen=True, slots=True)
class Cranfield:
    """``relevant``: by the number of a question, the gain of each document that was judged."""

    documents: dict[str, str]
    questions: dict[int, str]
    relevant: dict[int, dict[str, int]]


def read_cranfield(folder: Path) -> Cranfield:
    documents = {
        number: " ".join((fields["T"] + " " + fields["W"]).split())
        for number, fields in _entries(folder / "cran.all.1400")
    }
    # The judgements number the questions from 1 on, in their order; the file does not.
    questions = {
        position: " ".join(fields["W"].split())
        for position, (_, fields) in enumerate(_entries(folder / "cran.qry"), start=1)
    }
    relevant: dict[int, dict[str, int]] = {}
    for line in (folder / "cranqrel").read_text().splitlines():
        question, document, code = line.split()[:3]
        relevant.setdefault(int(question), {})[document] = GAINS.get(int(code), 0)
    return Cranfield(documents, questions, relevant)


def _entries(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Each ``.I`` with what stands below its ``.T``, ``.A``, ``.B`` and ``.W``."""
    for entry in re.split(r"^\.I ", path.read_text(), flags=re.MULTILINE)[1:]:
        number, _, rest = entry.partition("\n")
        parts = re.split(r"^\.([TABW])\s*$", rest, flags=re.MULTILINE)
        fields = dict.fromkeys("TABW", "")
        for name, text in zip(parts[1::2], parts[2::2], strict=True):
            fields[name] += text
        yield number.strip(), fields


def ndcg(found: list[str], gains: Mapping[str, int]) -> float:
    """Discounted gain of the first ten against that of the best ten there are."""
    best = sorted(gains.values(), reverse=True)[:TOP_K]
    reached = _discounted([gains.get(id, 0) for id in found[:TOP_K]])
    return reached / _discounted(best) if any(best) else 0.0


def _discounted(gains: list[int]) -> float:
    return sum((2**gain - 1) / math.log2(rank + 1) for rank, gain in enumerate(gains, start=1))


@contextmanager
def database_server(folder: Path | None = None) -> Iterator[str]:
    """PostgreSQL in a folder that is kept, or in a temporary one; its DSN."""
    with tempfile.TemporaryDirectory(prefix="vecmeter-bench-") as temporary:
        home = folder or Path(temporary)
        home.mkdir(parents=True, exist_ok=True)
        home.chmod(0o711)
        server = PostgresServer(home, durable=False)
        dsn = server.start()
        try:
            migrate(dsn)
            yield dsn
        finally:
            server.stop()


def load(opened: Database, cranfield: Cranfield, language: str) -> Collection:
    collection = Collections(opened).create(
        "cranfield",
        language,
        dimension=DIMENSION,
        metric=Metric.COSINE,
        index=IndexDefinition(),
        embedder=None,
        options=Options(text_search=language),
    )
    texts = list(cranfield.documents.items())
    embedded = get_embedder("built-in", None, DIMENSION).embed_documents([text or "nothing" for _, text in texts])
    vectors = [
        Vector(id=id, document=text, numbers=numbers)
        for (id, text), numbers in zip(texts, embedded.vectors, strict=True)
    ]
    for start in range(0, len(vectors), 1000):
        Records(opened, 1000).upsert(collection, vectors[start : start + 1000])
    return collection


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", default=os.environ.get("CRANFIELD"))
    options = parser.parse_args()
    if options.folder is None:
        parser.error("say where Cranfield lies")
    cranfield = read_cranfield(options.folder)
    embedder = get_embedder("built-in", None, DIMENSION)
    embedded = embedder.embed_queries([cranfield.questions[number] for number in cranfield.relevant])
    asked = dict(zip(cranfield.relevant, embedded.vectors, strict=True))
    print(f"graded nDCG@10, {len(cranfield.documents)} documents, {len(asked)} questions")
    with database_server() as dsn:
        opened = Database(lambda: dsn)
        searcher = Searcher(opened, exact_threshold=2000)
        for language in ("english", "simple"):
            collection = load(opened, cranfield, language)
            for title, query in SEARCHES.items():
                scores = []
                for number, numbers in asked.items():
                    question = replace(query, text=cranfield.questions[number], numbers=numbers, top_k=TOP_K)
                    found = [match.id for match in searcher.search(collection, question).matches]
                    scores.append(ndcg(found, cranfield.relevant[number]))
                print(f"{language:10}{title:36}{statistics.mean(scores):.4f}", flush=True)
        opened.close()


if __name__ == "__main__":
    main()
