"""Vectors of query texts are remembered: in the process, and those that Bedrock makes by all instances."""

from __future__ import annotations

import dataclasses
import itertools
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pytest

from tests.fixtures.api import Api, Tenant
from tests.fixtures.embedders import FakeBedrockClient, FakeEmbedder, hashed_words
from tests.fixtures.faults import FaultyClient
from tests.fixtures.vectors import in_threads, raised
from vecmeter.embedding import bedrock
from vecmeter.embedding.model import Embedder
from vecmeter.embedding.query_cache import AWAY_SECONDS, ENTRY_BYTES, MEMORY_SECONDS, QueryEmbeddings
from vecmeter.errors import InvalidRequestError, LedgerUnavailableError
from vecmeter.ledger.embeddings import EmbeddingStore
from vecmeter.ledger.table import Table

MEGABYTE = 2**20
NOW = datetime(2026, 11, 21, tzinfo=UTC)
DIMENSION = 256


class Titan:
    """An embedder of Bedrock's, and the texts it was asked for."""

    def __init__(self) -> None:
        self.client = FakeBedrockClient()
        self.embedder = bedrock.TitanEmbedder(cast(Any, self.client), DIMENSION)

    def asked(self) -> list[str]:
        texts = sorted(request["inputText"] for request in self.client.requests)
        self.client.requests.clear()
        return texts

    def by(self, cache: QueryEmbeddings, *texts: str) -> tuple[list[Any], int]:
        found = cache.embed(bedrock.PROVIDER, bedrock.TITAN, DIMENSION, texts, lambda: cast(Embedder, self.embedder))
        assert found.vectors == [hashed_words(text, DIMENSION) for text in texts]
        return found.vectors, found.hits


@pytest.fixture
def titan() -> Titan:
    return Titan()


@pytest.fixture
def store(table: Table) -> EmbeddingStore:
    return EmbeddingStore(table, 7, lambda: NOW)


def test_a_text_is_embedded_once_for_all_instances(titan: Titan, store: EmbeddingStore) -> None:
    here, there = (QueryEmbeddings(MEGABYTE, store) for _ in range(2))
    assert titan.by(here, "one", "two", "one")[1] == 0
    assert titan.asked() == ["one", "two"]
    assert titan.by(here, "two", "three")[1] == 1
    assert titan.asked() == ["three"]
    assert titan.by(there, "three", "one", "four")[1] == 2
    assert titan.asked() == ["four"]


def test_a_batch_is_looked_up_in_one_call_and_what_is_remembered_in_none(
    titan: Titan, faults: FaultyClient, store: EmbeddingStore
) -> None:
    cache = QueryEmbeddings(MEGABYTE, store)
    texts = [f"text {number}" for number in range(20)]
    with faults.counted() as calls:
        titan.by(cache, *texts)
    assert calls == {"batch_get_item": 1, "batch_write_item": 1}
    with faults.counted() as calls:
        titan.by(cache, *texts)
    assert not calls


def test_more_than_one_call_takes_is_kept_and_found(titan: Titan, store: EmbeddingStore) -> None:
    texts = [f"text {number}" for number in range(130)]
    titan.by(QueryEmbeddings(MEGABYTE, store), *texts)
    assert titan.by(QueryEmbeddings(MEGABYTE, store), *texts)[1] == 130


def test_texts_that_differ_in_anything_and_models_and_dimensions_are_kept_apart(
    titan: Titan, store: EmbeddingStore
) -> None:
    cache = QueryEmbeddings(MEGABYTE, store)
    texts = ("word", "Word", "word ", "w\u00f6rd", "wo\u0308rd")
    assert titan.by(cache, *texts)[1] == 0
    assert titan.asked() == sorted(texts)
    small = FakeEmbedder(8)
    for provider, model in (("fake", "a"), ("fake", "b"), ("other", "a")):
        assert cache.embed(provider, model, 8, ["word"], lambda: small).hits == 0
        assert cache.embed(provider, model, 8, ["word"], lambda: small).hits == 1
    assert cache.embed("fake", "a", 16, ["word"], lambda: FakeEmbedder(16)).vectors == [hashed_words("word", 16)]


def test_no_text_is_in_the_table_and_what_is_there_ends_after_its_days(
    titan: Titan, table: Table, store: EmbeddingStore
) -> None:
    titan.by(QueryEmbeddings(MEGABYTE, store), "a secret question")
    [item] = [item for byte in range(256) for item in table.query(f"E#{byte:02x}", between=("0", "g"))]
    assert "secret" not in str(item)
    assert item["ttl"] == (NOW + timedelta(days=7)).timestamp()
    assert len(item["v"]) == 4 * DIMENSION
    week_later = EmbeddingStore(table, 7, lambda: NOW + timedelta(days=7))
    assert titan.by(QueryEmbeddings(MEGABYTE, week_later), "a secret question")[1] == 0


def test_the_built_in_model_asks_no_table(faults: FaultyClient, store: EmbeddingStore) -> None:
    with faults.counted() as calls:
        QueryEmbeddings(MEGABYTE, store).embed("built-in", "m", 8, ["word"], lambda: FakeEmbedder(8))
    assert not calls


class Broken:
    """A store that does not answer."""

    def __init__(self) -> None:
        self.asked = 0

    def get_many(self, hashes: Any) -> dict[bytes, bytes]:
        self.asked += 1
        raise LedgerUnavailableError("away")

    def put_many(self, vectors: Mapping[bytes, bytes]) -> None:
        self.asked += 1
        raise LedgerUnavailableError("away")

    def clear(self, ends_at: float) -> tuple[int, bool]:
        raise LedgerUnavailableError("away")


def test_without_the_table_texts_are_embedded_and_it_is_not_waited_for_each_time(titan: Titan) -> None:
    clock, broken = [0.0], Broken()
    cache = QueryEmbeddings(MEGABYTE, broken, lambda: clock[0])
    titan.by(cache, "one")
    titan.by(cache, "two")
    assert broken.asked == 1
    clock[0] = AWAY_SECONDS
    titan.by(cache, "three")
    assert broken.asked == 2
    assert titan.asked() == ["one", "three", "two"]


def test_what_is_in_memory_is_looked_up_again_after_minutes_so_that_clearing_reaches_all(
    titan: Titan, store: EmbeddingStore
) -> None:
    clock = [0.0]
    here, there = QueryEmbeddings(MEGABYTE, store, lambda: clock[0]), QueryEmbeddings(MEGABYTE, store)
    titan.by(here, "one", "two")
    assert store.clear() == (2, True)
    assert titan.by(there, "one")[1] == 0
    assert titan.by(here, "two")[1] == 1
    clock[0] = MEMORY_SECONDS
    assert titan.by(here, "two")[1] == 0
    assert titan.by(here, "one")[1] == 1, "the other has put it there again"


def test_clearing_ends_when_its_time_is_up(store: EmbeddingStore, titan: Titan) -> None:
    titan.by(QueryEmbeddings(MEGABYTE, store), "one")
    assert store.clear(ends_at=0.0) == (0, False)
    assert store.clear() == (1, True)


def test_memory_is_bounded_in_bytes(titan: Titan) -> None:
    most = 10 * (ENTRY_BYTES + 4 * DIMENSION)
    cache = QueryEmbeddings(most, None)
    for number in range(25):
        titan.by(cache, f"text {number}")
    assert cache.size == most
    assert (cache.take_evictions(), cache.take_evictions()) == (15, 0)
    titan.asked()
    titan.by(cache, "text 24", "text 0")
    assert titan.asked() == ["text 0"]


def test_without_memory_the_table_is_asked(titan: Titan, store: EmbeddingStore) -> None:
    cache = QueryEmbeddings(0, store)
    assert [titan.by(cache, "one")[1] for _ in range(2)] == [0, 1]
    assert cache.size == 0


def test_a_text_that_cannot_be_embedded_is_named_by_its_place_whatever_is_remembered(titan: Titan) -> None:
    cache = QueryEmbeddings(MEGABYTE, None)
    titan.by(cache, "one")
    with pytest.raises(InvalidRequestError) as refused:
        titan.by(cache, "one", "two", " ")
    assert [violation.path for violation in refused.value.violations] == ["2"]


def test_threads_share_it_and_none_looks_into_it_while_another_does(titan: Titan) -> None:
    inside = threading.Lock()
    moments = itertools.count(0, MEMORY_SECONDS / 20)

    def monotonic() -> float:
        """Asked whenever the memory is looked into or changed; what is old goes then."""
        assert inside.acquire(blocking=False), "another thread is in there"
        time.sleep(0.0002)
        inside.release()
        return next(moments)

    cache = QueryEmbeddings(5 * (ENTRY_BYTES + 4 * DIMENSION), None, monotonic)

    def work() -> None:
        for number in range(60):
            titan.by(cache, f"text {number % 8}", f"text {(number + 3) % 8}")
            assert cache.size >= 0

    assert raised(in_threads(*[work] * 4)) == []


@pytest.fixture
def by_titan(shared_api: Api, titan: Titan, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Tenant]:
    """Tenants whose collection ``c`` is embedded by Bedrock."""
    monkeypatch.setattr(bedrock, "load_bedrock_embedder", lambda model, dimension: titan.embedder)

    def make() -> Tenant:
        tenant = shared_api.tenant()
        body = {"name": "c", "dimension": DIMENSION, "embedder": {"provider": "bedrock"}}
        assert tenant.call("POST", json=body).status_code == 201
        tenant.write("/c", {"id": "a", "document": "pay the invoice"})
        titan.asked()
        return tenant

    return make


def test_a_search_by_a_remembered_text_asks_no_embedder_and_is_billed_the_same(
    by_titan: Callable[[], Tenant], titan: Titan
) -> None:
    one, other = by_titan(), by_titan()
    first, again, elsewhere, wider = (
        tenant.call("POST", "/c/search", json={"text": "when must I pay?", "top_k": top_k})
        for tenant, top_k in ((one, 1), (one, 1), (other, 1), (one, 5))
    )
    assert [answer.headers["x-cache"] for answer in (first, again, elsewhere, wider)] == ["miss", "hit", "miss", "miss"]
    assert titan.asked() == ["when must I pay?"]
    assert first.json()["matches"] == wider.json()["matches"]
    usages = [dataclasses.astuple(Usage(**answer.json()["usage"])) for answer in (first, again, elsewhere, wider)]
    assert len(set(usages)) == 1
    assert usages[0][1] == 4, "tokens"


@dataclasses.dataclass(frozen=True)
class Usage:
    requests: int
    tokens: int
    vectors: int
    cost_usd: float
