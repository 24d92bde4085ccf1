"""The port to embedders: what a provider offers, and the rules every text passes before one sees it."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from vecmeter.errors import InvalidRequestError, Violation, first_of


@dataclass(frozen=True, slots=True)
class Embedding:
    """One text as a vector. ``tokens`` is what the provider counted, else the estimate of ``estimate_tokens``."""

    vector: array[float]
    tokens: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """Many texts as vectors, in the order of the texts. ``tokens`` is the sum over all of them."""

    vectors: list[array[float]]
    tokens: int


class Embedder(Protocol):
    """Turns text into vectors.

    Each vector is a float32 ``array('f')`` of ``dimension`` numbers and unit length, so that cosine, inner product
    and L2 rank alike. The same text gives the same vector, alone or in a batch. Threads may share an embedder.

    Every method that embeds raises:
        InvalidRequestError: some texts cannot be embedded. One violation for each that is known; its path is the
            position of the text ("0", "17"), which ``with_paths`` turns into the caller's own paths.
        EmbedderUnavailableError: the provider does not answer in time or throttles.
        EmbedderNotSetUpError: it is not set up in this deployment.
    """

    @property
    def provider(self) -> str: ...

    @property
    def model(self) -> str: ...

    @property
    def dimension(self) -> int: ...

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        """All of ``texts`` or none: no vector is returned when one of them cannot be embedded."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        """The same for texts to search by, which some models embed in another way."""
        ...

    def count_tokens(self, text: str) -> int | None:
        """The tokens ``text`` will be billed as, or None where only the provider knows: then estimate."""
        ...


def estimate_tokens(text: str) -> int:
    """One token per four characters, rounded up."""
    return -(-len(text) // 4)


def refuse_unembeddable(texts: Sequence[str], max_characters: int | None = None) -> None:
    """Refuse what no provider should see.

    A blank text has no meaning to find (in the built-in model it is the zero vector, which cosine cannot rank; Bedrock
    refuses it); a lone surrogate is not Unicode text; and what is over ``max_characters`` would be cut off unseen.

    Raises:
        InvalidRequestError: naming every such text by its position.
    """
    violations = [
        Violation(str(position), fault)
        for position, text in enumerate(texts)
        if (fault := _fault(text, max_characters)) is not None
    ]
    if violations:
        raise unembeddable(*violations)


def unembeddable(*violations: Violation) -> InvalidRequestError:
    """The error for texts that cannot be embedded; the paths are positions."""
    return InvalidRequestError(first_of(violations), violations)


def with_paths(error: InvalidRequestError, paths: Sequence[str]) -> InvalidRequestError:
    """The error of an embedder with each position replaced by ``paths[position]``, e.g. ``vectors.3.document``.

    Paths that are no position (``embedder.model``, from ``get_embedder``) stay.
    """
    named = tuple(
        Violation(paths[int(violation.path)] if violation.path.isdecimal() else violation.path, violation.message)
        for violation in error.violations
    )
    return InvalidRequestError(first_of(named) if named else error.detail, named)


def _fault(text: str, max_characters: int | None) -> str | None:
    if not text or text.isspace():
        return "is blank: there is nothing to embed"
    if max_characters is not None and len(text) > max_characters:
        return f"has {len(text)} characters; this embedder takes at most {max_characters}"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "contains a lone surrogate, which is not Unicode text"
    return None
