"""The package as it is built, installed, documented and imported."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import vecmeter_client
from tests.fixtures.clients import Live

SDK = Path(__file__).parents[2] / "sdk"
PACKAGE = SDK / "src" / "vecmeter_client"
README = (SDK / "README.md").read_text()
MODULES = sorted(PACKAGE.rglob("*.py"))
EXTRAS = {"cli": "click", "parquet": "pyarrow", "langchain": "langchain-core", "llama-index": "llama-index-core"}


def _run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}
    return subprocess.run(
        [str(part) for part in command], env=kept | environment, capture_output=True, text=True, check=False, cwd=SDK
    )


def test_the_wheel_holds_the_package_and_nothing_else_and_installs_with_its_extras(tmp_path: Path) -> None:
    built = _run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path)
    assert built.returncode == 0, built.stderr
    [wheel] = tmp_path.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    sources = [path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    assert names == {str(path.relative_to(PACKAGE.parent)) for path in sources}
    assert "vecmeter_client/py.typed" in names
    target = tmp_path / "installed"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", "--no-deps"]
    installed = _run(*pip, "--target", target, wheel)
    assert installed.returncode == 0, installed.stderr
    program = (
        "import importlib.metadata as m, vecmeter_client as v; d = m.distribution('vecmeter-client');"
        "print(v.__file__, d.version == v.__version__, sorted(d.metadata.get_all('Provides-Extra')),"
        "[e.value for e in d.entry_points], *d.requires, sep='\\n')"
    )
    where, same, extras, entries, *requires = _run(
        sys.executable, "-c", program, PYTHONPATH=str(target)
    ).stdout.splitlines()
    assert Path(where).is_relative_to(target)
    assert (same, extras) == ("True", str(sorted(EXTRAS)))
    assert entries == "['vecmeter_client.cli:main']"
    assert [re.split("[<>=;]", one)[0] for one in requires if "extra ==" not in one] == ["httpx"]
    for extra, package in EXTRAS.items():
        assert any(one.startswith(package) and f"extra == '{extra}'" in one for one in requires), extra


def test_what_is_exported_is_what_the_readme_lists() -> None:
    reference = README.split("<!-- reference -->")[1].split("<!-- /reference -->")[0]
    rows = [line.split("|")[1] for line in reference.splitlines() if line.startswith("| `")]
    listed = re.findall(r"`(\w+)`", "".join(rows))
    assert sorted(listed) == sorted(set(vecmeter_client.__all__) - {"__version__"})
    assert all(hasattr(vecmeter_client, name) for name in vecmeter_client.__all__)


@pytest.mark.parametrize(
    "name", ["Client", "Project", "Collection", "Admin", "Projects", "Keys", "Quotas", "Maintenance"]
)
def test_the_methods_the_readme_lists_are_those_there_are(name: str) -> None:
    [row] = [line for line in README.splitlines() if line.startswith(f"| `{name}` ")]
    kind = getattr(vecmeter_client, name)
    public = {method for method in vars(kind) if not method.startswith("_")}
    assert set(re.findall(r"`(\w+)`", row.split("|")[2])) == public


def test_every_public_name_is_exported_from_one_place() -> None:
    exported = set(vecmeter_client.__all__)
    errors = {name for name, value in vars(vecmeter_client.errors).items() if isinstance(value, type)}
    ours = {name for name in errors if getattr(vecmeter_client.errors, name).__module__ == "vecmeter_client.errors"}
    assert ours <= exported
    assert len(vecmeter_client.__all__) == len(exported)


def test_what_the_readme_shows_runs(live: Live) -> None:
    project = live.project()
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    program = "\n".join(blocks).replace('"acme"', repr(project))
    done = _run(
        sys.executable,
        "-c",
        program,
        VECMETER_URL=live.url,
        VECMETER_API_KEY=live.key(project),
        NO_PROXY="*",
    )
    assert done.returncode == 0, done.stderr
    first, *rest = done.stdout.splitlines()
    assert first == "a The invoice is due in March."
    assert rest[:4] == ["1000 of 2500", "2000 of 2500", "2500 of 2500", "2500 points"]
    assert rest[4] == str([f"point-{at}" for at in range(10)])
    assert rest[5] == "111"
    assert rest[6] == "404 collection_not_found True"


def test_importing_it_needs_httpx_alone_reads_no_environment_and_opens_nothing() -> None:
    program = """
import os, sys
absent = {"numpy", "click", "tqdm", "pyarrow", "langchain_core", "llama_index", "pydantic"}
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Refuse())
import httpx
def watch(event, arguments):
    assert event not in ("socket.connect", "subprocess.Popen"), event
sys.addaudithook(watch)
class Environment(dict):
    def __missing__(self, name):
        raise AssertionError(name)
    get = __getitem__ = lambda self, name, default=None: 1 / 0
os.environ = Environment()
import vecmeter_client
print(len([name for name in sys.modules if name.startswith("vecmeter_client")]))
"""
    done = _run(sys.executable, "-c", program)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_is_one_idea(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    functions = [
        node for node in ast.walk(ast.parse(text)) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    ]
    assert [f.name for f in functions if f.end_lineno is not None and f.end_lineno - f.lineno >= 50] == []


def test_operations_know_nothing_of_connections_and_are_written_once() -> None:
    sans_io = [path for path in MODULES if path.parent.name == "_operations"] + [
        PACKAGE / name for name in ("_flow.py", "_policy.py", "_batches.py", "_input.py", "_reading.py", "_problems.py")
    ]
    assert len(sans_io) == 13
    for path in sans_io:
        tree = ast.parse(path.read_text())
        imported = {
            name
            for node in ast.walk(tree)
            if isinstance(node, (ast.Import, ast.ImportFrom))
            for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
        }
        assert not {"httpx", "asyncio", "socket", "time", "random", "os"} & imported, path
        assert not any(isinstance(node, ast.AsyncFunctionDef) for node in ast.walk(tree)), path
