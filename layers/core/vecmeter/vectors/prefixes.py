"""Texts with a prefix as a range, which an index by code points answers."""

from __future__ import annotations


def first_without(prefix: str) -> str | None:
    """The first text after all those that start with ``prefix``, by code points; None when nothing comes after them."""
    kept = prefix.rstrip("\U0010ffff")
    if not kept:
        return None
    code = ord(kept[-1]) + 1
    return kept[:-1] + chr(0xE000 if code == 0xD800 else code)  # no text has the surrogates between them
