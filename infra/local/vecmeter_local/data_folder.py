"""The data folder of one local stack: who holds it, and the files that others read from it."""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vecmeter_local.processes import LocalStackError

_LOCK = "up.lock"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """Everything a stack keeps. Files with secrets are readable by their owner alone."""

    path: Path

    @property
    def stack_file(self) -> Path:
        """What scripts read: URL, admin key, DSN and so on; there only while the stack answers."""
        return self.path / "stack.json"

    def lock(self) -> int:
        """Take the folder for this process; the descriptor holds it until closed, or until the process ends.

        Raises:
            LocalStackError: another stack runs on it; names its process id.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(descriptor, 32, 0).decode()
            os.close(descriptor)
            raise LocalStackError(
                f"A stack already runs on {self.path} (process {pid}). Stop it first ('kill {pid}', or Ctrl-C in its "
                "terminal), or give this one another folder with --data-dir."
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, str(os.getpid()).encode(), 0)
        return descriptor

    def refuse_if_held(self) -> None:
        """Raise as :meth:`lock` does when another stack runs here; makes no folder and takes nothing."""
        if (self.path / _LOCK).exists():
            os.close(self.lock())

    def read(self, name: str) -> dict[str, Any] | None:
        """A JSON file; None when it is missing or not whole."""
        try:
            content = json.loads((self.path / name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Write a JSON file at once or not at all, mode 0600."""
        descriptor, unfinished = tempfile.mkstemp(prefix=f".{name}.", dir=self.path)
        try:
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, self.path / name)
        except BaseException:
            with suppress(FileNotFoundError):
                os.unlink(unfinished)
            raise
