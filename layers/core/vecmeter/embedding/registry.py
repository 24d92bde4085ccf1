"""Which embedders there are, and the one of a collection."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vecmeter.breaker import Circuit, Sign
from vecmeter.embedding import bedrock, built_in
from vecmeter.embedding.model import Embedder, Embeddings
from vecmeter.errors import EmbedderNotSetUpError, EmbedderUnavailableError, InvalidRequestError, Violation

NONE = "none"


@dataclass(frozen=True, slots=True)
class EmbedderChoice:
    """An embedder by name, complete: what a collection stores, so that a change of defaults never touches it."""

    provider: str
    model: str
    dimension: int


_CATALOGUE: dict[str, dict[str, tuple[int, ...]]] = {
    built_in.PROVIDER: {built_in.MODEL: built_in.DIMENSIONS},
    bedrock.PROVIDER: {
        bedrock.TITAN: bedrock.TITAN_DIMENSIONS,
        bedrock.COHERE_ENGLISH: (bedrock.COHERE_DIMENSION,),
        bedrock.COHERE_MULTILINGUAL: (bedrock.COHERE_DIMENSION,),
    },
}
"""Provider -> model -> dimensions. The first of each is the default."""

_loading = threading.Lock()


class Embedders:
    """The embedders of collections; those that are a service stand behind ``circuit``."""

    def __init__(self, circuit: Circuit) -> None:
        self._circuit = circuit

    def get(self, provider: str, model: str | None, dimension: int | None) -> Embedder:
        """As ``get_embedder``. What it gives raises CircuitOpenError, too."""
        embedder = get_embedder(provider, model, dimension)
        return Guarded(embedder, self._circuit) if embedder.provider == bedrock.PROVIDER else embedder


@dataclass(frozen=True, slots=True)
class Guarded:
    """An embedder that is not asked while the circuit is open. One call, of however many texts, is one outcome."""

    embedder: Embedder
    circuit: Circuit

    @property
    def provider(self) -> str:
        return self.embedder.provider

    @property
    def model(self) -> str:
        return self.embedder.model

    @property
    def dimension(self) -> int:
        return self.embedder.dimension

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        with self.circuit.guard(_sign_of):
            return self.embedder.embed_documents(texts)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        with self.circuit.guard(_sign_of):
            return self.embedder.embed_queries(texts)

    def count_tokens(self, text: str) -> int | None:
        return self.embedder.count_tokens(text)


def choose_embedder(provider: str, model: str | None, dimension: int | None) -> EmbedderChoice:
    """Complete and check a choice, without loading anything.

    Args:
        model: None or "" for the provider's default.
        dimension: of the collection; None for the model's default.

    Raises:
        InvalidRequestError: no such provider or model, a dimension the model does not have, the provider is ``none``,
            or it is not part of this deployment.
    """
    choice = _complete(provider, model, dimension)
    if choice.provider == built_in.PROVIDER and not built_in.is_installed():
        raise _refused(
            "embedder.provider",
            "'built-in' is not installed here (its package is wordllama); this deployment has 'none' and 'bedrock'",
        )
    return choice


def get_embedder(provider: str, model: str | None, dimension: int | None) -> Embedder:
    """The embedder of a collection, loaded once per process and shared by its threads.

    Raises:
        InvalidRequestError: as ``choose_embedder``.
        EmbedderUnavailableError: it is not installed or not set up here (though it was where the collection was made).
    """
    choice = _complete(provider, model, dimension)
    # Without it, two first requests would each load the model.
    with _loading:
        return _load(choice)


@functools.cache
def _load(choice: EmbedderChoice) -> Embedder:
    if choice.provider == built_in.PROVIDER:
        return built_in.load_built_in_embedder(choice.dimension)
    return bedrock.load_bedrock_embedder(choice.model, choice.dimension)


def _complete(provider: str, model: str | None, dimension: int | None) -> EmbedderChoice:
    if provider == NONE:
        raise InvalidRequestError(
            "This collection has no embedder: send vectors instead of text, or create a collection with an embedder."
        )
    models = _CATALOGUE.get(provider)
    if models is None:
        raise _refused("embedder.provider", f"{provider!r} is not one of {_listed([NONE, *_CATALOGUE])}")
    model = model or next(iter(models))
    dimensions = models.get(model)
    if dimensions is None:
        raise _refused("embedder.model", f"{model!r} is not a model of {provider!r}: {_listed(models)}")
    dimension = dimensions[0] if dimension is None else dimension
    if dimension not in dimensions:
        possible = ", ".join(map(str, dimensions))
        raise _refused("dimension", f"{model} makes vectors of dimension {possible}, not {dimension}")
    return EmbedderChoice(provider, model, dimension)


def _sign_of(error: Exception) -> Sign:
    """What the failure of an embedder says of the service behind it."""
    if isinstance(error, EmbedderNotSetUpError) or isinstance(error.__cause__, TimeoutError):
        return Sign.NOTHING  # or there was too much to do for the time there was
    # Texts are refused on this side, too.
    return Sign.FAILED if isinstance(error, EmbedderUnavailableError) else Sign.NOTHING


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))


def _refused(path: str, message: str) -> InvalidRequestError:
    return InvalidRequestError(f"{path}: {message}.", (Violation(path, message),))
