"""A LangChain vector store: docs/langchain.md."""
# LangChain is not installed where the other code is checked; and where its stores take any keyword in silence, an
# unknown one is a TypeError here.
# mypy: disallow-subclassing-any=False, disable-error-code="override"

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, Unpack

try:
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.vectorstores import VectorStore
except ImportError as error:
    raise ImportError(
        "vecmeter_client.langchain needs langchain-core: pip install 'vecmeter-client[langchain]'"
    ) from error

from vecmeter_client import (
    AsyncClient,
    AsyncCollection,
    Client,
    Collection,
    CollectionInfo,
    Match,
    SearchResult,
    StoredVector,
)
from vecmeter_client._input import refuse_single_text
from vecmeter_client._stores.collection import ClientOptions, NewCollection, StoreClients, StoreCollection
from vecmeter_client._stores.diversity import candidates_for, differing, of_vectors
from vecmeter_client._stores.relevance import check_relevant, relevance
from vecmeter_client._stores.texts import Batches, chosen, documents_of, to_records, with_vectors

Vector = Sequence[float]
Scored = list[tuple[Document, float]]

_EVERYTHING = ("metadata", "document", "vector")
# To measure how long the vectors of an embedding are; any text does.
_SOME_TEXT = "dimension"


class VecmeterVectorStore(VectorStore):
    """Texts, their metadata and vectors in a collection of Vecmeter.

    Searches take, besides what LangChain names: ``filter`` (docs/filters.md), ``namespace``, ``mode`` and the other
    options of ``Collection.search``; one that does not exist is a TypeError. Scores: higher is better. What the service
    refuses is raised as an error of ``vecmeter_client``. May be shared by threads and event loops.

    Args:
        collection: Name of the collection.
        embedding: Makes the vectors. Without one the collection's own embedder does, where the service runs.
        project: Id of the project; else ``VECMETER_PROJECT``.
        namespace: Where to write and search if a call names none.
        mode: ``vector``, ``text`` (by words) or ``hybrid`` (both), if a search names none.
        create_collection: Whether the first use makes the collection if it is missing; a mapping says with which
            options of ``Project.create_collection``. The dimension is the embedding's.
        client, async_client: Clients of one's own, which ``close`` leaves open. Otherwise the store makes them with
            ``options``: url, api_key, timeout, ...; else ``VECMETER_URL``, ``VECMETER_API_KEY``.

    Raises:
        ConfigurationError: address, key or project is missing; at the first use: a collection there is not as wanted.
    """

    def __init__(
        self,
        collection: str,
        embedding: Embeddings | None = None,
        *,
        project: str | None = None,
        namespace: str = "",
        mode: str = "vector",
        create_collection: bool | NewCollection = False,
        client: Client | None = None,
        async_client: AsyncClient | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        self._clients = StoreClients(client, async_client, options)
        self._collection = StoreCollection(self._clients, project, collection, create_collection)
        self._embedding = embedding
        self._namespace = namespace
        self._mode = mode

    @property
    def embeddings(self) -> Embeddings | None:
        return self._embedding

    def in_namespace(self, namespace: str) -> Self:
        """The same store in another namespace, over the same connections."""
        other = copy.copy(self)
        other._namespace = namespace
        return other

    def close(self) -> None:
        """Close the connections of the store's own client for blocking calls."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close those of the store's own clients: the blocking one, and that of the running event loop."""
        await self._clients.aclose()

    # Writing

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        namespace: str | None = None,
        batch_size: int = 500,
    ) -> list[str]:
        """Write texts; one whose id is there already is replaced. ``batch_size`` are embedded and written at a time.

        Returns:
            Their ids, made up where there is none.

        Raises:
            InvalidInputError: there are not as many texts, metadatas and ids, or metadata is not JSON: nothing is sent.
            VecmeterError: ``partial.next_index`` is of the first text that is not known to be written.
        """
        records = to_records(texts, metadatas, ids)
        batches = Batches(records, batch_size)
        for batch in batches:
            with batches.told():
                made = None if self._embedding is None else self._embedding.embed_documents(documents_of(batch))
                written = self._open().upsert(with_vectors(batch, made), namespace=self._in(namespace))
                batches.written(written, len(batch))
        return [record["id"] for record in records]

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        namespace: str | None = None,
        batch_size: int = 500,
    ) -> list[str]:
        """As ``add_texts``."""
        records = to_records(texts, metadatas, ids)
        batches = Batches(records, batch_size)
        for batch in batches:
            with batches.told():
                made = None if self._embedding is None else await self._embedding.aembed_documents(documents_of(batch))
                collection = await self._aopen()
                written = await collection.upsert(with_vectors(batch, made), namespace=self._in(namespace))
                batches.written(written, len(batch))
        return [record["id"] for record in records]

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,
    ) -> Self:
        """A store with these texts in it; ``options``, ``collection`` among them, are those of the constructor."""
        store = cls(embedding=embedding, **options)
        store.add_texts(texts, metadatas, ids=ids)
        return store

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | None = None,
        metadatas: Sequence[Mapping[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **options: Any,
    ) -> Self:
        """As ``from_texts``."""
        store = cls(embedding=embedding, **options)
        await store.aadd_texts(texts, metadatas, ids=ids)
        return store

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        delete_all: bool = False,
        namespace: str | None = None,
    ) -> bool:
        """Delete by exactly one of ids, a filter, or everything in the namespace. What is not there is passed over.

        Raises:
            InvalidInputError: none of them is given, or several.
        """
        what = chosen(ids, filter, delete_all)
        if ids is None or ids:
            self._open().delete(**what, namespace=self._in(namespace))
        return True

    async def adelete(
        self,
        ids: Sequence[str] | None = None,
        *,
        filter: Mapping[str, Any] | None = None,
        delete_all: bool = False,
        namespace: str | None = None,
    ) -> bool:
        """As ``delete``."""
        what = chosen(ids, filter, delete_all)
        if ids is None or ids:
            await (await self._aopen()).delete(**what, namespace=self._in(namespace))
        return True

    # Reading

    def get_by_ids(self, ids: Sequence[str], /, *, namespace: str | None = None) -> list[Document]:
        """The documents with these ids, each once, in this order. Those that are not there are left out."""
        return _documents(self._open().fetch(_each_once(ids), namespace=self._in(namespace)))

    async def aget_by_ids(self, ids: Sequence[str], /, *, namespace: str | None = None) -> list[Document]:
        """As ``get_by_ids``."""
        return _documents(await (await self._aopen()).fetch(_each_once(ids), namespace=self._in(namespace)))

    def similarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_with_score(query, k, **options)]

    async def asimilarity_search(self, query: str, k: int = 4, **options: Any) -> list[Document]:
        return [document for document, _ in await self.asimilarity_search_with_score(query, k, **options)]

    def similarity_search_with_score(
        self, query: str, k: int = 4, *, mode: str | None = None, **options: Any
    ) -> Scored:
        """The best ``k`` documents with their scores, the best first: docs/search.md says what a score is."""
        mode = mode or self._mode
        vector = self._embedding.embed_query(query) if self._embedding is not None and mode != "text" else None
        return _scored(self._open().search(**self._by_text(query, vector, mode, k, options)))

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, *, mode: str | None = None, **options: Any
    ) -> Scored:
        """As ``similarity_search_with_score``."""
        mode = mode or self._mode
        vector = await self._embedding.aembed_query(query) if self._embedding is not None and mode != "text" else None
        return _scored(await (await self._aopen()).search(**self._by_text(query, vector, mode, k, options)))

    def similarity_search_by_vector(self, embedding: Vector, k: int = 4, **options: Any) -> list[Document]:
        return [document for document, _ in self.similarity_search_by_vector_with_score(embedding, k, **options)]

    async def asimilarity_search_by_vector(self, embedding: Vector, k: int = 4, **options: Any) -> list[Document]:
        found = await self.asimilarity_search_by_vector_with_score(embedding, k, **options)
        return [document for document, _ in found]

    def similarity_search_by_vector_with_score(self, embedding: Vector, k: int = 4, **options: Any) -> Scored:
        """The ``k`` documents nearest to a vector, whatever the store's ``mode`` is."""
        return _scored(self._open().search(**self._by_vector(embedding, k, options)))

    async def asimilarity_search_by_vector_with_score(self, embedding: Vector, k: int = 4, **options: Any) -> Scored:
        """As ``similarity_search_by_vector_with_score``."""
        return _scored(await (await self._aopen()).search(**self._by_vector(embedding, k, options)))

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, mode: str | None = None, **options: Any
    ) -> Scored:
        mode = mode or self._mode
        check_relevant(mode, options.get("fusion"))
        metric = self._known().metric if mode == "vector" else None
        found = self.similarity_search_with_score(query, k, mode=mode, **options)
        return [(document, relevance(score, metric)) for document, score in found]

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, *, mode: str | None = None, **options: Any
    ) -> Scored:
        mode = mode or self._mode
        check_relevant(mode, options.get("fusion"))
        metric = (await self._aknown()).metric if mode == "vector" else None
        found = await self.asimilarity_search_with_score(query, k, mode=mode, **options)
        return [(document, relevance(score, metric)) for document, score in found]

    def max_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        mode: str | None = None,
        **options: Any,
    ) -> list[Document]:
        """Of the best ``fetch_k`` matches, ``k`` that differ: ``lambda_mult`` from 0 (most) to 1 (relevance alone)."""
        mode = of_vectors(mode or self._mode)
        candidates = candidates_for(k, fetch_k, lambda_mult)
        vector = self._embedding.embed_query(query) if self._embedding is not None else None
        wanted = self._by_text(query, vector, mode, candidates, options, include=_EVERYTHING)
        metric = self._known().metric if vector is None else None
        found = self._open().search(**wanted)
        return _documents(differing(found.matches, vector, metric, k, lambda_mult))

    async def amax_marginal_relevance_search(
        self,
        query: str,
        k: int = 4,
        fetch_k: int = 20,
        lambda_mult: float = 0.5,
        *,
        mode: str | None = None,
        **options: Any,
    ) -> list[Document]:
        """As ``max_marginal_relevance_search``."""
        mode = of_vectors(mode or self._mode)
        candidates = candidates_for(k, fetch_k, lambda_mult)
        vector = await self._embedding.aembed_query(query) if self._embedding is not None else None
        wanted = self._by_text(query, vector, mode, candidates, options, include=_EVERYTHING)
        metric = (await self._aknown()).metric if vector is None else None
        found = await (await self._aopen()).search(**wanted)
        return _documents(differing(found.matches, vector, metric, k, lambda_mult))

    def max_marginal_relevance_search_by_vector(
        self, embedding: Vector, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """As ``max_marginal_relevance_search``, by vector."""
        candidates = candidates_for(k, fetch_k, lambda_mult)
        wanted = self._by_vector(embedding, candidates, options, include=_EVERYTHING)
        found = self._open().search(**wanted)
        return _documents(differing(found.matches, embedding, None, k, lambda_mult))

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: Vector, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **options: Any
    ) -> list[Document]:
        """As ``max_marginal_relevance_search``, by vector."""
        candidates = candidates_for(k, fetch_k, lambda_mult)
        wanted = self._by_vector(embedding, candidates, options, include=_EVERYTHING)
        found = await (await self._aopen()).search(**wanted)
        return _documents(differing(found.matches, embedding, None, k, lambda_mult))

    # What all of them share

    def _in(self, namespace: str | None) -> str:
        return self._namespace if namespace is None else namespace

    def _by_text(
        self, text: str, vector: Vector | None, mode: str, k: int, options: Mapping[str, Any], **more: Any
    ) -> dict[str, Any]:
        # dict() refuses what is given twice, so no option takes the place of what is searched for.
        of_words = {"text": text} if vector is None or mode == "hybrid" else {}
        return dict(vector=vector, top_k=k, mode=mode, **of_words, **self._placed(options), **more)

    def _by_vector(self, vector: Vector, k: int, options: Mapping[str, Any], **more: Any) -> dict[str, Any]:
        return dict(vector=vector, top_k=k, **self._placed(options), **more)

    def _placed(self, options: Mapping[str, Any]) -> dict[str, Any]:
        return {**options, "namespace": self._in(options.get("namespace"))}

    def _open(self) -> Collection:
        if self._collection.may_be_missing:
            self._known()
        return self._collection.blocking

    async def _aopen(self) -> AsyncCollection:
        if self._collection.may_be_missing:
            await self._aknown()
        return self._collection.awaited

    def _known(self) -> CollectionInfo:
        found = self._collection.find()
        if found is None:
            dimension = len(self._embedding.embed_query(_SOME_TEXT)) if self._embedding is not None else None
            found = self._collection.make(dimension)
        return found

    async def _aknown(self) -> CollectionInfo:
        found = await self._collection.afind()
        if found is None:
            dimension = len(await self._embedding.aembed_query(_SOME_TEXT)) if self._embedding is not None else None
            found = await self._collection.amake(dimension)
        return found


def _each_once(ids: Sequence[str]) -> Iterable[str]:
    refuse_single_text(ids, "ids")
    return dict.fromkeys(ids)


def _document(stored: Match | StoredVector) -> Document:
    return Document(id=stored.id, page_content=stored.document or "", metadata=dict(stored.metadata or {}))


def _scored(result: SearchResult) -> Scored:
    return [(_document(match), match.score) for match in result]


def _documents(found: Iterable[Match | StoredVector]) -> list[Document]:
    return [_document(one) for one in found]
