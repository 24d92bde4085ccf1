"""Looks at ``GET /health`` from a process of its own: every 20 ms on a new connection, until its input ends.

Prints the milliseconds of every look as JSON.
"""

from __future__ import annotations

import json
import select
import sys
import time
from http.client import HTTPConnection

_PAUSE_SECONDS = 0.02


def look(address: str) -> float:
    """From before the connection is made to the last byte, in milliseconds."""
    connection = HTTPConnection(address, timeout=30)
    started = time.perf_counter()
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()
    taken = (time.perf_counter() - started) * 1000
    connection.close()
    assert answer.status == 200
    return taken


def main() -> None:
    address, taken = sys.argv[1], []
    while not select.select([sys.stdin], [], [], _PAUSE_SECONDS)[0]:
        taken.append(look(address))
    json.dump(taken, sys.stdout)


if __name__ == "__main__":
    main()
