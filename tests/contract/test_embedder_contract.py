"""What every embedder keeps to: the real ones and the fake that stands for them elsewhere."""

from __future__ import annotations

import math
from array import array
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from tests.fixtures.embedders import FakeBedrockClient, FakeEmbedder
from vecmeter.embedding import bedrock
from vecmeter.embedding.model import Embedder
from vecmeter.embedding.registry import get_embedder
from vecmeter.errors import InvalidRequestError

TEXTS = [
    "Return the length of a list.",
    "short",
    "Vectors are stored in PostgreSQL; the ledger is exact. " * 20,
    "日本語の文書",
    "naïve café 🦜",
    "a NUL \x00 and a tab \t and\nlines",
    "Return the length of a list.",
]


def titan(dimension: int) -> Embedder:
    return bedrock.TitanEmbedder(cast(Any, FakeBedrockClient()), dimension)


def cohere(model: str) -> Embedder:
    return bedrock.CohereEmbedder(cast(Any, FakeBedrockClient()), model)


@pytest.fixture(
    params=[
        pytest.param(FakeEmbedder, id="fake"),
        pytest.param(lambda: get_embedder("built-in", None, 256), id="built-in-256"),
        pytest.param(lambda: get_embedder("built-in", None, 64), id="built-in-64"),
        pytest.param(lambda: titan(1024), id="titan-1024"),
        pytest.param(lambda: titan(256), id="titan-256"),
        pytest.param(lambda: cohere(bedrock.COHERE_ENGLISH), id="cohere-english"),
        pytest.param(lambda: cohere(bedrock.COHERE_MULTILINGUAL), id="cohere-multilingual"),
    ]
)
def embedder(request: pytest.FixtureRequest) -> Embedder:
    return cast(Embedder, request.param())


def test_it_names_provider_and_model(embedder: Embedder) -> None:
    assert embedder.provider
    assert embedder.model


def test_vectors_are_float32_of_the_dimension_and_unit_length(embedder: Embedder) -> None:
    for vector in embedder.embed_documents(TEXTS).vectors:
        assert isinstance(vector, array)
        assert vector.typecode == "f"
        assert len(vector) == embedder.dimension
        assert math.hypot(*vector) == pytest.approx(1, abs=1e-5)


def test_no_texts_give_no_vectors(embedder: Embedder) -> None:
    embedded = embedder.embed_documents([])
    assert (embedded.vectors, embedded.tokens) == ([], 0)


def test_the_same_text_gives_the_same_vector(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS).vectors
    assert vectors[0] == vectors[-1]
    assert embedder.embed_documents(TEXTS).vectors == vectors


def test_a_batch_is_its_texts_one_by_one_in_order(embedder: Embedder) -> None:
    # More than one call of Cohere, and more than one batch of the built-in tokenizer.
    texts = [f"{text} {number}" for number in range(15) for text in TEXTS]
    batch = embedder.embed_documents(texts)
    singles = [embedder.embed_documents([text]) for text in texts]
    assert batch.vectors == [single.vectors[0] for single in singles]
    assert batch.tokens == sum(single.tokens for single in singles)


def test_different_texts_give_different_vectors(embedder: Embedder) -> None:
    vectors = embedder.embed_documents(TEXTS[:-1]).vectors
    assert len({vector.tobytes() for vector in vectors}) == len(vectors)


def test_a_query_finds_the_document_that_shares_its_words(embedder: Embedder) -> None:
    documents = ["weather and sea", "sorting a list in place", "exact quota ledger"]
    query = embedder.embed_queries(["sorting a list"]).vectors[0]
    scores = [
        sum(a * b for a, b in zip(query, vector, strict=True)) for vector in embedder.embed_documents(documents).vectors
    ]
    assert scores.index(max(scores)) == 1


def test_tokens_are_counted(embedder: Embedder) -> None:
    assert embedder.embed_queries(["one two three"]).tokens > 0
    counted = embedder.count_tokens(TEXTS[0])
    assert counted in (None, embedder.embed_documents(TEXTS[:1]).tokens)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "blank"), (" \n\t\u3000", "blank"), ("half a pair: \ud83e", "surrogate")],
    ids=["empty", "white space", "lone surrogate"],
)
def test_a_text_without_a_vector_is_refused_by_position(embedder: Embedder, text: str, fault: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        embedder.embed_documents(["fine", text, "fine too", text])
    assert [violation.path for violation in refused.value.violations] == ["1", "3"]
    assert all(fault in violation.message for violation in refused.value.violations)
    with pytest.raises(InvalidRequestError) as refused:
        embedder.embed_queries([text])
    assert [violation.path for violation in refused.value.violations] == ["0"]


def test_threads_share_it(embedder: Embedder) -> None:
    queries = [[text] for text in TEXTS]
    expected = [embedder.embed_queries(query) for query in queries]
    with ThreadPoolExecutor(16) as threads:
        assert list(threads.map(embedder.embed_queries, queries * 40)) == expected * 40
