"""CPU that importing each function takes, with and without byte-code, beside its unavoidable parts.

    make bench            or    .venv/bin/python -m benchmarks.imports

Each figure is the median of several fresh interpreters, in CPU milliseconds of the import alone. Without byte-code
is what a layer built by ``sam build``'s own Python builder gives; with it, what layers/core/Makefile builds.
"""

from __future__ import annotations

import compileall
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from py_compile import PycInvalidationMode

ROOT = Path(__file__).parents[1]

SUBJECTS = {
    "psycopg + pgvector": "import psycopg, pgvector.psycopg",
    "DynamoDB client (boto3)": "import boto3; boto3.client('dynamodb')",
    "FastAPI + Mangum": "import fastapi, mangum",
    "search_function": "import search_function.handler",
    "upsert_function": "import upsert_function.handler",
    "admin_function": "import admin_function.handler",
    "maintenance_function": "import maintenance_function.handler",
}
_TIMED = "import time; start = time.process_time(); {}; print((time.process_time() - start) * 1000)"
_SETTINGS = {
    "DATABASE_URL": "postgresql://nowhere",
    "TABLE_NAME": "none",
    "AWS_REGION": "us-east-1",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "bench",
    "AWS_SECRET_ACCESS_KEY": "bench",
}


def copy_artifact(target: Path) -> None:
    """What Lambda gets from us, without byte-code: the layer's packages and ours. boto3 is the runtime's."""
    for line in (ROOT / "requirements/layer.txt").read_text().splitlines():
        name = line.split("==")[0]
        if line[:1] in ("#", " ") or not _is_installed(name):
            continue
        for file in metadata.distribution(name).files or ():
            if file.parts[0] not in ("..", "__pycache__") and not file.name.endswith(".pyc"):
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(str(file.locate()), target / file)
    for package in [ROOT / "layers/core/vecmeter", *ROOT.glob("functions/*/*_function")]:
        shutil.copytree(package, target / package.name, ignore=shutil.ignore_patterns("__pycache__"))


def import_cpu_ms(statement: str, artifact: Path, runs: int = 5) -> float:
    """Median CPU milliseconds of running ``statement`` in a fresh interpreter that writes no byte-code."""
    environment = {**os.environ, **_SETTINGS, "PYTHONPATH": str(artifact), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", _TIMED.format(statement)]
    return statistics.median(
        float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)
        for _ in range(runs)
    )


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    print(f"Python {sys.version.split()[0]}, CPU ms of the import, median of 5")
    print(f"{'':28}{'with byte-code':>16}{'without':>10}")
    with tempfile.TemporaryDirectory() as folder:
        bare, compiled = Path(folder, "bare"), Path(folder, "compiled")
        copy_artifact(bare)
        shutil.copytree(bare, compiled)
        compileall.compile_dir(str(compiled), quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        for name, statement in SUBJECTS.items():
            figures = [import_cpu_ms(statement, artifact) for artifact in (compiled, bare)]
            print(f"{name:28}{figures[0]:16.0f}{figures[1]:10.0f}")


if __name__ == "__main__":
    main()
