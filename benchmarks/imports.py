"""CPU that importing each function takes, with and without byte-code, beside its unavoidable parts.

    make bench            or    .venv/bin/python -m benchmarks.imports

Each figure is the median of several fresh interpreters, in CPU milliseconds of the import alone; rounds go from one
subject to the next, so that a slow moment of the machine meets all. Without byte-code is what a layer built by
``sam build``'s own Python builder gives; with it, what layers/core/Makefile builds.
"""

from __future__ import annotations

import argparse
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

_PSYCOPG = "import psycopg, pgvector.psycopg"
_WEB = "import fastapi, mangum"
_WIRE = "from vecmeter.ledger.wire import create_wire; create_wire(1)"
SUBJECTS = {
    "psycopg + pgvector": _PSYCOPG,
    "FastAPI + Mangum": _WEB,
    "DynamoDB client (ours)": _WIRE,
    "DynamoDB client (botocore)": "import botocore.session as b; b.get_session().create_client('dynamodb')",
    "DynamoDB client (boto3)": "import boto3; boto3.client('dynamodb')",
    "the first three together": f"{_PSYCOPG}; {_WEB}; {_WIRE}",
    "Logger and metrics": "import vecmeter.telemetry",
    "search_function": "import search_function.handler",
    "upsert_function": "import upsert_function.handler",
    "admin_function": "import admin_function.handler",
    "maintenance_function": "import maintenance_function.handler",
}
_TIMED = "import time; start = time.process_time(); {}; print((time.process_time() - start) * 1000)"
SETTINGS = {
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


def import_cpu_ms(statement: str, artifact: Path) -> float:
    """CPU milliseconds of running ``statement`` in a fresh interpreter that writes no byte-code."""
    environment = {**os.environ, **SETTINGS, "PYTHONPATH": str(artifact), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", _TIMED.format(statement)]
    return float(subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout)


def _is_installed(name: str) -> bool:
    try:
        metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"Python {sys.version.split()[0]}, CPU ms of the import, median of {rounds}")
    print(f"{'':28}{'with byte-code':>16}{'without':>10}")
    with tempfile.TemporaryDirectory() as folder:
        bare, compiled = Path(folder, "bare"), Path(folder, "compiled")
        copy_artifact(bare)
        shutil.copytree(bare, compiled)
        compileall.compile_dir(str(compiled), quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        import_cpu_ms(_PSYCOPG, compiled)  # the first reads from the disk
        figures: dict[tuple[str, Path], list[float]] = {(n, a): [] for n in SUBJECTS for a in (compiled, bare)}
        for _ in range(rounds):
            for (name, artifact), found in figures.items():
                found.append(import_cpu_ms(SUBJECTS[name], artifact))
        for name in SUBJECTS:
            with_, without = (statistics.median(figures[name, artifact]) for artifact in (compiled, bare))
            print(f"{name:28}{with_:16.0f}{without:10.0f}")


if __name__ == "__main__":
    main()
