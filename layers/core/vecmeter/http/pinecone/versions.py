"""Versions of Pinecone's API, which a client names in a header."""

from __future__ import annotations

import re

from vecmeter.http.checks import invalid
from vecmeter.http.dependencies import Call

HEADER = "X-Pinecone-Api-Version"
# What a client speaks that names none.
DEFAULT = "2025-10"
_FORM = re.compile(r"20\d\d-(0[1-9]|1[0-2])(\.alpha)?")
# Since then an index is described by a schema of fields; in between, a preview of it was called alpha.
_BY_SCHEMA = "2026-07"


def api_version(call: Call) -> str:
    """The version a client speaks, which sorts by age. Raises InvalidRequestError: it is no version."""
    version = call.header(HEADER) or DEFAULT
    if _FORM.fullmatch(version) is None:
        raise invalid(HEADER, f"is {version!r:.40}; a version is {DEFAULT}, say")
    return version


def describes_by_schema(call: Call) -> bool:
    """Whether the client speaks of indexes by their schema. Raises InvalidRequestError: it names no version."""
    version = api_version(call)
    return version >= _BY_SCHEMA or version.endswith("alpha")
