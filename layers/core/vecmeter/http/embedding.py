"""Texts of a request to vectors, by the collection's embedder."""

from __future__ import annotations

from array import array
from collections.abc import Sequence

from vecmeter.embedding.model import Embedder, with_paths
from vecmeter.embedding.registry import get_embedder
from vecmeter.errors import InvalidRequestError, Violation
from vecmeter.telemetry import Metric, RequestMetrics
from vecmeter.vectors.model import Collection


def embed_queries(
    collection: Collection, texts: Sequence[str], paths: Sequence[str], metrics: RequestMetrics
) -> list[array[float]]:
    """The vectors of search texts. Raises InvalidRequestError with the ``paths`` of those that cannot be embedded."""
    with metrics.timed(Metric.EMBEDDING_TIME):
        try:
            return _embedder(collection, paths).embed_queries(texts).vectors
        except InvalidRequestError as error:
            raise with_paths(error, paths) from None


def embed_documents(
    collection: Collection, documents: Sequence[str], paths: Sequence[str], metrics: RequestMetrics
) -> list[array[float]]:
    """The vectors of documents. Raises InvalidRequestError with the ``paths`` of those that cannot be embedded."""
    with metrics.timed(Metric.EMBEDDING_TIME):
        try:
            return _embedder(collection, paths).embed_documents(documents).vectors
        except InvalidRequestError as error:
            raise with_paths(error, paths) from None


def _embedder(collection: Collection, paths: Sequence[str]) -> Embedder:
    definition = collection.embedder
    if definition is None:
        message = "cannot be embedded: the collection has no embedder; send a vector"
        raise InvalidRequestError(f"{paths[0]} {message}.", tuple(Violation(path, message) for path in paths))
    return get_embedder(definition.provider, definition.model, collection.dimension)
