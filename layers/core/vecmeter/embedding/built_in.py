"""The built-in embedder: the static model that the ``wordllama`` wheel carries. No network, no account.

A text's vector is the mean of its tokens' vectors, at unit length. Only the wheel's two data files are used, read by
``tokenizers`` and ``safetensors``: importing ``wordllama`` itself takes a third longer (it brings an HTTP client
and Pydantic), configures the root logger, and pools a batch as one padded tensor, in which a single long document
makes each short one as large as itself (measured in docs/embedding.md).
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from vecmeter.embedding.model import Embeddings, refuse_unembeddable, unembeddable
from vecmeter.errors import EmbedderNotSetUpError, Violation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

PROVIDER = "built-in"
MODEL = "wordllama-l2-supercat"
DIMENSIONS = (256, 128, 64)
"""The model is trained so that the first 128 or 64 numbers of a vector are a vector by themselves."""

_WEIGHTS = "weights/l2_supercat_256.safetensors"
_TOKENIZER = "tokenizers/l2_supercat_tokenizer_config.json"

_BATCH_CHARACTERS = 65_536
_BLOCK_TOKENS = 8_192


@dataclass(frozen=True, slots=True)
class BuiltInEmbedder:
    """``weights`` has a row of ``dimension`` float32 per token of the vocabulary."""

    tokenizer: Tokenizer
    weights: NDArray[np.float32]
    dimension: int
    provider: str = PROVIDER
    model: str = MODEL

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        refuse_unembeddable(texts)
        vectors: list[array[float]] = []
        faults: list[Violation] = []
        tokens = 0
        for position, token_ids in enumerate(self._tokenize(texts)):
            tokens += len(token_ids)
            vector = self._unit_mean(token_ids)
            if vector is None:
                faults.append(Violation(str(position), "has no direction: its tokens cancel out"))
            else:
                vectors.append(vector)
        if faults:
            raise unembeddable(*faults)
        return Embeddings(vectors, tokens)

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self.embed_documents(texts)

    def count_tokens(self, text: str) -> int:
        """Exact; 0 for a text that ``embed_queries`` refuses as not being Unicode."""
        try:
            return len(self.tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids)
        except TypeError:
            # The tokenizer takes UTF-8 only.
            return 0

    def _tokenize(self, texts: Sequence[str]) -> Iterator[list[int]]:
        # The batch call releases the GIL, the single one does not and would stop the whole server for a long text.
        for batch in _batches(texts):
            for encoded in self.tokenizer.encode_batch_fast(batch, add_special_tokens=False):
                yield encoded.ids

    def _unit_mean(self, token_ids: Sequence[int]) -> array[float] | None:
        """The direction of the mean; None where it has none. The sum has the same direction, so nothing is divided."""
        # Heavy, and only this provider needs it; loaded already when an instance exists.
        import numpy as np

        total = np.zeros(self.dimension, dtype=np.float32)
        # By blocks: gathering every row at once takes up to 400 MB for a document of 100,000 characters.
        for start in range(0, len(token_ids), _BLOCK_TOKENS):
            total += self.weights.take(token_ids[start : start + _BLOCK_TOKENS], axis=0).sum(axis=0)
        length = np.sqrt(total @ total)
        if not length > 0:
            return None
        return array("f", (total / length).tobytes())


def is_installed() -> bool:
    return _package_folder() is not None


def load_built_in_embedder(dimension: int) -> BuiltInEmbedder:
    """Load the model, 0.3 s at the first call of a process.

    Raises:
        EmbedderNotSetUpError: the optional packages are not installed, as in a lean Lambda layer.
    """
    folder = _package_folder()
    if folder is None:
        raise EmbedderNotSetUpError(
            "The built-in embedder is not installed here: its package, wordllama, is not part of this deployment.",
            retry_after=3600,
        )
    tokenizer, weights = _load_model(folder)
    if dimension < weights.shape[1]:
        weights = weights[:, :dimension].copy()
    return BuiltInEmbedder(tokenizer, weights, dimension)


def _package_folder() -> Path | None:
    package = find_spec("wordllama")
    return Path(package.origin).parent if package is not None and package.origin is not None else None


@functools.cache
def _load_model(folder: Path) -> tuple[Tokenizer, NDArray[np.float32]]:
    # Heavy (numpy alone is 100 ms), optional, and only this provider needs them.
    import numpy as np
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / _TOKENIZER))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    weights = load_file(folder / _WEIGHTS)["embedding.weight"]
    # Twice the memory of the float16 on disk (32 MB), and a third of its time to sum.
    return tokenizer, weights.astype(np.float32)


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    """Runs of texts of about ``_BATCH_CHARACTERS`` in all, so that the tokens held at once stay few."""
    batch: list[str] = []
    characters = 0
    for text in texts:
        if batch and characters + len(text) > _BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
        batch.append(text)
        characters += len(text)
    if batch:
        yield batch
