"""The collection behind a store, and the clients that reach it."""

from __future__ import annotations

import asyncio
import gc
import threading
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding

from conftest import PROJECT, Call, Known, Make
from vecmeter_client import (
    AsyncClient,
    Client,
    CollectionNotFoundError,
    ConfigurationError,
    InvalidRequestError,
)
from vecmeter_client.langchain import VecmeterVectorStore

VECTORS = {f"text {number}": (1.0, float(number)) for number in range(60)}


async def test_a_missing_collection_is_made_only_if_it_is_wanted(make: Make, name: str, call: Call) -> None:
    with pytest.raises(CollectionNotFoundError):
        await call(make(Known(VECTORS), create_collection=False), "similarity_search", "text 1")
    for method, what in (("add_texts", ["text 1"]), ("similarity_search_with_relevance_scores", "text 1")):
        with pytest.raises(CollectionNotFoundError):
            await call(make(Known(VECTORS), create_collection=False), method, what)
    assert await call(make(Known(VECTORS), create_collection={}), "similarity_search", "text 1") == []
    await call(make(Known(VECTORS), create_collection=False), "add_texts", ["text 1"])


async def test_a_collection_is_made_as_its_options_say(make: Make, client: Client, name: str, call: Call) -> None:
    wanted = {"metric": "l2", "text_search": "english", "filterable": {"year": "number"}, "index": {"m": 24}}
    await call(make(Known(VECTORS), create_collection=wanted), "add_texts", ["text 1"])
    info = client.project(PROJECT).collection(name).describe()
    assert (info.dimension, info.metric, info.text_search, info.index.m) == (2, "l2", "english", 24)
    assert [(one.field, one.type) for one in info.filterable] == [("year", "number")]


async def test_no_other_model_embeds_where_the_embedding_is_the_callers(make: Make, name: str, call: Call) -> None:
    # 64 numbers are what the deployment's own embedder makes, too.
    await call(make(DeterministicFakeEmbedding(size=64)), "add_texts", ["text 1"])
    with pytest.raises(InvalidRequestError, match="embedder"):
        await call(make(None, create_collection=False), "similarity_search", "text 1")


async def test_a_collection_that_is_not_as_wanted_is_refused_before_anything_is_written(make: Make, call: Call) -> None:
    there = make(Known(VECTORS))
    await call(there, "add_texts", ["text 1"], ids=["1"])
    for wanted, message in (
        ({"metric": "l2"}, r"metric: the collection langchain-\d+ is there with 'cosine', not 'l2'"),
        ({"text_search": "english"}, "text_search: .* is there with None, not 'english'"),
        ({"dimension": 3}, "dimension: .* is there with 2, not 3"),
    ):
        other = make(Known(VECTORS), create_collection=wanted)
        for _ in range(2):
            with pytest.raises(ConfigurationError, match=message):
                await call(other, "add_texts", ["text 2"], ids=["2"])
    assert len(await call(there, "similarity_search", "text 1")) == 1


def test_stores_that_start_together_make_one_collection(make: Make) -> None:
    stores = [make(Known(VECTORS)) for _ in range(4)]
    together = threading.Barrier(len(stores))

    def start(number: int) -> list[str]:
        together.wait()
        return stores[number].add_texts([f"text {number}"], ids=[str(number)])

    with ThreadPoolExecutor(len(stores)) as threads:
        assert list(threads.map(start, range(len(stores)))) == [[str(number)] for number in range(len(stores))]
    assert len(stores[0].get_by_ids(["0", "1", "2", "3"])) == 4


class NoThreads(ThreadPoolExecutor):
    def submit(self, *arguments: Any, **options: Any) -> Future[Any]:
        raise AssertionError("an awaited call went to a thread")


async def test_awaited_calls_run_together_in_the_loop_neither_blocking_nor_in_a_thread(make: Make) -> None:
    asyncio.get_running_loop().set_default_executor(NoThreads())
    async with AsyncClient() as client:
        store = make(Known(VECTORS), async_client=client)  # which leaves it nothing to block with
        await store.aadd_texts(list(VECTORS), ids=list(VECTORS))
        few = list(VECTORS.items())[:5]
        searches = ("similarity_search", "max_marginal_relevance_search")
        scored = ("similarity_search_with_score", "similarity_search_with_relevance_scores")
        found = await asyncio.gather(
            *(getattr(store, f"a{search}")(text, k=1) for search in searches for text, _ in few),
            *(getattr(store, f"a{search}_by_vector")(vector, k=1) for search in searches for _, vector in few),
            *(store.aget_by_ids([text]) for text, _ in few),
            *(store.as_retriever(search_type="mmr", search_kwargs={"k": 1}).ainvoke(text) for text, _ in few),
        )
        assert [one[0].id for one in found] == [text for _ in range(6) for text, _ in few]
        with_scores = await asyncio.gather(
            *(getattr(store, f"a{search}")(text, k=1) for search in scored for text, _ in few),
            *(store.asimilarity_search_by_vector_with_score(vector, k=1) for _, vector in few),
        )
        assert [one[0][0].id for one in with_scores] == [text for _ in range(3) for text, _ in few]
        written = [store.aadd_texts([text], ids=[f"{text} again"], namespace="other") for text in VECTORS]
        assert len(await asyncio.gather(*written)) == len(VECTORS)
        assert len(await store.asimilarity_search("text 1", k=100, namespace="other")) == len(VECTORS)
        assert await store.adelete(list(VECTORS))
        assert await store.aget_by_ids(list(VECTORS)) == []


def test_one_store_serves_event_loops_one_after_the_other(make: Make) -> None:
    store = make(Known(VECTORS))

    async def use(number: int) -> str | None:
        await store.aadd_texts([f"text {number}"], ids=[str(number)])
        return (await store.asimilarity_search(f"text {number}", k=1))[0].id

    assert [asyncio.run(use(number)) for number in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(store._clients._of_loops) == 1
    assert len(store.get_by_ids(["0", "1", "2", "3", "4"])) == 5


def test_a_closed_store_leaves_no_connection_open(make: Make) -> None:
    store = make(Known(VECTORS))

    async def use() -> None:
        await store.aadd_texts(["text 1"])
        await store.aclose()

    gc.collect()  # what earlier tests left
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        asyncio.run(use())
        gc.collect()
    assert [one for one in warned if one.category is ResourceWarning] == []


async def test_clients_of_ones_own_are_used(make: Make, name: str) -> None:
    asked: list[str] = []

    def note(request: httpx.Request) -> None:
        asked.append(request.url.path)

    async def anote(request: httpx.Request) -> None:
        note(request)

    with httpx.Client(event_hooks={"request": [note]}) as http:
        async with httpx.AsyncClient(event_hooks={"request": [anote]}) as ahttp:
            client, async_client = Client(http_client=http), AsyncClient(http_client=ahttp)
            store = make(Known(VECTORS), client=client, async_client=async_client)
            store.add_texts(["text 1"])
            await store.asimilarity_search("text 1")
            assert [path.rsplit("/", 1)[1] for path in asked] == [name, "collections", "vectors", "search"]


async def test_a_store_closes_no_client_it_was_given(make: Make) -> None:
    with Client() as client:
        async with AsyncClient() as async_client:
            store = make(Known(VECTORS), client=client, async_client=async_client)
            store.add_texts(["text 1"])
            store.close()
            await store.aclose()
            assert len(store.similarity_search("text 1")) == len(await store.asimilarity_search("text 1")) == 1


async def test_what_is_missing_or_said_twice_is_named(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    with Client() as client:
        with pytest.raises(ConfigurationError, match="a client has its own api_key, timeout"):
            make(client=client, api_key="key", timeout=3)
        with pytest.raises(ConfigurationError, match="only client was given"):
            await make(Known(VECTORS), client=client).asimilarity_search("text 1")
    async with AsyncClient() as async_client:
        with pytest.raises(ConfigurationError, match="only async_client was given"):
            make(Known(VECTORS), async_client=async_client).similarity_search("text 1")
    monkeypatch.delenv("VECMETER_PROJECT")
    with pytest.raises(ConfigurationError, match="set VECMETER_PROJECT"):
        make()
    assert make(project=PROJECT) is not None
    monkeypatch.delenv("VECMETER_URL")
    with pytest.raises(ConfigurationError, match="VECMETER_URL"):
        make(project=PROJECT)
    with pytest.raises(TypeError, match="token"):
        make(project=PROJECT, token="x")


def test_a_store_in_another_namespace_shares_connections(make: Make) -> None:
    store = make(Known(VECTORS))
    store.add_texts(["text 1"])
    tenant: VecmeterVectorStore = store.in_namespace("tenant")
    assert (tenant._clients, tenant._collection, tenant.embeddings) == (
        store._clients,
        store._collection,
        store.embeddings,
    )
    tenant.add_texts(["text 2"], ids=["2"])
    assert store.get_by_ids(["2"]) == []
