"""A client made by openapi-python-client from docs/openapi.json: see tests/clients/test_generated_client.py."""

from __future__ import annotations

import os
import sys

# Where the client was made; nothing else of it is installed.
sys.path.insert(0, os.environ["VECMETER_GENERATED"])
