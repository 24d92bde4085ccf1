"""The DynamoDB emulator: ministack as a child process on a socket that we open.

We bind the port before the child starts and keep it until we stop, so two starts at once cannot take the same one, and
requests that come early, or while a child that died is started again, wait instead of being refused.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import os
import signal
import socket
import sys
import time
from pathlib import Path

from vecmeter_local.processes import Child, claim, spawn

_START_SECONDS = 300.0  # what was journaled since the last save is done again
_BACKLOG = 1024
# It writes its state when it is asked to end; killing it earlier would lose the last writes.
_STOP_SIGNALS = ((signal.SIGTERM, 60.0),)


class DynamoDbEmulator:
    """ministack with its state in ``<folder>/dynamodb``; at most one at a time."""

    name = "The DynamoDB emulator"

    def __init__(self, folder: Path) -> None:
        self._folder = folder.resolve()
        self._child: Child | None = None
        self._listener: socket.socket | None = None

    @property
    def log(self) -> Path:
        return self._folder / "dynamodb.log"

    @property
    def child(self) -> Child | None:
        """The running emulator process; None before start and after stop."""
        return self._child

    def start(self) -> str:
        """Start the emulator, after ending one that an earlier start left behind; its endpoint URL, always the same.

        Raises:
            LocalStackError: with the end of its log.
        """
        state = self._folder / "dynamodb"
        (state / "tmp").mkdir(parents=True, exist_ok=True)
        lock = claim(self._folder / "dynamodb.lock", _STOP_SIGNALS)
        if self._listener is None:
            self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        descriptor, port = self._listener.fileno(), int(self._listener.getsockname()[1])
        self._child = spawn(
            self.name,
            [sys.executable, "-m", "vecmeter_local.emulator_process", str(descriptor)],
            log=self.log,
            lock=lock,
            stop_signals=_STOP_SIGNALS,
            environment=_environment(state, port),
            pass_fds=(descriptor,),
        )
        try:
            self._wait_until_ready(self._child, port)
        except BaseException:
            self._child.stop()
            raise
        return f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """Let the emulator save its state and end; without effect when it does not run."""
        if self._child is not None:
            self._child.stop()
            self._child = None
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def _wait_until_ready(self, child: Child, port: int) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1)
            try:
                connection.request("GET", "/_ministack/health")
                if connection.getresponse().status == 200:
                    return
            except (OSError, http.client.HTTPException):
                if not child.alive():
                    raise child.failure("did not start") from None
            finally:
                connection.close()
        raise child.failure(f"does not answer after {_START_SECONDS:.0f} s")


def emulator_version() -> str:
    """Version of the installed ministack."""
    return importlib.metadata.version("ministack")


def _environment(state: Path, port: int) -> dict[str, str]:
    # Nothing of the caller's environment: its AWS_*, DOCKER_* and emulator variables are for other things.
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": str(state),
        "TMPDIR": str(state / "tmp"),
        "GATEWAY_PORT": str(port),
        "BIND_HOST": "127.0.0.1",
        "PERSIST_STATE": "1",
        "STATE_DIR": str(state),
        "S3_DATA_DIR": str(state / "s3"),
        "LOG_LEVEL": "WARNING",
        "IOT_MTLS_ENABLED": "0",
        "SFTP_ENABLED": "0",
        # At start and stop it removes containers with its label, other people's too; here it finds no Docker.
        "DOCKER_HOST": f"unix://{state / 'no-docker'}",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
