"""Choosing an embedder by name."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from vecmeter.embedding.registry import EmbedderChoice, choose_embedder, get_embedder
from vecmeter.errors import InvalidRequestError


@pytest.mark.parametrize(
    ("provider", "model", "dimension", "choice"),
    [
        ("built-in", None, None, EmbedderChoice("built-in", "wordllama-l2-supercat", 256)),
        ("built-in", "", 64, EmbedderChoice("built-in", "wordllama-l2-supercat", 64)),
        ("bedrock", None, None, EmbedderChoice("bedrock", "amazon.titan-embed-text-v2:0", 1024)),
        ("bedrock", None, 512, EmbedderChoice("bedrock", "amazon.titan-embed-text-v2:0", 512)),
        (
            "bedrock",
            "cohere.embed-english-v3",
            None,
            EmbedderChoice("bedrock", "cohere.embed-english-v3", 1024),
        ),
    ],
)
def test_a_choice_is_completed(provider: str, model: str | None, dimension: int | None, choice: EmbedderChoice) -> None:
    assert choose_embedder(provider, model, dimension) == choice


@pytest.mark.parametrize(
    ("provider", "model", "dimension", "path", "message"),
    [
        ("openai", None, None, "embedder.provider", "'openai' is not one of 'none', 'built-in', 'bedrock'"),
        (
            "bedrock",
            "titan",
            None,
            "embedder.model",
            "'titan' is not a model of 'bedrock': 'amazon.titan-embed-text-v2:0', 'cohere.embed-english-v3', "
            "'cohere.embed-multilingual-v3'",
        ),
        (
            "built-in",
            None,
            384,
            "dimension",
            "wordllama-l2-supercat makes vectors of dimension 256, 128, 64, not 384",
        ),
        (
            "bedrock",
            "cohere.embed-english-v3",
            256,
            "dimension",
            "cohere.embed-english-v3 makes vectors of dimension 1024, not 256",
        ),
    ],
)
def test_an_impossible_choice_says_what_is_possible(
    provider: str, model: str | None, dimension: int | None, path: str, message: str
) -> None:
    for choose in (choose_embedder, get_embedder):
        with pytest.raises(InvalidRequestError) as refused:
            choose(provider, model, dimension)
        assert [(violation.path, violation.message) for violation in refused.value.violations] == [(path, message)]
        assert refused.value.detail == f"{path}: {message}."


def test_without_an_embedder_text_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="has no embedder"):
        get_embedder("none", None, 3)


def test_first_requests_at_once_load_one_embedder() -> None:
    barrier = threading.Barrier(8)

    def load(_: int) -> int:
        barrier.wait()
        return id(get_embedder("built-in", None, 128))

    with ThreadPoolExecutor(8) as threads:
        assert len(set(threads.map(load, range(8)))) == 1


def test_without_the_optional_package_it_says_so() -> None:
    # A None in sys.modules is how Python itself marks a module as not there.
    script = """
import sys
sys.modules["wordllama"] = None
from vecmeter.embedding.registry import choose_embedder, get_embedder
from vecmeter.errors import EmbedderUnavailableError, InvalidRequestError
try:
    choose_embedder("built-in", None, 256)
except InvalidRequestError as error:
    assert "not installed here" in error.violations[0].message
else:
    raise SystemExit("chosen")
try:
    get_embedder("built-in", None, 256)
except EmbedderUnavailableError as error:
    assert "not part of this deployment" in error.detail
else:
    raise SystemExit("loaded")
"""
    subprocess.run([sys.executable, "-c", script], check=True)
