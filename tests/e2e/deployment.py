"""template.yaml, built and deployed by the SAM CLI, and what its users and operators do with it."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from samtranslator.yaml_helper import yaml_parse  # type: ignore[import-untyped]

from tests.e2e.cloud import Cloud
from tests.fixtures.artifacts import PROJECT, build_environment

STACK = "vecmeter-e2e"
_SAM = PROJECT / ".venv-sam" / "bin" / "sam"


@dataclass(frozen=True, slots=True)
class Deployment:
    cloud: Cloud
    outputs: Mapping[str, str]
    http: httpx.Client

    def call(self, method: str, path: str, key: str | None = None, body: Any = None) -> httpx.Response:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        return self.http.request(method, path, headers=headers, json=body)

    def run_task(self, name: str) -> dict[str, Any]:
        """As an operator: invoke the maintenance function."""
        answer = self.cloud.client("lambda").invoke(
            FunctionName=self.outputs["MaintenanceFunctionName"], Payload=json.dumps({"task": name})
        )
        outcome: dict[str, Any] = json.load(answer["Payload"])
        assert "FunctionError" not in answer, outcome
        return outcome

    def run_task_by_sam(self, name: str) -> dict[str, Any]:
        """The same with the command of docs/deploy.md."""
        said = _sam(
            *("remote", "invoke", "MaintenanceFunction", "--stack-name", STACK),
            *("--event", json.dumps({"task": name})),
            environment={**os.environ, **self.cloud.environment},
        )
        outcome: dict[str, Any] = json.loads(said[said.index("{") :])
        return outcome

    def function_name(self, logical_id: str) -> str:
        return self._resource(STACK, logical_id)

    def nested(self, stack: str, logical_id: str) -> str:
        """Physical id of a resource in a nested stack."""
        return self._resource(self._resource(STACK, stack), logical_id)

    def _resource(self, stack: str, logical_id: str) -> str:
        found = self.cloud.client("cloudformation").describe_stack_resource(
            StackName=stack, LogicalResourceId=logical_id
        )
        physical: str = found["StackResourceDetail"]["PhysicalResourceId"]
        return physical


def build(folder: Path) -> None:
    """``sam build`` as `make build` does it, for this machine; less the alarms that the emulator does not know."""
    _sam("build", "--build-dir", str(folder), "--parallel", environment=build_environment())
    alarms = folder / "Observability" / "template.yaml"
    stack = yaml_parse(alarms.read_text())
    stack["Resources"] = {name: one for name, one in stack["Resources"].items() if not _is_computed(one)}
    alarms.write_text(json.dumps(stack))


def _is_computed(resource: Any) -> bool:
    return resource["Type"] == "AWS::CloudWatch::Alarm" and "Metrics" in resource["Properties"]


def deploy(cloud: Cloud, folder: Path, parameters: Mapping[str, str]) -> Deployment:
    """``sam deploy`` of what was built; also the way to change parameters."""
    overrides = [f"{name}={value}" for name, value in parameters.items()]
    _sam(
        "deploy",
        # Beside another template than its own, samconfig.toml would not be found.
        *("--template-file", str(folder / "template.yaml"), "--config-file", str(PROJECT / "samconfig.toml")),
        *("--stack-name", STACK, "--no-confirm-changeset", "--parameter-overrides", *overrides),
        environment={**os.environ, **cloud.environment},
    )
    (stack,) = cloud.client("cloudformation").describe_stacks(StackName=STACK)["Stacks"]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}
    # The name in the URL has no address here. By path instead of by Host header: the emulator keeps /health for itself.
    api_id = httpx.URL(outputs["Url"]).host.split(".")[0]
    url = f"{cloud.endpoint}/_aws/execute-api/{api_id}/$default"
    client = httpx.Client(base_url=url, timeout=60, trust_env=False)
    return Deployment(cloud, outputs, client)


def _sam(*arguments: str, environment: Mapping[str, str]) -> str:
    assert _SAM.exists(), f"There is no {_SAM}; run 'make sam-setup', which installs the SAM CLI there."
    done = subprocess.run(
        [_SAM, *arguments],
        cwd=PROJECT,
        # The delay: at its default SAM asks once too early whether an update is complete, and again after 30 s.
        env={**environment, "SAM_CLI_TELEMETRY": "0", "SAM_CLI_POLL_DELAY": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    said = [line for line in (done.stdout + done.stderr).splitlines() if "Uploading to" not in line]
    assert done.returncode == 0, "\n".join([f"sam {arguments[0]} failed:", *said])
    return done.stdout
