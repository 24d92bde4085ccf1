"""Answers become dataclasses, and back. Fields that a class does not know are passed over: newer servers send more."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Callable, Mapping
from datetime import date, datetime
from functools import cache
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from vecmeter_client._flow import Answer
from vecmeter_client.errors import UnexpectedAnswerError

T = TypeVar("T")
_Convert = Callable[[Any], Any]


def read(kind: type[T], content: Any) -> T:
    """The dataclass ``kind`` of a JSON object.

    Raises:
        UnexpectedAnswerError: it is no object, or lacks a field, or has in one what cannot be made the object or moment
            that belongs there. Numbers and texts are taken as they are.
    """
    try:
        return cast(T, _reader(cast(Any, kind))(content))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        message = f"The answer is no {kind.__name__} of this version of the client: {error!r}"
        raise UnexpectedAnswerError(message) from None


def answered(kind: type[T], answer: Answer, **more: Any) -> T:
    """The dataclass ``kind`` of an answer's body, with ``more`` fields. Raises UnexpectedAnswerError."""
    return read(kind, content_of(answer) | more)


def spread(kind: type[T], answer: Answer, name: str) -> T:
    """The same, with all that ``kind`` does not know by name gathered in its field ``name``."""
    content = content_of(answer)
    known = {field.name for field in dataclasses.fields(cast(Any, kind))}
    rest = {key: content.pop(key) for key in list(content) if key not in known}
    return read(kind, content | {name: rest})


def content_of(answer: Answer) -> dict[str, Any]:
    """The JSON object in an answer's body. Raises UnexpectedAnswerError."""
    try:
        content = json.loads(answer.content)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        media_type = answer.headers.get("content-type") or "no Content-Type"
        raise UnexpectedAnswerError(f"The answer is no JSON object but {len(answer.content)} bytes of {media_type}")
    return content


def items_of(content: Mapping[str, Any], name: str) -> list[Any]:
    """The list under ``name``. Raises UnexpectedAnswerError where there is none."""
    items = content.get(name)
    if not isinstance(items, list):
        raise UnexpectedAnswerError(f"The answer has no list {name!r} that this version of the client can read")
    return items


def to_dict(result: Any) -> dict[str, Any]:
    """A result as the JSON object it came as: fields that are None left out, moments as ISO 8601 in UTC."""
    found: dict[str, Any] = _plain(result)
    return found


@cache
def _reader(kind: type) -> _Convert:
    hints = get_type_hints(kind)
    fields = [field for field in dataclasses.fields(kind) if field.init]
    optional = {
        field.name
        for field in fields
        if field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING
    }
    converters = [(field.name, _converter(hints[field.name])) for field in fields]

    def convert(content: Any) -> Any:
        if not isinstance(content, Mapping):
            raise TypeError(f"{type(content).__name__} where an object should be")
        values = {}
        for name, converter in converters:
            if name in content:
                value = content[name]
                values[name] = converter(value) if converter is not None else value
            elif name not in optional:
                raise KeyError(f"{name} is missing")
        return kind(**values)

    return convert


def _converter(hint: Any) -> _Convert | None:
    """None: the value is taken as it is."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        [inner] = [one for one in arguments if one is not type(None)][:1]
        converter = _converter(inner)
        return None if converter is None else lambda value: None if value is None else converter(value)
    if origin is tuple:
        each = _converter(arguments[0])
        return tuple if each is None else lambda value: tuple(map(each, value))
    if isinstance(origin, type) and issubclass(origin, Mapping) and (of_values := _converter(arguments[1])) is not None:
        return lambda value: {name: of_values(inner) for name, inner in value.items()}
    if hint is datetime:
        return datetime.fromisoformat
    if hint is date:
        return date.fromisoformat
    return _reader(hint) if dataclasses.is_dataclass(hint) and isinstance(hint, type) else None


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        found: dict[str, Any] = {}
        for field, inner in named:
            if field.metadata.get("spread"):
                found |= _plain(inner)
            elif inner is not None:
                found[field.name] = _plain(inner)
        return found
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, datetime):
        return value.isoformat().replace("+00:00", "Z")
    return value.isoformat() if isinstance(value, date) else value
