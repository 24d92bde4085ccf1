"""Processes of a measurement: clients that search, our HTTP server, chromadb's server. All end with their block."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PEERS = ROOT / ".venv-peers/bin"
_READY_SECONDS = 60
_END_SECONDS = 30


class Worker:
    """One client, ``benchmarks.worker``: it is given an order, and asked for the answer later."""

    def __init__(self, subject: str, place: dict[str, Any], python: str = sys.executable) -> None:
        command = [python, "-m", "benchmarks.worker", subject, json.dumps(place)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def give(self, order: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def take(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args!r} ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        _end(self._process)


class Clients:
    """As many workers of a subject as were needed at once so far; they are kept from round to round."""

    def __init__(self, subject: str, place: dict[str, Any], python: str = sys.executable) -> None:
        self._made_of = (subject, place, python)
        self._workers: list[Worker] = []

    def order(self, count: int, order: dict[str, Any]) -> list[dict[str, Any]]:
        """Have so many clients carry out an order at the same time."""
        while len(self._workers) < count:
            self._workers.append(Worker(*self._made_of))
        chosen = self._workers[:count]
        for worker in chosen:
            worker.give(order)
        return [worker.take() for worker in chosen]

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


@contextmanager
def http_server() -> Iterator[int]:
    """Our server with search and upsert; yields its port."""
    command = [sys.executable, "-m", "benchmarks.http_server"]
    with _child(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit("the HTTP server ended")
        yield int(line)


@contextmanager
def chroma_server(folder: Path) -> Iterator[int]:
    """chromadb's server with its data in ``folder``; yields its port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [str(PEERS / "chroma"), "run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with _child(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        _wait_for(port, process)
        yield port


def require_peers() -> str:
    """The Python of the peers' environment."""
    python = PEERS / "python"
    if not python.exists():
        raise SystemExit("The peers are not installed: make bench-peers, or leave them out with --subjects.")
    return str(python)


@contextmanager
def _child(command: Sequence[str], **options: Any) -> Iterator[subprocess.Popen[Any]]:
    environment = {**os.environ, "ANONYMIZED_TELEMETRY": "False"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **options)
    try:
        yield process
    finally:
        process.terminate()
        _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise SystemExit(f"nothing answers on port {port}")
