"""Many clients of a server in one process: each has a connection of its own and asks again when it is answered.

Takes a plan as JSON on standard input and prints what the clients saw: ``benchmarks.load`` starts it.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

BATCH = 10
BULK = 1000
_LONGEST_REST_SECONDS = 1.0
_ANSWER_SECONDS = 30.0


@dataclass
class Seen:
    """What the clients of a process saw."""

    answers: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    faults: Counter[str] = field(default_factory=Counter)


class Connection:
    """HTTP/1.1 over one connection that is kept, opened again when it broke."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._host, self._port, self._key = host, port, key
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._host, self._port)
        reader, writer = self._streams
        head = f"{method} {path} HTTP/1.1\r\nHost: load\r\nAuthorization: Bearer {self._key}\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        try:
            return await self._answer(reader)
        except BaseException:
            self.close()
            raise

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        content = await reader.readexactly(int(headers["content-length"]))
        if headers.get("connection") == "close":
            self.close()
        return int(first.split()[1]), headers, content

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


def request(kind: str, path: str, dimension: int, rng: random.Random) -> tuple[str, str, bytes]:
    """What a client asks next, and what that is called."""
    drawn = "bulk" if kind == "bulk" else rng.choices(("search", "upsert", "fetch"), (70, 15, 15))[0]
    if drawn == "search":
        return drawn, f"{path}/search", json.dumps({"vector": numbers(dimension, rng), "top_k": 10}).encode()
    if drawn == "fetch":
        ids = [str(rng.randrange(BULK)) for _ in range(BATCH)]
        return drawn, f"{path}/vectors/fetch", json.dumps({"ids": ids}).encode()
    count = BULK if drawn == "bulk" else BATCH
    first = rng.randrange(BULK)
    vectors = [{"id": str((first + i) % BULK), "vector": numbers(dimension, rng)} for i in range(count)]
    return drawn, f"{path}/vectors", json.dumps({"vectors": vectors}).encode()


def numbers(dimension: int, rng: random.Random) -> list[float]:
    return [rng.random() for _ in range(dimension)]


async def client(plan: dict[str, Any], mine: dict[str, Any], seed: int, seen: Seen) -> None:
    rng = random.Random(seed)
    url = urlsplit(plan["url"])
    connection = Connection(str(url.hostname), int(url.port or 80), mine["secret"])
    bulk = request("bulk", mine["path"], plan["dimension"], rng) if mine["kind"] == "bulk" else None
    await asyncio.sleep(rng.random() * plan["spread_seconds"])
    while time.time() < plan["ends_at"]:
        what, path, body = bulk or request(mine["kind"], mine["path"], plan["dimension"], rng)
        started = time.perf_counter()
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                status, headers, content = await connection.ask("POST", path, body)
        except (OSError, EOFError, TimeoutError) as error:
            seen.faults[f"{what}: {type(error).__name__}"] += 1
            continue
        seen.milliseconds[what if status == 200 else str(status)].append((time.perf_counter() - started) * 1000)
        await rest(status, headers, content, seen.answers[mine["api_key_id"]], seen)
    connection.close()


async def rest(status: int, headers: dict[str, str], content: bytes, answers: Counter[str], seen: Seen) -> None:
    """Count an answer; after a refusal, wait as long as it says, up to a second."""
    if status == 200:
        answers["200"] += 1
        return
    problem = json.loads(content)
    answers[f"{status} {problem['code']}"] += 1
    if status in (429, 503):
        if "retry-after" not in headers:
            seen.faults[f"{status} without Retry-After"] += 1
        await asyncio.sleep(min(float(headers.get("retry-after", 0)), _LONGEST_REST_SECONDS))


async def run(plan: dict[str, Any]) -> Seen:
    seen = Seen()
    await asyncio.gather(*(client(plan, mine, i + plan["seed"], seen) for i, mine in enumerate(plan["clients"])))
    return seen


def main() -> None:
    seen = asyncio.run(run(json.load(sys.stdin)))
    json.dump(
        {"answers": seen.answers, "milliseconds": seen.milliseconds, "faults": seen.faults},
        sys.stdout,
    )


if __name__ == "__main__":
    main()
