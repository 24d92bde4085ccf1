"""Child processes that end when we end, and are found again when they did not.

A child runs in a session of its own, so Ctrl-C in the terminal and a kill of our process group reach only us and
children stop in our order. On Linux the kernel signals it when our process dies, ``kill -9`` included. Everywhere it
inherits a locked file: while any process of the child lives, the lock is held, so the next start can tell a leftover
from a reused process id.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import BinaryIO

_POLL_SECONDS = 0.02
_LOG_TAIL_BYTES = 4096


class LocalStackError(Exception):
    """The local stack cannot start or go on; the message says why and what helps."""


@cache
def setpriv_path() -> str | None:
    """util-linux ``setpriv`` with ``--pdeathsig``; None where there is none (macOS, BusyBox)."""
    path = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin:/usr/sbin:/sbin")
    if path is None:
        return None
    shown = subprocess.run([path, "--help"], capture_output=True, text=True, check=False)
    return path if "--pdeathsig" in shown.stdout else None


@dataclass(frozen=True, slots=True)
class Child:
    """A started process, its log if it has one of its own, and the signals that end it, each with its seconds."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None
    stop_signals: tuple[tuple[signal.Signals, float], ...] = field(default=((signal.SIGTERM, 10.0),))

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self) -> None:
        """End the process and wait for it; SIGKILL after the last of its signals went unheard."""
        for step, seconds in (*self.stop_signals, (signal.SIGKILL, 10.0)):
            if not self.alive():
                return
            self.process.send_signal(step)
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                continue

    def signal(self, which: signal.Signals) -> None:
        if self.alive():
            self.process.send_signal(which)

    def failure(self, what: str) -> LocalStackError:
        """An error that shows the end of the log."""
        shown = "" if self.log is None else f" End of {self.log}:\n{log_tail(self.log)}"
        return LocalStackError(f"{self.name} {what}.{shown}")


def spawn(
    name: str,
    command: Sequence[str | Path],
    *,
    lock: int,
    stop_signals: tuple[tuple[signal.Signals, float], ...],
    environment: Mapping[str, str],
    privileges: Sequence[str] = (),
    pass_fds: tuple[int, ...] = (),
    log: Path | None = None,
) -> Child:
    """Start ``command``; it inherits ``lock`` (from :func:`claim`), which is closed here. Without ``log`` it writes
    where we do.

    Call it from the main thread: the kernel ties the death signal to the thread that spawned. ``privileges`` are
    options of setpriv; the death signal goes with them because a change of user clears it.
    """
    wrapper: list[str] = []
    if (setpriv := setpriv_path()) is not None:
        wrapper = [setpriv, "--pdeathsig", stop_signals[0][0].name, *privileges, "--"]
    with _output(log) as output:
        process = subprocess.Popen(
            [*wrapper, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output else None,
            cwd="/",
            env=dict(environment),
            start_new_session=True,
            pass_fds=(lock, *pass_fds),
        )
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(process.pid).encode(), 0)
    os.close(lock)
    return Child(name=name, process=process, log=log, stop_signals=stop_signals)


@contextmanager
def _output(log: Path | None) -> Iterator[BinaryIO | None]:
    """The log, opened anew; the one before is kept beside it."""
    if log is None:
        yield None
        return
    if log.exists():
        log.replace(log.with_name(log.name + ".1"))
    with log.open("wb") as output:
        yield output


def claim(path: Path, stop_signals: tuple[tuple[signal.Signals, float], ...]) -> int:
    """A descriptor that locks ``path``; a process of an earlier start that still holds it is ended first.

    Raises:
        LocalStackError: the holder does not end.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    for step, seconds in ((None, 0.0), *stop_signals, (signal.SIGKILL, 10.0)):
        if step is not None:
            _signal_holder(path, descriptor, step)
        if _locked(descriptor, seconds):
            return descriptor
    os.close(descriptor)
    raise LocalStackError(f"A process of an earlier start holds {path} and does not end; stop it by hand.")


def _locked(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)


def _signal_holder(path: Path, descriptor: int, step: signal.Signals) -> None:
    content = os.pread(descriptor, 32, 0)
    if not content.isdigit():
        return
    pid = int(content)
    if not _has_open(pid, path):
        return
    try:
        os.kill(pid, step)
    except ProcessLookupError:
        return
    except PermissionError:
        raise LocalStackError(f"Process {pid} of another user still runs on {path.parent}.") from None


def _has_open(pid: int, path: Path) -> bool:
    """Whether the process holds ``path`` open; only Linux can tell, elsewhere the recorded id is believed."""
    if not Path("/proc/self/fd").exists():
        return True
    target = str(path.resolve())
    try:
        return any(os.readlink(entry) == target for entry in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:  # it ended, or belongs to someone else
        return False


def log_tail(path: Path, most: int = _LOG_TAIL_BYTES) -> str:
    """The last lines of a log, at most ``most`` bytes; empty when there is none."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return ""
    return content[-most:].decode(errors="replace").strip()
