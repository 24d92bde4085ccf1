"""pyarrow, which only those need who name a Parquet file."""

from __future__ import annotations

from typing import Any

from vecmeter_client.cli.files.rows import FileError

_MISSING = "Parquet needs pyarrow: pip install 'vecmeter-client[parquet]'"


def pyarrow() -> Any:
    """Raises FileError that names the command to install it."""
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise FileError(_MISSING) from None
    return pa


def pyarrow_parquet() -> Any:
    """Raises FileError that names the command to install it."""
    try:
        import pyarrow.parquet as pq
    except ModuleNotFoundError:
        raise FileError(_MISSING) from None
    return pq
