"""Settings from the environment: one frozen dataclass, validated at start, every mistake named at once.

``docs/configuration.md`` and ``.env.example`` are checked against the fields below by a test.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from vecmeter.errors import SettingsError


@dataclass(frozen=True, slots=True)
class Parser:
    """``accepts`` says in the documentation what ``parse`` takes; that raises ValueError for the rest."""

    accepts: str
    parse: Callable[[str], Any]


_TEXT = Parser("text", str)


def _parse_boolean(raw: str) -> bool:
    values = {
        "true": True,
        "1": True,
        "yes": True,
        "on": True,
        "false": False,
        "0": False,
        "no": False,
        "off": False,
    }
    try:
        return values[raw.lower()]
    except KeyError:
        raise ValueError("must be true or false") from None


_BOOLEAN = Parser("true or false", _parse_boolean)


def _integer(minimum: int, maximum: int) -> Parser:
    def parse(raw: str) -> int:
        try:
            value = int(raw)
        except ValueError:
            raise ValueError("must be a whole number") from None
        if not minimum <= value <= maximum:
            raise ValueError(f"must lie between {minimum} and {maximum}")
        return value

    return Parser(f"{minimum} to {maximum}", parse)


def _one_of(*choices: str) -> Parser:
    def parse(raw: str) -> str:
        if raw not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return raw

    return Parser(", ".join(choices), parse)


def _parse_path_prefix(raw: str) -> str:
    if re.fullmatch(r"(/[A-Za-z0-9._~-]+)*", raw) is None:
        raise ValueError("must be empty or a path like /v1, without a slash at its end")
    if taken := next((path for path in _TAKEN if f"{raw}/".startswith(f"{path}/")), None):
        raise ValueError(f"must not be {taken} or below it, where Pinecone's clients have their own routes")
    return raw


def _parse_http_url(raw: str) -> str:
    if re.fullmatch(r"(https?://[A-Za-z0-9.:\[\]-]+(/[!-~]*)?)?", raw) is None:
        raise ValueError("must be empty or a URL like http://localhost:4318/v1/traces")
    return raw


def _parse_public_url(raw: str) -> str:
    if re.fullmatch(r"(https?://[A-Za-z0-9.:\[\]-]+(/[A-Za-z0-9._~-]+)*)?", raw) is None:
        raise ValueError("must be empty or a URL like https://vectors.example.com, without a slash at its end")
    return raw


# The roots of Pinecone's wire (``http/pinecone/errors.py``): whatever fails below them is told in its form.
_TAKEN = ("/indexes", "/collections", "/backups", "/backup-schedules", "/restore-jobs", "/embed", "/rerank", "/models")
_PUBLIC_URL = Parser("empty, or a URL with http or https, without a slash at its end", _parse_public_url)
_HTTP_URL = Parser("empty, or a URL with http or https", _parse_http_url)
_PATH_PREFIX = Parser("empty, or a path like /v1", _parse_path_prefix)


def _setting(default: str | None, help: str, parser: Parser = _TEXT, *, example: str | None = None) -> Any:
    """A field read from the variable of its name in capitals; ``default`` None means it must be set."""
    return field(metadata={"default": default, "help": help, "parser": parser, "example": example})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    # where things are
    database_url: str = _setting(
        "",
        "PostgreSQL DSN; or leave empty and set DATABASE_SECRET_ARN",
        example="postgresql://vecmeter:secret@localhost/vecmeter",
    )
    database_secret_arn: str = _setting("", "Secrets Manager secret with host, port, dbname, username, password")
    database_root_certificate: str = _setting(
        "",
        "file of the authorities that the server named by DATABASE_SECRET_ARN must have its certificate from, or "
        "'system'; empty: the connection is encrypted, the server not verified",
        example="/opt/certificates/global-bundle.pem",
    )
    table_name: str = _setting(None, "DynamoDB table of the ledger", example="vecmeter")

    # HTTP
    api_prefix: str = _setting("/v1", "prefix of the business routes", _PATH_PREFIX)
    public_url: str = _setting(
        "",
        "where clients reach the service, which names it in the hosts of Pinecone's wire; empty: as the request came",
        _PUBLIC_URL,
    )
    max_body_bytes: int = _setting(str(6 * 1024 * 1024), "largest request body", _integer(1024, 10 * 1024 * 1024))
    max_response_bytes: int = _setting(
        str(5 * 1024 * 1024),
        "largest answer of a search or fetch; Lambda ends at 6 MB",
        _integer(1024, 100 * 1024 * 1024),
    )

    request_timeout_seconds: int = _setting(
        "29", "longest time a request may take; in Lambda never more than the function has left", _integer(5, 900)
    )

    # request limits
    max_top_k: int = _setting("1000", "most matches one search may ask for", _integer(1, 10_000))
    max_batch_vectors: int = _setting(
        "1000", "most vectors in one write, or ids in one fetch or delete", _integer(1, 10_000)
    )
    max_dimension: int = _setting("16000", "largest dimension of a collection", _integer(1, 16_000))
    max_metadata_bytes: int = _setting(
        "40960", "largest metadata of a vector, as JSON in UTF-8", _integer(0, 1_048_576)
    )
    max_document_characters: int = _setting("100000", "longest document of a vector", _integer(0, 1_048_576))
    max_query_characters: int = _setting("8192", "longest search text", _integer(1, 1_048_576))
    max_id_bytes: int = _setting("512", "longest id or namespace, in UTF-8", _integer(1, 1024))

    # the ledger
    key_environment: str = _setting(
        "live", "the <env> part of new keys, vm_<env>_...", _one_of("live", "test", "local")
    )
    usage_tracking_enabled: bool = _setting(
        "true", "false turns counting and limits off; authentication stays", _BOOLEAN
    )
    default_daily_requests: int = _setting("10000", "requests per day of a key without a policy", _integer(0, 10**15))
    default_monthly_requests: int = _setting(
        "300000", "requests per month of a key without a policy", _integer(0, 10**15)
    )
    default_daily_tokens: int = _setting("1000000", "tokens per day of a key without a policy", _integer(0, 10**15))
    default_monthly_tokens: int = _setting(
        "30000000", "tokens per month of a key without a policy", _integer(0, 10**15)
    )
    idempotency_hours: int = _setting(
        "24", "how long the answer to a write with an Idempotency-Key is kept, in hours", _integer(1, 720)
    )
    outage_read_seconds: int = _setting(
        "300",
        "while the ledger is away, reads go on for keys seen in the last so many seconds; 0: they are refused",
        _integer(0, 86_400),
    )
    outage_write_seconds: int = _setting("0", "the same of writes", _integer(0, 86_400))
    hold_seconds: int = _setting("60", "life of a hold whose request never settled", _integer(1, 900))
    usage_retention_days: int = _setting("90", "days a usage record is kept", _integer(1, 3650))
    rollup_retention_days: int = _setting(
        "800", "days hourly and daily sums of usage are kept; never less than records", _integer(1, 3650)
    )
    export_bucket: str = _setting("", "S3 bucket that months of usage are exported to; empty for none")
    event_bus_name: str = _setting("", "EventBridge bus that alerts are put on; empty: none")
    audit_retention_days: int = _setting("365", "days an audit record is kept", _integer(1, 3650))
    max_rotation_grace_seconds: int = _setting(
        "604800", "longest time the old secret of a rotated key works on", _integer(0, 31_536_000)
    )
    price_version: str = _setting(
        "default-1", "name of this price list, which holds until one is stored; each record has its own"
    )
    price_search: int = _setting("5000000", "micro-USD per million searches", _integer(0, 10**12))
    price_request: int = _setting("1000000", "micro-USD per million other requests", _integer(0, 10**12))
    price_vector_written: int = _setting("2000000", "micro-USD per million vectors written", _integer(0, 10**12))
    price_token: int = _setting("20000", "micro-USD per million tokens", _integer(0, 10**12))
    price_storage_gb_hour: int = _setting("0", "micro-USD per million GB-hours stored", _integer(0, 10**12))

    # PostgreSQL
    database_pool_size: int = _setting(
        "1", "connections of a process; 1 in a function, more in a server", _integer(1, 100)
    )
    database_connect_timeout_seconds: int = _setting(
        "5", "time to connect, or to wait for a pooled connection", _integer(1, 60)
    )
    statement_timeout_ms: int = _setting("25000", "longest statement of a request", _integer(100, 600_000))
    prepare_threshold: int = _setting(
        "5", "uses before a statement is prepared on the server; 0 never (RDS Proxy)", _integer(0, 1000)
    )
    index_threshold_vectors: int = _setting(
        "5000", "vectors from which a collection gets its HNSW index", _integer(0, 10**9)
    )
    exact_threshold_vectors: int = _setting(
        "2000",
        "candidates up to which a search is exact though there is an index; "
        "namespaces of so many vectors get one of their own",
        _integer(1, 10**6),
    )
    max_namespace_indexes: int = _setting(
        "64", "most namespaces of a collection that have an index of their own", _integer(0, 1000)
    )
    index_build_memory_mb: int = _setting(
        "512", "most memory of the database that building one index may take, in MB", _integer(16, 2**20)
    )
    maintenance_function_name: str = _setting(
        "",
        "function that runs long tasks asked for by the API, and builds an index soon after a bulk write; "
        "empty: tasks run where they are asked for, and the index waits for the schedule",
    )
    vacuum_dead_percent: int = _setting(
        "10", "percent of a table's rows that are dead from which it is vacuumed", _integer(1, 99)
    )
    vacuum_changed_percent: int = _setting(
        "10", "percent of a table's rows changed since it was analyzed from which it is again", _integer(1, 1000)
    )
    reindex_growth_percent: int = _setting(
        "100",
        "percent of vectors an HNSW index has more than it was built of, from which it is rebuilt",
        _integer(10, 10_000),
    )
    reindex_bloat_percent: int = _setting(
        "50",
        "percent of bytes an HNSW index takes more than a fresh one, from which it is rebuilt",
        _integer(10, 10_000),
    )
    recall_sample: int = _setting("100", "searches by which the recall of an index is measured", _integer(20, 10_000))

    # embedding
    embedder_provider: str = _setting(
        "none", "embedder of collections that name none", _one_of("none", "built-in", "bedrock")
    )
    embedder_model: str = _setting("", "its model, e.g. amazon.titan-embed-text-v2:0; empty: the provider's default")

    # caches
    result_cache_mb: int = _setting("32", "memory for answers of searches, in MB; 0: none is kept", _integer(0, 2**20))
    result_cache_seconds: int = _setting(
        "86400",
        "longest time an answer of a search is kept, confirmed or while the database is away",
        _integer(1, 604_800),
    )
    embedding_cache_mb: int = _setting("16", "memory for vectors of query texts, in MB; 0: none", _integer(0, 2**20))
    embedding_cache_days: int = _setting(
        "7",
        "days that vectors of query texts made by Bedrock are kept in the table, for all; 0: they are not",
        _integer(0, 3650),
    )

    # circuit breakers of PostgreSQL and the embedder
    circuit_failures: int = _setting("5", "failures within the window that open a circuit", _integer(1, 1000))
    circuit_window_seconds: int = _setting("60", "the window, in seconds", _integer(1, 3600))
    circuit_open_seconds: int = _setting("30", "time a circuit stays open before it is tried", _integer(1, 3600))

    # observability
    log_level: str = _setting("INFO", "least level logged", _one_of("DEBUG", "INFO", "WARNING", "ERROR"))
    log_format: str = _setting("json", "json for CloudWatch, text for a terminal", _one_of("json", "text"))
    metrics_enabled: bool = _setting("true", "write EMF metrics to standard output", _BOOLEAN)
    metrics_namespace: str = _setting("Vecmeter", "CloudWatch namespace of the metrics")
    tracing_endpoint: str = _setting(
        "", "OTLP/HTTP URL that spans are sent to, e.g. http://localhost:4318/v1/traces; empty: none", _HTTP_URL
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Read and check every setting.

        Raises:
            SettingsError: naming every variable that is missing or wrong, not only the first.
        """
        values: dict[str, Any] = {}
        mistakes: list[str] = []
        for setting in dataclasses.fields(cls):
            name, parser = setting.name, setting.metadata["parser"]
            variable = name.upper()
            default = setting.metadata["default"]
            raw = environment.get(variable, default)
            if raw is None or (default is None and not raw):
                mistakes.append(f"{variable} is not set")
                continue
            try:
                values[name] = parser.parse(raw)
            except ValueError as error:
                mistakes.append(f"{variable}={raw!r} {error}")
        if not values.get("database_url") and not values.get("database_secret_arn"):
            mistakes.append("one of DATABASE_URL and DATABASE_SECRET_ARN must be set")
        if mistakes:
            raise SettingsError("; ".join(mistakes))
        return cls(**values)
