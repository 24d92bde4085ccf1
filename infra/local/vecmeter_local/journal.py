"""What the DynamoDB emulator was asked to write since its tables were last saved, on disk before it is done."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

_NAME = "journal."


@dataclass(frozen=True, slots=True)
class Request:
    """One request, with what the emulator takes from its headers."""

    account: str
    region: str
    target: str
    body: str


class Journal:
    """Files ``journal.<generation>`` in a folder, one request a line. A saved state names the first that follows it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Never on with an old file: its last line may not be whole.
        self.generation = max(self._generations(), default=0) + 1
        self._file = self._open(self.generation)
        self._end = 0
        self.requests = 0

    def append(self, request: Request) -> None:
        """Keep a request, whole or not at all. A process that is killed cannot lose it any more.

        Raises:
            OSError: there is no room for it.
        """
        line = json.dumps(asdict(request)).encode() + b"\n"
        try:
            written = os.write(self._file, line)
            while written < len(line):
                written += os.write(self._file, line[written:])
        except OSError:
            os.ftruncate(self._file, self._end)
            raise
        self._end += len(line)
        self.requests += 1

    def turn(self) -> int:
        """Begin a new file and name its generation: what came before is in the state about to be saved.

        Raises:
            OSError: there is no room for it; the file stays the same.
        """
        opened = self._open(self.generation + 1)
        os.close(self._file)
        self._file, self.generation = opened, self.generation + 1
        self._end = self.requests = 0
        return self.generation

    def since(self, generation: int) -> Iterator[Request]:
        """The requests from a generation on. A last line that is not whole was never answered."""
        for number in sorted(self._generations()):
            if number < generation:
                continue
            with self._path(number).open("rb") as file:
                for line in file:
                    if line.endswith(b"\n"):
                        yield Request(**json.loads(line))

    def forget_before(self, generation: int) -> None:
        """Remove what a saved state has made superfluous."""
        for number in self._generations():
            if number < generation:
                self._path(number).unlink()

    def sync(self) -> None:
        """Wait until the disk has it: from then on a loss of power cannot lose it either."""
        os.fsync(self._file)

    def _open(self, generation: int) -> int:
        return os.open(self._path(generation), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def _generations(self) -> list[int]:
        names = (path.name.removeprefix(_NAME) for path in self._folder.glob(f"{_NAME}*"))
        return [int(name) for name in names if name.isdigit()]

    def _path(self, generation: int) -> Path:
        return self._folder / f"{_NAME}{generation}"
