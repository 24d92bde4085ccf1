"""What Pinecone has and Vecmeter has not: said in so many words, to whoever has a key, for nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Query
from pydantic import BaseModel, ConfigDict
from starlette.responses import Response

from vecmeter.errors import UnsupportedError
from vecmeter.http.dependencies import CallDependency
from vecmeter.http.route import UnversionedRouter

router = UnversionedRouter(include_in_schema=False)

_EMBEDDING = (
    "There is no inference on this wire: send vectors, or let Vecmeter embed documents by its own API "
    "(docs/embedding.md)."
)
_BACKUPS = "There are no backups of an index: the database's own cover all of them (docs/deploy.md)."
_COPIES = "There are no collections of Pinecone's kind, copies of an index: read its vectors and write them to another."
_NAMESPACES = "A namespace is not created: it comes into being with its first record. Upsert into it."
_DOCUMENTS = "The documents API is not there: use the vectors API, /vectors/upsert and /query."
_IMPORTS = "Nothing is imported from a bucket. Use 'vecmeter import' with a file, or upsert in batches."
# By path and methods. Neither bodies nor parameters are looked at.
ABSENT: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("/indexes/create-for-model", ("POST",), _EMBEDDING),
    ("/indexes/{index}/records/namespaces/{rest:vector_id}", ("POST",), _EMBEDDING),
    ("/indexes/{index}/namespaces", ("POST",), _NAMESPACES),
    ("/indexes/{index}/namespaces/{rest:vector_id}", ("POST",), _DOCUMENTS),
    ("/indexes/{index}/bulk/imports", ("POST",), _IMPORTS),
    ("/indexes/{index}/backups", ("GET", "POST"), _BACKUPS),
    ("/indexes/{index}/backup-schedules", ("GET", "POST"), _BACKUPS),
    ("/backups", ("GET",), _BACKUPS),
    ("/backups/{backup}", ("GET", "DELETE"), _BACKUPS),
    ("/backups/{backup}/create-index", ("POST",), _BACKUPS),
    ("/backup-schedules/{rest:vector_id}", ("GET", "PATCH", "DELETE"), _BACKUPS),
    ("/restore-jobs", ("GET",), _BACKUPS),
    ("/restore-jobs/{job}", ("GET",), _BACKUPS),
    ("/collections", ("GET", "POST"), _COPIES),
    ("/collections/{copy}", ("GET", "DELETE"), _COPIES),
    ("/embed", ("POST",), _EMBEDDING),
    ("/rerank", ("POST",), _EMBEDDING),
    ("/models", ("GET",), _EMBEDDING),
    ("/models/{model}", ("GET",), _EMBEDDING),
)


class _Anything(BaseModel):
    """Whatever is asked for, it is not there."""

    model_config = ConfigDict(extra="allow")


def _refusal(reason: str) -> Callable[..., Response]:
    def refuse(_: Annotated[_Anything, Query()], call: CallDependency) -> Response:
        call.authorize()
        raise UnsupportedError(reason)

    return refuse


for path, methods, reason in ABSENT:
    router.add_api_route(path, _refusal(reason), methods=list(methods))
