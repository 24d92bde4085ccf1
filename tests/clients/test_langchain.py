"""The LangChain store against a running stack, in an environment that has LangChain: the tests in ``langchain``."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.fixtures.clients import Live, run_tests


def test_langchains_own_tests_of_vector_stores_pass_and_none_is_skipped(live: Live) -> None:
    assert run_tests(live, "clients", "langchain", "-k", "TestStandard") == 25


def test_the_langchain_store_keeps_what_its_page_says(live: Live) -> None:
    assert run_tests(live, "clients", "langchain", "-k", "not TestStandard") > 100


@pytest.mark.parametrize(
    ("module", "framework", "extra"),
    [("langchain", "langchain_core", "langchain"), ("llama_index", "llama_index", "llama-index")],
)
def test_only_its_own_module_needs_a_framework_and_names_the_extra_where_it_is_missing(
    module: str, framework: str, extra: str
) -> None:
    program = f"""
import sys
sys.modules[{framework!r}] = None  # as if it were not installed
import vecmeter_client
assert not [name for name, module in sys.modules.items() if module and name.startswith(("langchain", "llama_index"))]
try:
    import vecmeter_client.{module}
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert f"pip install 'vecmeter-client[{extra}]'" in done.stdout
