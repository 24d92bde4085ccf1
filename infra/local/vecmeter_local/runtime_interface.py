"""A built function in Lambda's Runtime Interface Emulator, without Docker: the binary in the wheel of the SAM CLI.

The function runs as in Lambda: its artifact and the layer's are on the path, and beside the standard library only what
the runtime brings, so a package that was forgotten in the layer is missed here too.
"""

from __future__ import annotations

import http.client
import importlib.metadata
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vecmeter_local.processes import LocalStackError, log_tail

# What AWS installs beside the interpreter (its client of the runtime API, boto3 and what they need).
_RUNTIME_DISTRIBUTIONS = (
    "awslambdaric",
    "boto3",
    "botocore",
    "jmespath",
    "python-dateutil",
    "s3transfer",
    "simplejson",
    "six",
    "snapshot-restore-py",
    "urllib3",
)
_SAM_ENVIRONMENT = ".venv-sam"
_BINARIES = {"x86_64": "aws-lambda-rie-x86_64", "aarch64": "aws-lambda-rie-arm64"}
_START_SECONDS = 20.0
_POLL_SECONDS = 0.02


def link_runtime_packages(folder: Path) -> Path:
    """Fill ``folder`` with links to what Lambda's Python brings, out of this environment."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in _RUNTIME_DISTRIBUTIONS:
        distribution = importlib.metadata.distribution(name)
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            link = folder / top
            if not link.is_symlink():
                link.symlink_to(Path(str(distribution.locate_file(top))).resolve())
    return folder


def python_path(function: Path, layer: Path, runtime: Path) -> str:
    """PYTHONPATH in Lambda's order: function, layer, runtime."""
    return os.pathsep.join(map(str, (function, layer / "python", runtime)))


def emulator_binary(project: Path) -> Path:
    """The emulator in the SAM CLI's environment under ``project``.

    Raises:
        LocalStackError: it is not there, or does not run on this machine.
    """
    name = _BINARIES.get(platform.machine())
    if sys.platform != "linux" or name is None:
        raise LocalStackError(
            "The Runtime Interface Emulator runs on Linux (x86_64, arm64) only; use 'sam local invoke'."
        )
    found = sorted((project / _SAM_ENVIRONMENT).glob(f"lib/python*/site-packages/samcli/local/rapid/{name}"))
    if not found:
        raise LocalStackError(
            f"{project / _SAM_ENVIRONMENT} has no Runtime Interface Emulator; run 'make sam-setup', which installs the "
            "SAM CLI there."
        )
    return found[-1]


class RuntimeInterface:
    """One function behind the emulator; it takes one invocation at a time, as an execution environment does."""

    def __init__(
        self, *, binary: Path, handler: str, path: str, environment: Mapping[str, str], log: Path, timeout: int = 29
    ) -> None:
        self._command = [str(binary)]
        self._handler = handler
        self._environment = {
            **environment,
            "PATH": os.environ.get("PATH", os.defpath),
            "PYTHONPATH": path,
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_LAMBDA_FUNCTION_TIMEOUT": str(timeout),
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "1024",
        }
        self.log = log
        self._port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the emulator; the function itself starts with the first invocation.

        Raises:
            LocalStackError: with the end of the log.
        """
        self._port, api_port = _free_ports(2)
        addresses = [
            *("--runtime-interface-emulator-address", f"127.0.0.1:{self._port}"),
            *("--runtime-api-address", f"127.0.0.1:{api_port}"),
        ]
        # -S: without the packages of this environment.
        function = [sys.executable, "-S", "-m", "awslambdaric", self._handler]
        with self.log.open("wb") as output:
            self._process = subprocess.Popen(
                [*self._command, *addresses, *function],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self._port)) == 0:
                    return
            time.sleep(_POLL_SECONDS)
        self.stop()
        raise LocalStackError(f"The Runtime Interface Emulator did not start. End of its log:\n{log_tail(self.log)}")

    def invoke(self, event: Any) -> Any:
        """What the handler returns; an exception of it as ``{errorType, errorMessage, stackTrace}``."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            body = json.dumps(event).encode()
            connection.request("POST", "/2015-03-31/functions/function/invocations", body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()

    def stop(self) -> None:
        """End the emulator and the function."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main(arguments: Sequence[str]) -> int:
    """``FunctionLogicalId EVENT_FILE DATA_DIR``: invoke what `make build` built, on the stack that is up, if one is."""
    logical_id, event_file, data_dir = arguments
    project = Path.cwd()
    build = project / ".aws-sam" / "build"
    package = logical_id.removesuffix("Function").lower() + "_function"
    if not (build / logical_id / package).is_dir():
        raise LocalStackError(f"There is no {build / logical_id / package}; run 'make build'.")
    event = json.loads(Path(event_file).read_text())
    environment = dict(os.environ)
    stack_file = Path(data_dir) / "stack.json"
    if stack_file.exists():
        stack = json.loads(stack_file.read_text())
        environment |= {
            "DATABASE_URL": stack["postgres_dsn"],
            "TABLE_NAME": stack["table_name"],
            "AWS_ENDPOINT_URL_DYNAMODB": stack["dynamodb_endpoint"],
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        if "headers" in event:
            event["headers"]["authorization"] = f"Bearer {stack['admin_key']}"
    with tempfile.TemporaryDirectory(prefix="vecmeter-invoke-") as folder:
        runtime = link_runtime_packages(Path(folder, "runtime"))
        function = RuntimeInterface(
            binary=emulator_binary(project),
            handler=f"{package}.handler.handler",
            path=python_path(build / logical_id, build / "CoreLayer", runtime),
            environment=environment | {"AWS_LAMBDA_FUNCTION_NAME": logical_id},
            log=Path(folder, "log"),
            timeout=900 if package == "maintenance_function" else 29,
        )
        function.start()
        try:
            answer = function.invoke(event)
            print(function.log.read_text(), end="", file=sys.stderr)
        finally:
            function.stop()
    print(json.dumps(answer, indent=2))
    return 1 if isinstance(answer, dict) and "errorType" in answer else 0


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except LocalStackError as failure:
        sys.exit(f"invoke: {failure}")
