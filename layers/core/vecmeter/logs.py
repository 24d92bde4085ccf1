"""Log lines: as JSON, or as text for a terminal. No vector, document or secret reaches them (docs/metrics.md)."""

from __future__ import annotations

import copy
import json
import logging
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, TextIO

# The submodule, not the package's own names: those would load more.
from aws_lambda_powertools.logging.formatter import LambdaPowertoolsFormatter

from vecmeter import __version__
from vecmeter.errors import VecmeterError

# ASCII only: a lone surrogate in a message would otherwise lose the line.
_to_json = json.JSONEncoder(separators=(",", ":"), default=str).encode

_request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
_trace_id: ContextVar[str | None] = ContextVar("trace_id", default=None)


@contextmanager
def request_scope(request_id: str, trace_id: str | None = None) -> Iterator[None]:
    """Every log line written inside carries ``request_id``, in tasks and worker threads of the request too, and the id
    of its trace, if it has one.
    """
    request, trace = _request_id.set(request_id), _trace_id.set(trace_id)
    try:
        yield
    finally:
        _request_id.reset(request)
        _trace_id.reset(trace)


def current_request_id() -> str | None:
    return _request_id.get()


def configure_logging(level: str, fmt: Literal["json", "text"] | str, service: str) -> None:
    """Send every log line of this process to one handler: JSON to standard output, or text to standard error.

    Our own loggers (``vecmeter.*``) write from ``level`` on, all others from WARNING on: the debug lines of botocore
    and psycopg show request bodies, signatures and parameters. Calling it again replaces the first call.
    """
    handler = _ProcessHandler("stdout" if fmt == "json" else "stderr")
    handler.setFormatter(_json_formatter(service) if fmt == "json" else _TextFormatter())
    root = logging.getLogger()
    for other in list(root.handlers):
        # Lambda's runtime brings a handler of its own, which would write each line a second time.
        if isinstance(other, _ProcessHandler) or type(other).__module__.startswith("awslambdaric"):
            root.removeHandler(other)
    root.addHandler(handler)
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level]))
    logging.getLogger("vecmeter").setLevel(level)


class _ProcessHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stdout`` or ``sys.stderr`` is at the moment: runtimes and tests replace them."""

    def __init__(self, stream_name: Literal["stdout", "stderr"]) -> None:
        logging.Handler.__init__(self)
        self._stream_name = stream_name

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        stream: TextIO = getattr(sys, self._stream_name)
        return stream


class _JsonFormatter(LambdaPowertoolsFormatter):
    def format(self, record: logging.LogRecord) -> str:
        return _without_secrets(super().format(_prepared(record)))


def _json_formatter(service: str) -> _JsonFormatter:
    return _JsonFormatter(
        json_serializer=_to_json,
        # A message stays what it is: by default one that looks like JSON becomes an object.
        json_deserializer=str,
        log_record_order=["timestamp", "level", "service", "message"],
        use_rfc3339=True,
        utc=True,
        serialize_stacktrace=False,
        location="%(name)s.%(funcName)s:%(lineno)d",
        service=service,
        version=__version__,
    )


class _TextFormatter(logging.Formatter):
    """``12:00:01.250 INFO    vecmeter.request GET /health 200 duration_ms=0.4 operation=health ...``"""

    def format(self, record: logging.LogRecord) -> str:
        record = _prepared(record)
        exception = record.__dict__.pop("exception", None)
        fields = "".join(
            f" {name}={value}"
            for name, value in record.__dict__.items()
            if name not in _NOT_SHOWN_AS_FIELDS and value is not None
        )
        moment = f"{self.formatTime(record, '%H:%M:%S')}.{int(record.msecs):03d}"
        line = f"{moment} {record.levelname:<7} {record.name} {record.getMessage()}{fields}".translate(_CONTROLS)
        text = line if exception is None else f"{line}\n{exception}"
        return _without_secrets(text.encode(errors="backslashreplace").decode())


_NOT_SHOWN_AS_FIELDS = frozenset(
    # The last three are in the message of a request's line.
    [*logging.makeLogRecord({}).__dict__, "message", "asctime", "method", "route", "status"]
)
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), 127)}
_SECRET = re.compile(r"(vm_[a-z]+_)[0-9A-Za-z]{20,}", re.ASCII)


def _without_secrets(line: str) -> str:
    # The last net, for lines other libraries write.
    return _SECRET.sub(r"\1***", line)


def _prepared(record: logging.LogRecord) -> logging.LogRecord:
    """A copy with the request id, and the exception as text that shows no values."""
    record = copy.copy(record)
    record.__dict__.pop("taskName", None)
    if (request_id := _request_id.get()) is not None:
        record.__dict__.setdefault("request_id", request_id)
    if (trace_id := _trace_id.get()) is not None:
        record.__dict__.setdefault("trace_id", trace_id)
    if record.exc_info and record.exc_info[1] is not None:
        record.exception = describe_exception(record.exc_info[1])
        record.exception_name = type(record.exc_info[1]).__name__
    record.exc_info = record.exc_text = None
    return record


def describe_exception(error: BaseException, _depth: int = 0) -> str:
    """Traceback, causes and types of an exception, with only those messages that cannot carry request data."""
    parts: list[str] = []
    earlier = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if earlier is not None and _depth < 8:
        link = "The direct cause of" if error.__cause__ else "While handling it"
        parts.append(f"{describe_exception(earlier, _depth + 1)}\n\n{link}:\n")
    parts.append("Traceback (most recent call last):")
    parts.append("".join(traceback.format_tb(error.__traceback__)).rstrip("\n"))
    parts.append(f"{type(error).__module__}.{type(error).__qualname__}: {_safe_message(error)}")
    if isinstance(error, BaseExceptionGroup) and _depth < 8:
        parts.extend(f"  one of them:\n{describe_exception(one, _depth + 1)}" for one in error.exceptions)
    return "\n".join(parts)


# Types whose messages name code, files and hosts. Others (ValueError, KeyError, Pydantic's and PostgreSQL's errors)
# quote the value they stumbled over, which may be a document.
_SAFE_TYPES = (VecmeterError, OSError, ImportError, AttributeError, NameError, TypeError, RuntimeError, MemoryError)


def _safe_message(error: BaseException) -> str:
    # Only an exception of theirs is of their types, and then they are loaded.
    psycopg = sys.modules.get("psycopg")
    if psycopg is not None and isinstance(error, psycopg.Error):
        return _database_message(error, psycopg.OperationalError)
    botocore = sys.modules.get("botocore.exceptions")
    if botocore is not None and isinstance(error, botocore.ClientError | botocore.BotoCoreError):
        return "(withheld)" if isinstance(error, botocore.ParamValidationError) else str(error)
    return str(error) if isinstance(error, _SAFE_TYPES) else "(withheld)"


def _database_message(error: Any, operational: type[Exception]) -> str:
    """SQLSTATE and the names of what is concerned: PostgreSQL's own words quote parameters."""
    if error.sqlstate is None:
        # Never reached the server, or lost it: host and port. A bad connection string is a ProgrammingError.
        return str(error) if isinstance(error, operational) else "(withheld)"
    names = ("schema_name", "table_name", "column_name", "datatype_name", "constraint_name")
    concerned = "".join(f" {name}={value}" for name in names if (value := getattr(error.diag, name)) is not None)
    return f"SQLSTATE {error.sqlstate}{concerned}"
