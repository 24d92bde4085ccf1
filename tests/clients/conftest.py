"""The folders beside hold the tests of clients that want an environment of their own: see tests/fixtures/clients.py."""

from pathlib import Path

collect_ignore = [str(folder) for folder in Path(__file__).parent.iterdir() if folder.is_dir()]
