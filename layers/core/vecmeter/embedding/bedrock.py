"""Embedders of Amazon Bedrock: Titan Text Embeddings V2 and Cohere Embed 3.

Titan takes one text per call, so a batch goes out over several threads; Cohere takes 96 per call. Nothing is cut off
unseen: a text over a model's limit is refused. The account, region and credentials are boto3's own.
Limits and shapes: the Bedrock user guide, "Amazon Titan Embeddings" and "Cohere Embed v3".
"""

from __future__ import annotations

import json
import math
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from vecmeter import deadline
from vecmeter.embedding.model import (
    Embedding,
    Embeddings,
    estimate_tokens,
    refuse_unembeddable,
    unembeddable,
)
from vecmeter.errors import EmbedderNotSetUpError, EmbedderUnavailableError, VecmeterError, Violation

if TYPE_CHECKING:
    from mypy_boto3_bedrock_runtime import BedrockRuntimeClient

PROVIDER = "bedrock"
TITAN = "amazon.titan-embed-text-v2:0"
TITAN_DIMENSIONS = (1024, 512, 256)
COHERE_ENGLISH = "cohere.embed-english-v3"
COHERE_MULTILINGUAL = "cohere.embed-multilingual-v3"
COHERE_DIMENSION = 1024

_TITAN_CHARACTERS = 50_000
_COHERE_CHARACTERS = 2_048
_COHERE_TEXTS_PER_CALL = 96

_PARALLEL_CALLS = 8
_CONNECT_SECONDS = 2
_READ_SECONDS = 5
# A service that is there has answered one call of several by then.
_ANSWER_SECONDS = 1
_ATTEMPTS = 2
_BATCH_SECONDS = 20
"""The longest a batch takes, where the request leaves it more than that. A single call with its second attempt takes
(2 + 5) * 2 s and a pause at worst."""

_THROTTLED = frozenset({"ThrottlingException", "ServiceQuotaExceededException", "ModelNotReadyException"})
_NOT_SET_UP = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
    }
)

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class TitanEmbedder:
    client: BedrockRuntimeClient
    dimension: int
    parallel_calls: int = _PARALLEL_CALLS
    batch_seconds: float = _BATCH_SECONDS
    provider: str = PROVIDER
    model: str = TITAN

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        refuse_unembeddable(texts, _TITAN_CHARACTERS)
        embedded = _in_parallel(self._embed, list(enumerate(texts)), self.parallel_calls, self.batch_seconds)
        return Embeddings([one.vector for one in embedded], sum(one.tokens for one in embedded))

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self.embed_documents(texts)

    def count_tokens(self, text: str) -> None:
        return None

    def _embed(self, numbered: tuple[int, str]) -> Embedding:
        position, text = numbered
        request = {"inputText": text, "dimensions": self.dimension, "normalize": True}
        answer, counted = _invoke(self.client, self.model, request, first=position, texts=1)
        vector = _unit_vectors([answer.get("embedding")], 1, self.dimension, self.model)[0]
        tokens = answer.get("inputTextTokenCount", counted)
        return Embedding(vector, tokens if isinstance(tokens, int) else estimate_tokens(text))


@dataclass(frozen=True, slots=True)
class CohereEmbedder:
    client: BedrockRuntimeClient
    model: str
    parallel_calls: int = _PARALLEL_CALLS
    batch_seconds: float = _BATCH_SECONDS
    dimension: int = COHERE_DIMENSION
    provider: str = PROVIDER

    def embed_documents(self, texts: Sequence[str]) -> Embeddings:
        return self._embed_all(texts, "search_document")

    def embed_queries(self, texts: Sequence[str]) -> Embeddings:
        return self._embed_all(texts, "search_query")

    def count_tokens(self, text: str) -> None:
        return None

    def _embed_all(self, texts: Sequence[str], input_type: str) -> Embeddings:
        refuse_unembeddable(texts, _COHERE_CHARACTERS)
        batches = [
            (first, texts[first : first + _COHERE_TEXTS_PER_CALL])
            for first in range(0, len(texts), _COHERE_TEXTS_PER_CALL)
        ]
        embedded = _in_parallel(
            lambda batch: self._embed(*batch, input_type), batches, self.parallel_calls, self.batch_seconds
        )
        return Embeddings(
            [vector for batch in embedded for vector in batch.vectors], sum(batch.tokens for batch in embedded)
        )

    def _embed(self, first: int, texts: Sequence[str], input_type: str) -> Embeddings:
        request = {"texts": list(texts), "input_type": input_type, "truncate": "NONE"}
        answer, counted = _invoke(self.client, self.model, request, first=first, texts=len(texts))
        vectors = _unit_vectors(answer.get("embeddings"), len(texts), self.dimension, self.model)
        return Embeddings(vectors, counted if counted is not None else sum(map(estimate_tokens, texts)))


def load_bedrock_embedder(model: str, dimension: int) -> TitanEmbedder | CohereEmbedder:
    """An embedder with a client of its own; ``model`` and ``dimension`` are in the catalogue of ``registry``.

    Raises:
        EmbedderNotSetUpError: boto3 finds no region to speak to.
    """
    # Heavy, and only this provider needs them.
    from boto3.session import Session
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        # The default mode makes 5 attempts of 60 s each. A repeated embedding costs money, not correctness.
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=_PARALLEL_CALLS,
    )
    try:
        # A session of its own: making a client from boto3's shared one is not thread-safe.
        client: BedrockRuntimeClient = Session().client("bedrock-runtime", config=config)
    except BotoCoreError as error:
        raise EmbedderNotSetUpError("Amazon Bedrock is not set up here.", retry_after=60) from error
    if model == TITAN:
        return TitanEmbedder(client, dimension)
    return CohereEmbedder(client, model)


def _invoke(
    client: BedrockRuntimeClient, model: str, request: dict[str, Any], *, first: int, texts: int
) -> tuple[dict[str, Any], int | None]:
    """Call the model with the texts at the positions ``first`` and on.

    Returns:
        The answer, and the tokens Bedrock counted for the whole call where its header says so.
    """
    # Loaded already by whoever made the client.
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        response = client.invoke_model(
            modelId=model,
            body=json.dumps(request).encode(),
            contentType="application/json",
            accept="application/json",
        )
        answer = json.loads(response["body"].read())
    except ClientError as error:
        raise _translated(error.response["Error"], model, first, texts) from error
    except NoCredentialsError as error:
        raise _not_set_up(model) from error
    except BotoCoreError as error:
        raise EmbedderUnavailableError(f"The embedder {model} does not answer.", retry_after=2) from error
    except ValueError as error:
        raise _unreadable(model) from error
    if not isinstance(answer, dict):
        raise _unreadable(model)
    headers = response["ResponseMetadata"]["HTTPHeaders"]
    counted = headers.get("x-amzn-bedrock-input-token-count", "")
    return answer, int(counted) if counted.isdecimal() else None


def _translated(error: Any, model: str, first: int, texts: int) -> VecmeterError:
    code = error.get("Code", "")
    if code == "ValidationException":
        # Bedrock's message names schema and sizes, never the text. Which of several texts it means, it does not say.
        which = "" if texts == 1 else f"this text or one of the {texts - 1} after it: "
        return unembeddable(Violation(str(first), f"{which}{error.get('Message', 'refused by the model')}"))
    if code in _THROTTLED:
        return EmbedderUnavailableError(f"The embedder {model} is throttled.", retry_after=5)
    if code in _NOT_SET_UP:
        return _not_set_up(model)
    return EmbedderUnavailableError(f"The embedder {model} does not answer.", retry_after=2)


def _not_set_up(model: str) -> EmbedderNotSetUpError:
    return EmbedderNotSetUpError(f"The embedder {model} is not set up in this account.", retry_after=60)


def _unit_vectors(raw: Any, count: int, dimension: int, model: str) -> list[array[float]]:
    """``count`` lists of ``dimension`` numbers as float32 of unit length (Cohere does not promise any length)."""
    vectors: list[array[float]] = []
    try:
        for numbers in raw:
            length = math.hypot(*numbers)
            if len(numbers) != dimension or not 0 < length < math.inf:
                raise _unreadable(model)
            vectors.append(array("f", [number / length for number in numbers]))
    except TypeError as error:
        raise _unreadable(model) from error
    if len(vectors) != count:
        raise _unreadable(model)
    return vectors


def _unreadable(model: str) -> EmbedderUnavailableError:
    return EmbedderUnavailableError(f"The embedder {model} gave an answer that is not an embedding.", retry_after=60)


def _in_parallel(
    call: Callable[[_Item], _Result], items: Sequence[_Item], parallel_calls: int, seconds: float
) -> list[_Result]:
    """``call`` of each item over threads, results in order; the first failure cancels what has not begun.

    A single call has a thread, too: botocore's time-outs are those of the client, the request may have less time left.

    Raises:
        EmbedderUnavailableError: not done within ``seconds``, or when the request's own time was up; its cause is the
            TimeoutError, unless the service had time to answer a call and answered none.
    """
    if not items:
        return []
    # Only Bedrock needs it.
    from concurrent.futures import ThreadPoolExecutor

    seconds = deadline.for_work(seconds)
    ends_at = time.monotonic() + seconds
    threads = ThreadPoolExecutor(min(parallel_calls, len(items)), thread_name_prefix="bedrock")
    try:
        calls = [threads.submit(call, item) for item in items]
        return [one.result(ends_at - time.monotonic()) for one in calls]
    except TimeoutError as error:
        if seconds >= _ANSWER_SECONDS and not any(one.done() for one in calls):
            raise EmbedderUnavailableError(f"The embedder said nothing for {seconds:.3g} s.", retry_after=5) from None
        advice = "; send fewer documents at once" if len(items) > 1 else ""
        message = f"The embedder took longer than {seconds:.3g} s for {len(items)} calls{advice}."
        raise EmbedderUnavailableError(message, retry_after=5) from error
    finally:
        # Calls that are under way end by their own time limits; nobody waits for them.
        threads.shutdown(wait=False, cancel_futures=True)
