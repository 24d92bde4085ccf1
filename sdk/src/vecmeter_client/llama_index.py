"""A LlamaIndex vector store: docs/langchain.md."""
# LlamaIndex is not installed where the other code is checked; and where its stores take any keyword in silence, an
# unknown one is a TypeError here.
# mypy: disallow-subclassing-any=False, disable-error-code="override"

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Unpack

try:
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.schema import BaseNode, MetadataMode
    from llama_index.core.vector_stores.types import (
        BasePydanticVectorStore,
        MetadataFilters,
        VectorStoreQuery,
        VectorStoreQueryMode,
        VectorStoreQueryResult,
    )
    from llama_index.core.vector_stores.utils import metadata_dict_to_node, node_to_metadata_dict
except ImportError as error:
    raise ImportError(
        "vecmeter_client.llama_index needs llama-index-core: pip install 'vecmeter-client[llama-index]'"
    ) from error

from vecmeter_client import (
    AsyncClient,
    AsyncCollection,
    Client,
    Collection,
    CollectionInfo,
    InvalidInputError,
    Match,
    StoredVector,
)
from vecmeter_client._input import refuse_single_text, refuse_what_is_no_json
from vecmeter_client._stores.collection import ClientOptions, NewCollection, StoreClients, StoreCollection
from vecmeter_client._stores.diversity import candidates_for, differing
from vecmeter_client._stores.llama_filters import to_filter

# Fields of the metadata: the node's own id, which filters cannot name otherwise, and LlamaIndex's of its document.
_NODE_ID = "_node_id"
_DOCUMENT_ID = "ref_doc_id"
# Most matches of one search, as services are set up unless they say otherwise.
_MOST = 1000

_MODES = {
    VectorStoreQueryMode.DEFAULT: "vector",
    VectorStoreQueryMode.MMR: "vector",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.TEXT_SEARCH: "text",
    VectorStoreQueryMode.SPARSE: "text",
}


class VecmeterVectorStore(BasePydanticVectorStore):
    """Nodes with their text, metadata, relationships and vectors in a collection of Vecmeter.

    May be shared by threads and event loops. What the service refuses is raised as an error of ``vecmeter_client``.

    Args:
        collection: Name of the collection.
        project: Id of the project; else ``VECMETER_PROJECT``.
        namespace: Where to write and search.
        create_collection: Whether the first ``add`` makes the collection if it is missing; a mapping says with which
            options of ``Project.create_collection``. The dimension is that of the vectors added. Until then there are
            no nodes.
        is_embedding_query: False leaves it to the collection's own embedder to make the vectors of queries.
        client, async_client: Clients of one's own. Otherwise the store makes them with ``options``: url, api_key,
            timeout, ...; else ``VECMETER_URL``, ``VECMETER_API_KEY``.

    Raises:
        ConfigurationError: address, key or project is missing; at the first use: a collection there is not as wanted.
    """

    stores_text: bool = True
    namespace: str = ""
    _clients: StoreClients = PrivateAttr()
    _collection: StoreCollection = PrivateAttr()

    def __init__(
        self,
        collection: str,
        *,
        project: str | None = None,
        namespace: str = "",
        create_collection: bool | NewCollection = False,
        is_embedding_query: bool = True,
        client: Client | None = None,
        async_client: AsyncClient | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        super().__init__(stores_text=True, is_embedding_query=is_embedding_query)
        self.namespace = namespace
        self._clients = StoreClients(client, async_client, options)
        self._collection = StoreCollection(self._clients, project, collection, create_collection)

    @classmethod
    def class_name(cls) -> str:
        return "VecmeterVectorStore"

    @property
    def client(self) -> Client:
        return self._clients.blocking

    def close(self) -> None:
        """Close the connections of the store's own client for blocking calls."""
        self._clients.close()

    async def aclose(self) -> None:
        """Close those of the store's own clients: the blocking one, and that of the running event loop."""
        await self._clients.aclose()

    def add(self, nodes: Sequence[BaseNode]) -> list[str]:
        """Write nodes; one whose id is there already is replaced. One without an embedding is embedded by the service.

        Raises:
            VecmeterError: ``partial.next_index`` is of the first node that is not known to be written.
        """
        records = [_record(node) for node in nodes]
        if records:
            self._open(_dimension(records[0].get("vector"))).upsert(records, namespace=self.namespace)
        return [record["id"] for record in records]

    async def async_add(self, nodes: Sequence[BaseNode]) -> list[str]:
        """As ``add``."""
        records = [_record(node) for node in nodes]
        if records:
            collection = await self._aopen(_dimension(records[0].get("vector")))
            await collection.upsert(records, namespace=self.namespace)
        return [record["id"] for record in records]

    def delete(self, ref_doc_id: str) -> None:
        """Delete the nodes of a document."""
        if collection := self._there():
            collection.delete(filter={_DOCUMENT_ID: ref_doc_id}, namespace=self.namespace)

    async def adelete(self, ref_doc_id: str) -> None:
        """As ``delete``."""
        if collection := await self._athere():
            await collection.delete(filter={_DOCUMENT_ID: ref_doc_id}, namespace=self.namespace)

    def delete_nodes(self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None) -> None:
        """Delete the nodes with these ids that a filter lets through; at least one of both must be given."""
        if (what := _chosen(node_ids, filters)) and (collection := self._there()):
            collection.delete(**what, namespace=self.namespace)

    async def adelete_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None
    ) -> None:
        """As ``delete_nodes``."""
        if (what := _chosen(node_ids, filters)) and (collection := await self._athere()):
            await collection.delete(**what, namespace=self.namespace)

    def clear(self) -> None:
        """Delete every node of the namespace."""
        if collection := self._there():
            collection.delete(all=True, namespace=self.namespace)

    async def aclear(self) -> None:
        """As ``clear``."""
        if collection := await self._athere():
            await collection.delete(all=True, namespace=self.namespace)

    def get_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """The nodes with these ids, in this order, that a filter lets through; without both, all of the namespace.

        Raises:
            InvalidInputError: a filter lets 1,000 or more through, which one search does not tell from all.
        """
        collection = self._there()
        if collection is None:
            return []
        if filters is not None and filters.filters:
            request = _by_filter(_both(node_ids, filters), self._known().dimension)
            return _nodes(_all_of(collection.search(**request, namespace=self.namespace).matches), node_ids)
        if node_ids is None:
            return _nodes(collection.export(namespace=self.namespace))
        return _nodes(collection.fetch(node_ids, namespace=self.namespace), node_ids)

    async def aget_nodes(
        self, node_ids: Sequence[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """As ``get_nodes``."""
        collection = await self._athere()
        if collection is None:
            return []
        if filters is not None and filters.filters:
            request = _by_filter(_both(node_ids, filters), (await self._aknown()).dimension)
            found = await collection.search(**request, namespace=self.namespace)
            return _nodes(_all_of(found.matches), node_ids)
        if node_ids is None:
            return _nodes([stored async for stored in collection.export(namespace=self.namespace)])
        return _nodes(await collection.fetch(node_ids, namespace=self.namespace), node_ids)

    def query(
        self, query: VectorStoreQuery, *, mmr_threshold: float | None = None, mmr_prefetch_k: int = 20
    ) -> VectorStoreQueryResult:
        """The best nodes. Modes: default, hybrid, text_search (and sparse), mmr; another is an InvalidInputError.

        Args:
            mmr_threshold: In mode mmr, 0 (nodes that differ most) to 1 (relevance alone); else the query's, or 0.5.
            mmr_prefetch_k: In mode mmr, how many matches to choose from.
        """
        weight = _weight(query, mmr_threshold)
        request = _request(query, candidates_for(query.similarity_top_k, mmr_prefetch_k, weight))
        collection = self._there()
        matches = collection.search(**request, namespace=self.namespace).matches if collection else ()
        return _result(query, matches, weight)

    async def aquery(
        self, query: VectorStoreQuery, *, mmr_threshold: float | None = None, mmr_prefetch_k: int = 20
    ) -> VectorStoreQueryResult:
        """As ``query``."""
        weight = _weight(query, mmr_threshold)
        request = _request(query, candidates_for(query.similarity_top_k, mmr_prefetch_k, weight))
        collection = await self._athere()
        matches = (await collection.search(**request, namespace=self.namespace)).matches if collection else ()
        return _result(query, matches, weight)

    def _there(self) -> Collection | None:
        # What reads or deletes does not know which vectors are to come, so it makes no collection for them.
        missing = self._collection.may_be_missing and self._collection.find() is None
        return None if missing else self._collection.blocking

    async def _athere(self) -> AsyncCollection | None:
        missing = self._collection.may_be_missing and await self._collection.afind() is None
        return None if missing else self._collection.awaited

    def _open(self, dimension: int | None) -> Collection:
        if self._collection.may_be_missing:
            self._known(dimension)
        return self._collection.blocking

    async def _aopen(self, dimension: int | None) -> AsyncCollection:
        if self._collection.may_be_missing:
            await self._aknown(dimension)
        return self._collection.awaited

    def _known(self, dimension: int | None = None) -> CollectionInfo:
        return self._collection.find() or self._collection.make(dimension)

    async def _aknown(self, dimension: int | None = None) -> CollectionInfo:
        return await self._collection.afind() or await self._collection.amake(dimension)


def _dimension(vector: Sequence[float] | None) -> int | None:
    return None if vector is None else len(vector)


def _record(node: BaseNode) -> dict[str, Any]:
    refuse_what_is_no_json(node.metadata, f"nodes.{node.node_id}.metadata")
    metadata = node_to_metadata_dict(node, remove_text=True) | {_NODE_ID: node.node_id}
    text = node.get_content(metadata_mode=MetadataMode.NONE)
    numbers = {} if node.embedding is None else {"vector": node.embedding}
    return {"id": node.node_id, "document": text, "metadata": metadata, **numbers}


def _node(found: Match | StoredVector) -> BaseNode:
    metadata = {field: value for field, value in (found.metadata or {}).items() if field != _NODE_ID}
    return metadata_dict_to_node(metadata, text=found.document or "")


def _nodes(found: Iterable[Match | StoredVector], ids: Sequence[str] | None = None) -> list[BaseNode]:
    by_id = {one.id: one for one in found}
    return [_node(by_id[id]) for id in (by_id if ids is None else dict.fromkeys(ids)) if id in by_id]


def _both(node_ids: Sequence[str] | None, filters: MetadataFilters | None, *more: Mapping[str, Any]) -> Any:
    """A filter for all of them; None: none is given."""
    refuse_single_text(node_ids, "node_ids")
    wanted = list(more)
    if node_ids is not None:
        wanted.append({_NODE_ID: {"$in": list(node_ids)}})
    if (filter := to_filter(filters)) is not None:
        wanted.append(filter)
    return {"$and": wanted} if wanted else None


def _chosen(node_ids: Sequence[str] | None, filters: MetadataFilters | None) -> dict[str, Any]:
    """What to delete; empty: nothing."""
    refuse_single_text(node_ids, "node_ids")
    filter = to_filter(filters)
    if node_ids is None and filter is None:
        raise InvalidInputError("node_ids or filters must be given; clear() deletes everything")
    if filter is None:
        return {"ids": list(node_ids or ())} if node_ids else {}
    return {"filter": _both(node_ids, filters)}


def _by_filter(filter: Mapping[str, Any], dimension: int) -> dict[str, Any]:
    # Whatever is searched for, an exact search finds all that the filter lets through.
    return {"vector": [1.0] + [0.0] * (dimension - 1), "filter": filter, "top_k": _MOST, "exact": True}


def _all_of(matches: Sequence[Match]) -> Sequence[Match]:
    if len(matches) == _MOST:
        raise InvalidInputError(f"filters: let {_MOST} nodes or more through, which is as many as one search brings")
    return matches


def _weight(query: VectorStoreQuery, threshold: float | None) -> float:
    return next((one for one in (threshold, query.mmr_threshold) if one is not None), 0.5)


def _request(query: VectorStoreQuery, candidates: int) -> dict[str, Any]:
    mode = _MODES.get(query.mode)
    if mode is None:
        known = ", ".join(known.value for known in _MODES)
        raise InvalidInputError(f"mode: there is no {query.mode.value}; there are {known}")
    for field in ("output_fields", "embedding_field"):
        if getattr(query, field):
            raise InvalidInputError(f"{field}: nodes come with all of their fields, and have one embedding")
    # An index that does not know its nodes, as one over a store that was there, asks for none of them and means any.
    of_documents = [{_DOCUMENT_ID: {"$in": query.doc_ids}}] if query.doc_ids else []
    request = {
        "mode": mode,
        "filter": _both(query.node_ids or None, query.filters, *of_documents),
        "top_k": {"hybrid": query.hybrid_top_k, "text": query.sparse_top_k}.get(mode) or query.similarity_top_k,
    }
    if mode != "text" and query.query_embedding is not None:
        request["vector"] = query.query_embedding
    if mode != "vector" or query.query_embedding is None:
        request["text"] = query.query_str
    if mode == "hybrid" and query.alpha is not None:
        request["text_weight"] = 1.0 - query.alpha
    if query.mode is VectorStoreQueryMode.MMR:
        if query.query_embedding is None:
            raise InvalidInputError("query_embedding: mode mmr compares vectors")
        request |= {"top_k": candidates, "include": ("metadata", "document", "vector")}
    return request


def _result(query: VectorStoreQuery, matches: Sequence[Match], weight: float) -> VectorStoreQueryResult:
    if query.mode is VectorStoreQueryMode.MMR:
        matches = differing(matches, query.query_embedding, None, query.similarity_top_k, weight)
    return VectorStoreQueryResult(
        nodes=[_node(match) for match in matches],
        similarities=[match.score for match in matches],
        ids=[match.id for match in matches],
    )
