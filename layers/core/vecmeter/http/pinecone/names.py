"""Ids and namespaces as Pinecone has them: ASCII without NUL, and one namespace that goes by three names."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

MAX_NAME = 512
# The default namespace where a path or a listing has to name it; a body may also leave it out or empty.
DEFAULT_NAMESPACE = "__default__"


def _ascii(name: str) -> str:
    if not name.isascii():
        raise ValueError("has a character that is not ASCII")
    if "\x00" in name:
        raise ValueError("has a character U+0000, which PostgreSQL cannot keep")
    if len(name) > MAX_NAME:
        raise ValueError(f"is {len(name)} characters long; at most {MAX_NAME} are allowed")
    return name


def _not_empty(name: str) -> str:
    if not name:
        raise ValueError(f"must not be empty; 1 to {MAX_NAME} characters are allowed")
    return name


PineconeName = Annotated[str, AfterValidator(_ascii)]
"""A namespace, or a prefix of ids or namespaces: up to 512 characters."""
RecordId = Annotated[str, AfterValidator(_not_empty), AfterValidator(_ascii)]


def stored_namespace(name: str) -> str:
    """A namespace of a request as the vector store has it, where the default one is empty."""
    return "" if name == DEFAULT_NAMESPACE else name


def shown_namespace(stored: str) -> str:
    """A namespace of the vector store by a name that can be asked for."""
    return stored or DEFAULT_NAMESPACE
