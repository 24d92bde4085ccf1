"""The real parts for a benchmark: an embedded PostgreSQL and the DynamoDB emulator in a temporary folder."""

from __future__ import annotations

import os
import random
import tempfile
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vecmeter.ledger.table import create_client, create_table
from vecmeter.vectors.migrations.runner import migrate
from vecmeter_local.emulator import DynamoDbEmulator
from vecmeter_local.postgres import PostgresServer

TABLE = "vecmeter-bench"


class _RoomyServer(PostgresServer):
    """With buffers as a database server has them: the local server's 256 MB are meant for a laptop."""

    def _options(self) -> list[str]:
        return [*super()._options(), "-c", "shared_buffers=4GB"]


@contextmanager
def stack(*, roomy: bool = False) -> Iterator[str]:
    """Start the parts and set the environment to them; yields the DSN. ``roomy``: for sets of hundreds of MB."""
    with tempfile.TemporaryDirectory(prefix="vecmeter-bench-") as name:
        Path(name).chmod(0o711)
        server = (_RoomyServer if roomy else PostgresServer)(Path(name), durable=True)
        emulator = DynamoDbEmulator(Path(name))
        dsn = server.start()
        try:
            endpoint = emulator.start()
            os.environ.update(
                AWS_ACCESS_KEY_ID="bench",
                AWS_SECRET_ACCESS_KEY="bench",
                AWS_REGION="us-east-1",
                AWS_DEFAULT_REGION="us-east-1",
                AWS_ENDPOINT_URL_DYNAMODB=endpoint,
                DATABASE_URL=dsn,
                TABLE_NAME=TABLE,
                INDEX_BUILD_MEMORY_MB="2048" if roomy else "512",
                RESULT_CACHE_MB="0",  # what is measured are searches; benchmarks/cache.py is about what is remembered
            )
            migrate(dsn)
            create_table(create_client(), TABLE)
            yield dsn
        finally:
            emulator.stop()
            server.stop()


def clustered(count: int, dimension: int, clusters: int = 50, seed: int = 1) -> list[array[float]]:
    """Vectors around some centres: uniform random ones have no neighbours worth finding."""
    rng = random.Random(seed)
    centres = [[rng.gauss(0, 1) for _ in range(dimension)] for _ in range(clusters)]
    return [array("f", [x + rng.gauss(0, 0.35) for x in centres[rng.randrange(clusters)]]) for _ in range(count)]
