"""What is shipped for the server: read as Prefect reads it, without one."""

import json
from pathlib import Path

import pytest
import yaml
from prefect.events.schemas.deployment_triggers import DeploymentEventTrigger
from prefect.flows import load_flow_from_entrypoint
from prefect.server.utilities.user_templates import render_user_template_sync

from flows.deploy import _AUTOMATIONS, deploy, read_automation
from vdm_lib.errors import ConfigError, VdmError

ROOT = Path(__file__).parents[2]
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
FLOWS = {"vdm-preprocess", "vdm-train", "vdm-eval", "vdm-export", "vdm-pipeline"}


def test_every_flow_has_a_deployment_of_its_own_name():
    assert {each["name"] for each in DEPLOYMENTS} == FLOWS
    for each in DEPLOYMENTS:
        assert load_flow_from_entrypoint(each["entrypoint"]).name == each["name"]
        assert each["work_pool"] == {"name": "vdm"}


def test_a_schedule_gives_parameters_that_the_flow_takes_and_is_not_a_matter_of_seconds():
    for each in DEPLOYMENTS:
        flow = load_flow_from_entrypoint(each["entrypoint"])
        for schedule in each.get("schedules", []):
            assert schedule.get("interval", 3600) >= 300
            assert set(schedule["parameters"]) <= set(flow.parameters.properties)


def test_the_trigger_of_the_evaluation_takes_what_the_training_announces():
    (trigger,) = next(each for each in DEPLOYMENTS if each["name"] == "vdm-eval")["triggers"]
    from flows.follow import CHECKPOINT_COMMITTED

    read = DeploymentEventTrigger.model_validate(trigger)
    assert read.expect == {CHECKPOINT_COMMITTED}
    assert set(read.parameters) == {"workdir", "data"}
    # The server asks for the value as JSON; what a payload lacks must be a value too, or no run is made.
    made = {
        name: json.loads(render_user_template_sync(text.replace("}}", "| tojson }}"), {"event": {"payload": payload}}))
        for payload in ({}, {"workdir": "runs/a", "data": "data/a"})
        for name, text in {f"{name} {len(payload)}": text for name, text in read.parameters.items()}.items()
    }
    assert made == {"workdir 0": "", "data 0": None, "workdir 2": "runs/a", "data 2": "data/a"}


def test_automations_that_tell_somebody_need_somebody():
    paths = sorted(_AUTOMATIONS.glob("*.yaml"))
    assert [path.stem for path in paths if read_automation(path, None) is not None] == ["zombies"]
    block = "6a1f9a3e-61ad-4f5e-9d69-3f4e0d3f3f00"
    for path in paths:
        automation = read_automation(path, block)
        assert automation is not None and automation.actions


def test_without_a_server_or_with_one_that_is_down_there_is_one_line():
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: None}), pytest.raises(ConfigError, match="PREFECT_API_URL"):
        deploy()
    with (
        temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"}),
        pytest.raises(VdmError, match="does not answer"),
    ):
        deploy()
