"""Texts of a request to vectors, by the collection's embedder."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from vecmeter.embedding.model import Embedder, with_paths
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.http.dependencies import Call
from vecmeter.telemetry import Metric
from vecmeter.vectors.model import Collection, EmbedderDefinition


def embed_queries(collection: Collection, texts: Sequence[str], paths: Sequence[str], call: Call) -> list[array[float]]:
    """The vectors of search texts, remembered or made.

    Raises InvalidRequestError with the ``paths`` of those that cannot be embedded.
    """
    cache, metrics = call.runtime.query_embeddings, call.metrics
    of = _definition(collection, paths)
    with metrics.timed(Metric.EMBEDDING_TIME):
        try:
            found = cache.embed(of.provider, of.model, collection.dimension, texts, lambda: _load(collection, of, call))
        except InvalidRequestError as error:
            raise with_paths(error, paths) from None
    metrics.add(Metric.CACHE_HITS, found.hits)
    metrics.add(Metric.CACHE_MISSES, len(texts) - found.hits)
    return found.vectors


def embed_documents(
    collection: Collection, documents: Sequence[str], paths: Sequence[str], call: Call
) -> list[array[float]]:
    """The vectors of documents. Raises InvalidRequestError with the ``paths`` of those that cannot be embedded."""
    of = _definition(collection, paths)
    with call.metrics.timed(Metric.EMBEDDING_TIME):
        try:
            return _load(collection, of, call).embed_documents(documents).vectors
        except InvalidRequestError as error:
            raise with_paths(error, paths) from None


def _definition(collection: Collection, paths: Sequence[str]) -> EmbedderDefinition:
    definition = collection.embedder
    if definition is None:
        message = "cannot be embedded: the collection has no embedder; send a vector"
        raise InvalidRequestError(f"{paths[0]} {message}.", tuple(Violation(path, message) for path in paths))
    return definition


def _load(collection: Collection, definition: EmbedderDefinition, call: Call) -> Embedder:
    return call.runtime.embedders.get(definition.provider, definition.model, collection.dimension)
