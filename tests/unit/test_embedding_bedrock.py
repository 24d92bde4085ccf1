"""The Bedrock adapters against botocore's own stub: what is sent, what is read, how each failure is told."""

from __future__ import annotations

import io
import json
import threading
import time
from array import array
from collections.abc import Iterator
from typing import Any, cast

import boto3
import pytest
from botocore.response import StreamingBody
from botocore.stub import Stubber

from tests.fixtures.embedders import FakeBedrockClient
from vecmeter import deadline
from vecmeter.breaker import Circuit
from vecmeter.embedding.bedrock import CohereEmbedder, TitanEmbedder, load_bedrock_embedder
from vecmeter.embedding.registry import Guarded
from vecmeter.errors import EmbedderUnavailableError, InvalidRequestError


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stubber]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    client: Any = boto3.client("bedrock-runtime", region_name="eu-central-1")
    with Stubber(client) as stubber:
        yield stubber
        stubber.assert_no_pending_responses()


def answers(stub: Stubber, model: str, request: dict[str, Any], answer: object, tokens: int | None = None) -> None:
    payload = json.dumps(answer).encode()
    headers = {} if tokens is None else {"x-amzn-bedrock-input-token-count": str(tokens)}
    stub.add_response(
        "invoke_model",
        {
            "body": StreamingBody(io.BytesIO(payload), len(payload)),
            "contentType": "application/json",
            "ResponseMetadata": {"HTTPStatusCode": 200, "HTTPHeaders": headers},
        },
        {
            "modelId": model,
            "body": json.dumps(request).encode(),
            "contentType": "application/json",
            "accept": "application/json",
        },
    )


def titan(stub: Stubber, dimension: int = 256) -> TitanEmbedder:
    # One call after the other, as the stub expects them.
    return TitanEmbedder(cast(Any, stub.client), dimension, parallel_calls=1)


def cohere(stub: Stubber, model: str = "cohere.embed-english-v3") -> CohereEmbedder:
    return CohereEmbedder(cast(Any, stub.client), model, parallel_calls=1)


def test_titan_sends_one_text_per_call_and_sums_the_tokens(stub: Stubber) -> None:
    for text, number, tokens in (("one", 1.0, 3), ("two", -1.0, 4)):
        answers(
            stub,
            "amazon.titan-embed-text-v2:0",
            {"inputText": text, "dimensions": 256, "normalize": True},
            {"embedding": [number] + [0.0] * 255, "inputTextTokenCount": tokens},
        )
    embedded = titan(stub).embed_documents(["one", "two"])
    assert embedded.vectors == [array("f", [1.0] + [0.0] * 255), array("f", [-1.0] + [0.0] * 255)]
    assert embedded.tokens == 7


def test_cohere_sends_96_texts_per_call_as_documents(stub: Stubber) -> None:
    texts = [f"text {number}" for number in range(100)]
    vector = [2.0] + [0.0] * 1023
    for part, tokens in ((texts[:96], 300), (texts[96:], 12)):
        answers(
            stub,
            "cohere.embed-english-v3",
            {"texts": part, "input_type": "search_document", "truncate": "NONE"},
            {"embeddings": [vector] * len(part), "response_type": "embeddings_floats"},
            tokens,
        )
    embedded = cohere(stub).embed_documents(texts)
    assert embedded.vectors == [array("f", [1.0] + [0.0] * 1023)] * 100
    assert embedded.tokens == 312


def test_cohere_tells_queries_from_documents_and_estimates_tokens_without_a_header(stub: Stubber) -> None:
    answers(
        stub,
        "cohere.embed-multilingual-v3",
        {"texts": ["five letters?"], "input_type": "search_query", "truncate": "NONE"},
        {"embeddings": [[1.0] * 1024]},
    )
    embedded = cohere(stub, "cohere.embed-multilingual-v3").embed_queries(["five letters?"])
    assert embedded.tokens == 4


@pytest.mark.parametrize(
    ("code", "retry_after", "told"),
    [
        ("ThrottlingException", 5, "is throttled"),
        ("ServiceQuotaExceededException", 5, "is throttled"),
        ("ModelNotReadyException", 5, "is throttled"),
        ("AccessDeniedException", 60, "is not set up"),
        ("ResourceNotFoundException", 60, "is not set up"),
        ("ExpiredTokenException", 60, "is not set up"),
        ("ModelTimeoutException", 2, "does not answer"),
        ("ServiceUnavailableException", 2, "does not answer"),
        ("InternalServerException", 2, "does not answer"),
        ("ModelErrorException", 2, "does not answer"),
        ("SomethingNewException", 2, "does not answer"),
    ],
)
def test_its_failures_are_ours_to_retry(stub: Stubber, code: str, retry_after: int, told: str) -> None:
    stub.add_client_error("invoke_model", code, "arn:aws:iam::123456789012:role/secret-role is not authorized")
    with pytest.raises(EmbedderUnavailableError, match=told) as failed:
        titan(stub).embed_queries(["text"])
    assert failed.value.retry_after == retry_after
    assert "123456789012" not in failed.value.detail


def test_a_text_the_model_refuses_is_named(stub: Stubber) -> None:
    answers(
        stub,
        "amazon.titan-embed-text-v2:0",
        {"inputText": "fine", "dimensions": 256, "normalize": True},
        {"embedding": [1.0] * 256, "inputTextTokenCount": 1},
    )
    stub.add_client_error("invoke_model", "ValidationException", "Too many input tokens. Max input tokens: 8192")
    with pytest.raises(InvalidRequestError) as refused:
        titan(stub).embed_documents(["fine", "many tokens"])
    assert [(violation.path, violation.message) for violation in refused.value.violations] == [
        ("1", "Too many input tokens. Max input tokens: 8192")
    ]


def test_a_batch_cohere_refuses_names_where_it_begins(stub: Stubber) -> None:
    stub.add_client_error("invoke_model", "ValidationException", "Malformed input request")
    with pytest.raises(InvalidRequestError) as refused:
        cohere(stub).embed_documents(["a", "b", "c"])
    (violation,) = refused.value.violations
    assert (violation.path, violation.message) == ("0", "this text or one of the 2 after it: Malformed input request")


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        ([], "not an object"),
        ({}, "no embedding"),
        ({"embedding": [1.0] * 255}, "too short"),
        ({"embedding": [0.0] * 256}, "zero"),
        ({"embedding": ["1"] * 256}, "not numbers"),
        ({"embedding": [float("inf")] * 256}, "infinite"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_answer_that_is_no_embedding_never_gets_through(stub: Stubber, answer: object, what: str) -> None:
    answers(
        stub,
        "amazon.titan-embed-text-v2:0",
        {"inputText": "text", "dimensions": 256, "normalize": True},
        answer,
    )
    with pytest.raises(EmbedderUnavailableError, match="not an embedding"):
        titan(stub).embed_queries(["text"])


def test_too_few_vectors_never_get_through(stub: Stubber) -> None:
    answers(
        stub,
        "cohere.embed-english-v3",
        {"texts": ["a", "b"], "input_type": "search_document", "truncate": "NONE"},
        {"embeddings": [[1.0] * 1024]},
    )
    with pytest.raises(EmbedderUnavailableError, match="not an embedding"):
        cohere(stub).embed_documents(["a", "b"])


def test_a_text_over_the_limit_is_refused_before_any_call(stub: Stubber) -> None:
    for embedder, limit in (
        (titan(stub), 50_000),
        (cohere(stub), 2_048),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            embedder.embed_documents(["fine", "x" * (limit + 1)])
        (violation,) = refused.value.violations
        assert violation.path == "1"
        assert f"at most {limit}" in violation.message


class SlowClient(FakeBedrockClient):
    """Each call takes 50 ms; counts how many run at once."""

    def __init__(self) -> None:
        super().__init__()
        self.running = 0
        self.most_running = 0
        self._lock = threading.Lock()

    def invoke_model(self, **request: Any) -> dict[str, Any]:
        with self._lock:
            self.running += 1
            self.most_running = max(self.most_running, self.running)
        time.sleep(0.05)
        with self._lock:
            self.running -= 1
        return super().invoke_model(**request)


def test_titan_calls_run_in_parallel_and_keep_their_order() -> None:
    client = SlowClient()
    texts = [f"word{number}" for number in range(24)]
    embedded = TitanEmbedder(cast(Any, client), 256).embed_documents(texts)
    assert client.most_running == 8
    assert embedded == TitanEmbedder(cast(Any, FakeBedrockClient()), 256, parallel_calls=1).embed_documents(texts)


def test_the_first_failure_cancels_the_calls_that_have_not_begun() -> None:
    failure_is_known = threading.Event()

    class Failing(FakeBedrockClient):
        def invoke_model(self, **request: Any) -> dict[str, Any]:
            if self.requests:
                failure_is_known.wait(10)
            super().invoke_model(**request)
            raise EmbedderUnavailableError("gone")

    client = Failing()
    with pytest.raises(EmbedderUnavailableError, match="gone"):
        TitanEmbedder(cast(Any, client), 256, parallel_calls=2).embed_documents(["text"] * 1000)
    failure_is_known.set()
    assert len(client.requests) <= 3


def test_a_batch_that_takes_too_long_gives_up_while_it_can_still_answer() -> None:
    with pytest.raises(EmbedderUnavailableError, match="send fewer documents"):
        TitanEmbedder(cast(Any, SlowClient()), 256, batch_seconds=0.01).embed_documents(["a", "b", "c"])


@pytest.mark.parametrize(
    ("answered", "seconds", "state"),
    [
        pytest.param(0, 1.2, "open", id="not a word in a second"),
        pytest.param(1, 1.2, "closed", id="too many documents"),
        pytest.param(0, 0.1, "closed", id="a request with no time left"),
    ],
)
def test_only_a_service_that_says_nothing_is_held_against_it(answered: int, seconds: float, state: str) -> None:
    release = threading.Event()

    class Stalling(FakeBedrockClient):
        def invoke_model(self, **request: Any) -> dict[str, Any]:
            if len(self.requests) >= answered:
                release.wait(10)
            return super().invoke_model(**request)

    circuit = Circuit("embedder", failures=1)
    embedder = Guarded(TitanEmbedder(cast(Any, Stalling()), 256, parallel_calls=1), circuit)
    with deadline.within(seconds + deadline.ACCOUNTING_SECONDS), pytest.raises(EmbedderUnavailableError):
        embedder.embed_documents(["a", "b", "c"])
    release.set()
    assert circuit.state == state


def test_the_client_has_explicit_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    for model, dimension in (
        ("amazon.titan-embed-text-v2:0", 512),
        ("cohere.embed-english-v3", 1024),
    ):
        embedder = load_bedrock_embedder(model, dimension)
        assert (embedder.provider, embedder.model, embedder.dimension) == ("bedrock", model, dimension)
        config = cast(Any, embedder.client.meta.config)
        assert (config.connect_timeout, config.read_timeout) == (2, 5)
        assert config.retries["total_max_attempts"] == 2


def test_without_a_region_or_credentials_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "AWS_REGION",
        "AWS_DEFAULT_REGION",
        "AWS_PROFILE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
    ):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(EmbedderUnavailableError, match="not set up"):
        load_bedrock_embedder("amazon.titan-embed-text-v2:0", 1024)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with pytest.raises(EmbedderUnavailableError, match="not set up"):
        load_bedrock_embedder("amazon.titan-embed-text-v2:0", 1024).embed_queries(["text"])


def test_an_endpoint_that_does_not_answer_is_unavailable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    # Port 9 (discard) refuses at once.
    monkeypatch.setenv("AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "http://127.0.0.1:9")
    with pytest.raises(EmbedderUnavailableError, match="does not answer"):
        load_bedrock_embedder("amazon.titan-embed-text-v2:0", 1024).embed_queries(["text"])
