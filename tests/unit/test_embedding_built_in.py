"""The built-in embedder: faithful to its model, and bounded whatever the text."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from vecmeter.embedding.built_in import _batches, is_installed, load_built_in_embedder
from vecmeter.embedding.registry import get_embedder
from vecmeter.errors import InvalidRequestError


def test_vectors_are_those_of_wordllama_itself() -> None:
    # In a process of its own: importing wordllama configures the root logger.
    script = """
from pathlib import Path
import numpy, wordllama
from vecmeter.embedding.built_in import load_built_in_embedder
texts = ["Return the length of a list.", "日本語の文書", "naïve café 🦜", "word " * 5000]
for dimension in (256, 128, 64):
    theirs = wordllama.WordLlama.load(
        cache_dir=Path(wordllama.__file__).parent, trunc_dim=dimension, disable_download=True
    ).embed(texts, norm=True)
    ours = numpy.array(load_built_in_embedder(dimension).embed_documents(texts).vectors)
    assert numpy.abs(ours - theirs).max() < 1e-5, dimension
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", script], check=True)


def test_loading_opens_no_network_client_and_leaves_logging_alone() -> None:
    script = """
import logging, sys
from vecmeter.embedding import built_in, registry
assert not {"numpy", "tokenizers", "wordllama", "boto3"} & sys.modules.keys()
built_in.load_built_in_embedder(256).embed_queries(["text"])
assert not {"wordllama", "requests", "urllib3", "socket", "huggingface_hub"} & sys.modules.keys()
assert not logging.getLogger().handlers
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_token_counts_are_exact() -> None:
    embedder = load_built_in_embedder(256)
    # One token for each character, and four for each emoji: an estimate of len/4 would be 4 and 16 times too low.
    assert embedder.count_tokens("日本語の文書") == 7
    assert embedder.count_tokens("🦜" * 100) == 401
    assert embedder.embed_queries(["🦜" * 100]).tokens == 401
    assert embedder.count_tokens("\ud800") == 0


@pytest.mark.parametrize("unit", ["word ", "a", "🦜", "\x00"], ids=["words", "one word", "emoji", "NUL"])
def test_a_very_long_text_is_embedded(unit: str) -> None:
    embedder = load_built_in_embedder(256)
    long_text = unit * (100_000 // len(unit))
    embedded = embedder.embed_documents(["short", long_text, "short"])
    assert embedded.vectors[0] == embedded.vectors[2] != embedded.vectors[1]


def test_one_long_document_does_not_multiply_the_memory_of_the_short_ones() -> None:
    # wordllama's own batches pad each text to the longest: 2.4 GB for these.
    script = """
import resource
from vecmeter.embedding.built_in import load_built_in_embedder
embedder = load_built_in_embedder(256)
embedder.embed_queries(["warm"])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
embedder.embed_documents(["short text"] * 63 + ["word " * 20_000])
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
assert grown < 64, grown
"""
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_text_whose_tokens_cancel_out_is_refused_by_position() -> None:
    embedder = load_built_in_embedder(256)
    weights = embedder.weights.copy()
    word, opposite = (embedder.tokenizer.encode(text, add_special_tokens=False).ids for text in ("good", "bad"))
    weights[opposite] = -weights[word]
    with pytest.raises(InvalidRequestError) as refused:
        dataclasses.replace(embedder, weights=weights).embed_documents(["good", "good bad", "bad"])
    assert [violation.path for violation in refused.value.violations] == ["1"]


def test_batches_keep_every_text_in_order_and_stay_small() -> None:
    texts = ["x" * 40_000, "y" * 40_000, "z", "w" * 200_000, "v"]
    batches = list(_batches(texts))
    assert [text for batch in batches for text in batch] == texts
    assert [len(batch) for batch in batches] == [1, 2, 1, 1]
    assert list(_batches([])) == []


def test_it_is_loaded_once() -> None:
    assert is_installed()
    assert get_embedder("built-in", None, 256) is get_embedder("built-in", "wordllama-l2-supercat", None)
    assert get_embedder("built-in", None, 128).dimension == 128
