"""Real text on every machine, as vectors: passages of docstrings and service descriptions, by the built-in embedder.

The text: every docstring of the standard library and of the installed packages, and the descriptions in botocore's
service models, cut into sentences; a passage is a run of one to four of them. What is installed decides what comes
out: the same lock file gives the same passages, in the same order.

A vector has 384 dimensions: the passage's own 256 times 0.8, and the first 128 of its whole text's times 0.6 (the
model is trained so that these are a vector by themselves). Both have length 1, so the cosine similarity of two
passages is 0.64 times that of what they say plus 0.36 times that of what they are about: the nearest neighbours of a
passage say alike in a like context. The queries are passages of texts of which nothing is in the set.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import random
import re
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vecmeter.embedding.built_in import BuiltInEmbedder, load_built_in_embedder

MOST_PASSAGES = 500_000
_OWN, _CONTEXT = 0.8, 0.6
_OWN_DIMENSION, _CONTEXT_DIMENSION = 256, 128
_LONGEST_RUN = 4
# One text of so many is held out for queries.
_HELD_OUT = 50
_TEXTS_AT_ONCE = 2000
_SENTENCE_END = re.compile(r"(?<=[.:;!?])\s+|\n\s*\n")
_TAG = re.compile(r"<[^>]*>")
_SPACE = re.compile(r"\s+")


def embed_passages(queries: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The set and its queries, in an order that any beginning of is a fair sample."""
    kept, held_out = _collect()
    rng = random.Random(1)
    embedder = load_built_in_embedder(_OWN_DIMENSION)
    base = _embed(embedder, rng.sample(sorted(kept.items()), min(len(kept), MOST_PASSAGES)))
    asked = _embed(embedder, rng.sample(sorted(held_out.items()), queries))
    return base, asked


def _collect() -> tuple[dict[str, str], dict[str, str]]:
    """Passages with the text each comes from: those of the set, those held out. Each passage once."""
    kept: dict[str, str] = {}
    held_out: dict[str, str] = {}
    for text in dict.fromkeys(_texts()):
        aside = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) % _HELD_OUT == 0
        for passage in _passages(text):
            (held_out if aside else kept).setdefault(passage, text)
    for passage in kept.keys() & held_out.keys():
        del held_out[passage]
    return kept, held_out


def _texts() -> Iterator[str]:
    standard, packages = (Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib"))
    for folder in (standard, packages):
        for file in sorted(folder.rglob("*.py")):
            if folder is packages or "site-packages" not in file.parts:
                yield from _docstrings(file)
    for file in sorted(packages.glob("botocore/data/*/*/service-2.json.gz")):
        yield from _descriptions(json.loads(gzip.decompress(file.read_bytes())))


def _docstrings(file: Path) -> Iterator[str]:
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return  # files that test a parser
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None and _is_unicode(text):
                yield text


def _descriptions(node: Any) -> Iterator[str]:
    """Every ``documentation`` of a service model, without its tags."""
    if isinstance(node, dict):
        for key, value in node.items():
            if key == "documentation" and isinstance(value, str):
                yield _TAG.sub(" ", value)
            else:
                yield from _descriptions(value)
    elif isinstance(node, list):
        for value in node:
            yield from _descriptions(value)


def _passages(text: str) -> Iterator[str]:
    sentences = [_SPACE.sub(" ", sentence).strip() for sentence in _SENTENCE_END.split(text)]
    sentences = [sentence for sentence in sentences if len(sentence) > 20]
    for start in range(len(sentences)):
        for length in range(1, min(_LONGEST_RUN, len(sentences) - start) + 1):
            yield " ".join(sentences[start : start + length])


def _embed(embedder: BuiltInEmbedder, pairs: list[tuple[str, str]]) -> NDArray[np.float32]:
    made = np.empty((len(pairs), _OWN_DIMENSION + _CONTEXT_DIMENSION), dtype=np.float32)
    for start in range(0, len(pairs), _TEXTS_AT_ONCE):
        part = pairs[start : start + _TEXTS_AT_ONCE]
        own = np.array(embedder.embed_documents([passage for passage, _ in part]).vectors)
        # A text has many passages; it is embedded once for those at hand.
        texts = list(dict.fromkeys(text for _, text in part))
        numbers = dict(zip(texts, embedder.embed_documents(texts).vectors, strict=True))
        context = np.array([numbers[text] for _, text in part])[:, :_CONTEXT_DIMENSION]
        context /= np.linalg.norm(context, axis=1, keepdims=True)
        made[start : start + len(part)] = np.hstack([_OWN * own, _CONTEXT * context])
    return made


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
