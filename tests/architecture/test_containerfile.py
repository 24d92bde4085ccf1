"""The container image of the local server, by what can be told without building it."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

from vecmeter_local.cli import _parser

ROOT = Path(__file__).parents[2]
STEPS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n\s*", "", (ROOT / "infra/local/Containerfile").read_text()).splitlines()
    if line and not line.startswith("#")
]


def steps(name: str) -> list[str]:
    return [arguments for step, arguments in STEPS if step == name]


def test_what_it_copies_exists_and_is_all_that_the_command_is_made_of() -> None:
    sources = [source for arguments in steps("COPY") for source in arguments.split()[:-1]]
    assert all((ROOT / source).exists() for source in sources)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert [p for p in packages if not any(Path(p).is_relative_to(source) for source in sources)] == []


def test_it_runs_the_command_as_a_user_that_postgresql_accepts_and_stops_it_as_it_should_be() -> None:
    (entry,) = steps("ENTRYPOINT")
    program, *arguments = json.loads(entry)
    assert program == "vecmeter-local"
    options = _parser().parse_args([*arguments, "--workers", "2"])
    (volume,), (port,) = steps("VOLUME"), steps("EXPOSE")
    assert (str(options.data_dir), str(options.port), options.host) == (volume, port, "0.0.0.0")
    names = [name for name, _ in STEPS]
    assert steps("USER") == ["vecmeter"]
    assert names.index("USER") < names.index("ENTRYPOINT")
    assert steps("STOPSIGNAL") == ["SIGTERM"]


def test_it_installs_the_versions_that_are_tested() -> None:
    pinned = re.compile(r"^[\w.\[\]-]+==\S+", re.M)
    local = set(pinned.findall((ROOT / "requirements/local.txt").read_text()))
    tested = set(pinned.findall((ROOT / "requirements/dev.txt").read_text()))
    assert any("-r requirements/local.txt" in run for run in steps("RUN"))
    assert local <= tested
