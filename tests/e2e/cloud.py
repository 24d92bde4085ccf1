"""A whole AWS in one child process, and whether anything of it is left afterwards."""

from __future__ import annotations

import http.client
import os
import shlex
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from vecmeter_local.processes import Child, claim, spawn
from vecmeter_local.runtime_interface import link_runtime_packages

REGION = "us-east-1"
ACCOUNT = "000000000000"
_START_SECONDS = 60.0
_STOP_SIGNALS = ((signal.SIGTERM, 30.0),)


class Cloud:
    """ministack with AUTH on: IAM policies are enforced, those of the functions' roles too."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._port = 0
        self._child: Child | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def environment(self) -> dict[str, str]:
        """For the SAM CLI and boto3: this AWS, its root user, and nothing of the caller's."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def client(self, service: str, **credentials: str) -> Any:
        keys = {"aws_access_key_id": "test", "aws_secret_access_key": "test"} | credentials
        return boto3.client(
            service,
            endpoint_url=self.endpoint,
            region_name=REGION,
            config=Config(retries={"total_max_attempts": 1}, read_timeout=120),
            **keys,
        )  # type: ignore[call-overload]

    def start(self) -> None:
        self.folder.mkdir()
        temporary = self.folder / "tmp"
        temporary.mkdir()
        runtime = link_runtime_packages(self.folder / "runtime")
        interpreter = self.folder / "python"
        interpreter.write_text(
            f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(runtime))} exec {shlex.quote(sys.executable)} -S "$@"\n'
        )
        interpreter.chmod(0o755)
        lock = claim(self.folder / "cloud.lock", _STOP_SIGNALS)
        with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
            self._port = int(listener.getsockname()[1])
            self._child = spawn(
                "ministack",
                [sys.executable, Path(__file__).with_name("cloud_process.py"), str(listener.fileno()), interpreter],
                log=self.folder / "cloud.log",
                lock=lock,
                stop_signals=_STOP_SIGNALS,
                environment=self._process_environment(temporary),
                pass_fds=(listener.fileno(),),
            )
        self._wait_until_ready(self._child)

    def stop(self) -> None:
        if self._child is not None:
            self._child.stop()
            self._child = None

    def function_processes(self, function_name: str) -> int:
        """How many processes run the function: each unpacks it into a folder of its own."""
        return len(list((self.folder / "tmp").glob(f"ministack-lambda-{function_name}-*")))

    def wait_until_gone(self, seconds: float = 30) -> None:
        """Functions end when the emulator does; fails if one of ours still works in a folder of ours (Linux only)."""
        deadline = time.monotonic() + seconds
        while left := [folder for folder in self._working_folders() if folder.startswith(str(self.folder))]:
            assert time.monotonic() < deadline, f"Processes left in {left}"
            time.sleep(0.1)

    @staticmethod
    def _working_folders() -> list[str]:
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                found.append(os.readlink(process / "cwd"))
            except OSError:  # ended meanwhile, or another user's
                continue
        return found

    def _process_environment(self, temporary: Path) -> dict[str, str]:
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(self.folder),
            "TMPDIR": str(temporary),
            "GATEWAY_PORT": str(self._port),
            "BIND_HOST": "127.0.0.1",
            "AUTH": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "S3_DATA_DIR": str(self.folder / "s3"),
            "LOG_LEVEL": "WARNING",
            "IOT_MTLS_ENABLED": "0",
            "SFTP_ENABLED": "0",
            "DOCKER_HOST": f"unix://{self.folder / 'no-docker'}",
            "PYTHONDONTWRITEBYTECODE": "1",
        }

    def _wait_until_ready(self, child: Child) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=2)
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
