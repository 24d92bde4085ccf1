"""What is deployed: byte-code for everything, what the code needs and nothing else, and that it starts from that."""

from __future__ import annotations

import importlib.util
import marshal
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.fixtures.artifacts import FUNCTIONS, PROJECT, Artifacts
from tests.fixtures.services import AWS_ENVIRONMENT
from vecmeter_local.runtime_interface import python_path

# Lambda takes 250 MB of function and layers, unzipped; every MB of it is read at a cold start. docs/adr/0005 has sizes.
MAX_LAYER_BYTES = 42_000_000
MAX_ZIPPED_BYTES = 14_000_000
MAX_FUNCTION_BYTES = 300_000
# In Lambda's runtime, of the local stack, or of the tests.
NOT_WANTED = {"boto3", "botocore", "numpy", "wordllama", "psycopg_pool", "uvicorn", "httpx", "pytest", "tests", "bin"}


def folders(artifacts: Artifacts) -> dict[str, Path]:
    return {"layer": artifacts.layer, **artifacts.functions}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", ["layer", *FUNCTIONS])
def test_every_source_has_byte_code_that_is_never_checked(name: str, artifacts: Artifacts) -> None:
    folder = folders(artifacts)[name]
    sources = list(folder.rglob("*.py"))
    assert sources
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source)))
        assert compiled.exists(), f"{source} has no byte-code of this Python"
        header = compiled.read_bytes()[:16]
        assert header[:4] == importlib.util.MAGIC_NUMBER
        assert int.from_bytes(header[4:8], "little") == 0b01, f"{compiled} would be checked against its source"
        # What the importer compares when it does check: the source has not changed since.
        assert header[8:] == importlib.util.source_hash(source.read_bytes())


@pytest.mark.parametrize(
    ("name", "root"), [("layer", "/opt/python/vecmeter/"), ("search", "/var/task/search_function/")]
)
def test_tracebacks_show_the_paths_of_lambda(name: str, root: str, artifacts: Artifacts) -> None:
    package = "python/vecmeter" if name == "layer" else "search_function"
    source = folders(artifacts)[name] / package / ("settings.py" if name == "layer" else "handler.py")
    code = marshal.loads(Path(importlib.util.cache_from_source(str(source))).read_bytes()[16:])
    assert code.co_filename == root + source.name


def test_the_layer_holds_the_locked_packages_and_ours(artifacts: Artifacts) -> None:
    python = artifacts.layer / "python"
    lines = (PROJECT / "requirements" / "layer.txt").read_text().splitlines()
    locked = {line.split(";")[0].strip() for line in lines if "==" in line and "sys_platform == 'win32'" not in line}
    metadata = [re.fullmatch(r"(.+)-(.+)\.dist-info", path.name) for path in python.glob("*.dist-info")]
    installed = {f"{found[1].replace('_', '-').lower()}=={found[2]}" for found in metadata if found}
    assert installed == locked
    assert {path.name for path in python.iterdir()} & NOT_WANTED == set()
    assert [path for path in python.rglob("*") if path.is_dir() and path.name in ("test", "tests")] == []


def test_the_layer_holds_the_whole_package(artifacts: Artifacts) -> None:
    source = PROJECT / "layers" / "core" / "vecmeter"
    packaged = artifacts.layer / "python" / "vecmeter"

    def files(folder: Path) -> set[Path]:
        return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc"}

    assert files(packaged) == files(source)
    assert any(path.suffix == ".sql" for path in files(packaged))


def test_sizes_stay_what_they_are(artifacts: Artifacts, tmp_path: Path) -> None:
    assert size(artifacts.layer) <= MAX_LAYER_BYTES
    for folder in artifacts.functions.values():
        assert size(folder) <= MAX_FUNCTION_BYTES
    with zipfile.ZipFile(tmp_path / "layer.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in artifacts.layer.rglob("*"):
            archive.write(path, path.relative_to(artifacts.layer))
    assert (tmp_path / "layer.zip").stat().st_size <= MAX_ZIPPED_BYTES


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_handler_starts_from_its_artifact_alone(name: str, artifacts: Artifacts) -> None:
    program = f"""
import sys
from {name}_function.handler import handler
assert callable(handler)
for loaded in list(sys.modules.values()):
    print(loaded.__name__, getattr(loaded, "__file__", None) or "", sep="\\t")
"""
    done = subprocess.run(
        [sys.executable, "-S", "-c", program],
        env={
            "PYTHONPATH": python_path(artifacts.functions[name], artifacts.layer, artifacts.runtime),
            "TABLE_NAME": "table",
            "DATABASE_URL": "postgresql:///none",
            **AWS_ENVIRONMENT,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    loaded = dict(line.split("\t") for line in done.stdout.splitlines())
    assert loaded["vecmeter.runtime"].startswith(str(artifacts.layer))
    assert loaded[f"{name}_function.handler"].startswith(str(artifacts.functions[name]))
    assert not [file for file in loaded.values() if "site-packages" in file and "/runtime/" not in file]
    assert ("fastapi" in loaded) == (name != "maintenance")
    assert "numpy" not in loaded


def test_another_python_is_refused_unless_the_build_is_for_this_machine(tmp_path: Path) -> None:
    """Its byte-code would be ignored in Lambda, and its wheels would not load."""
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\necho 3.9\n")
    other.chmod(0o755)
    done = subprocess.run(
        ["make", "--silent", "-C", PROJECT / "functions" / "search", "build-SearchFunction"],
        env={"PATH": "/usr/bin:/bin", "PYTHON": str(other), "ARTIFACTS_DIR": str(tmp_path / "artifact")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "3.9" in done.stdout
    assert not (tmp_path / "artifact").exists()
