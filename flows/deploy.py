"""`make deploy`: the work pool, the deployments of prefect.yaml and the automations, on the server in use.

    python -m flows.deploy [--notify TYPE/NAME]

Done twice it changes nothing. Without --notify the automations that need somebody to tell are left out.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.events.schemas.automations import AutomationCore
from prefect.exceptions import ObjectNotFound
from prefect.settings import get_current_settings

from vdm_lib.errors import ConfigError, VdmError

POOL = "vdm"
_AUTOMATIONS = Path(__file__).parent / "automations"


def main() -> None:
    """Deploy; errors are one line."""
    parser = argparse.ArgumentParser(prog="python -m flows.deploy", description=__doc__.splitlines()[0])
    parser.add_argument("--notify", metavar="TYPE/NAME", help="notification block, such as slack-webhook/alerts")
    args = parser.parse_args()
    try:
        deploy(args.notify)
    except VdmError as error:
        sys.exit(f"deploy: {error}")


def deploy(notify: str | None = None) -> None:
    """Bring everything to the server of the current profile.

    Raises:
      VdmError: no server, a server that does not answer, or no such notification block.
    """
    url = get_current_settings().api.url
    if not url:
        raise ConfigError("no server is named: set PREFECT_API_URL, such as http://127.0.0.1:4200/api")
    try:
        with get_client(sync_client=True) as client:
            block_id = None if notify is None else find_block(client, notify)
            make_pool(client)
            _prefect("--no-prompt", "deploy", "--all")
            for name in upsert_automations(client, block_id):
                print(f"automation {name}", flush=True)
        if notify is None:
            print(
                "nobody is told of failures and regressions: `make deploy NOTIFY=TYPE/NAME` names a block", flush=True
            )
    except httpx.HTTPStatusError as error:
        if error.response.status_code != httpx.codes.UNAUTHORIZED:
            raise
        raise ConfigError(f"the server {url} wants a password: set PREFECT_API_AUTH_STRING=USER:PASSWORD") from None
    except httpx.TransportError as error:
        raise VdmError(
            f"the server {url} does not answer ({type(error).__name__}): start it, or mend the address"
        ) from None


def find_block(client: SyncPrefectClient, notify: str) -> str:
    """Return the id of a block document given as TYPE/NAME."""
    kind, _, name = notify.partition("/")
    try:
        return str(client.read_block_document_by_name(name, kind).id)
    except ObjectNotFound:
        raise ConfigError(
            f"there is no block {notify!r}: make one in the UI under Blocks, and name it as `prefect block ls` shows it"
        ) from None


def make_pool(client: SyncPrefectClient) -> None:
    """Make the work pool if it is not there."""
    try:
        client.read_work_pool(POOL)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))


def upsert_automations(client: SyncPrefectClient, block_id: str | None) -> list[str]:
    """Make or replace each automation that can be made, and return their names."""
    made = []
    for path in sorted(_AUTOMATIONS.glob("*.yaml")):
        automation = read_automation(path, block_id)
        if automation is None:
            continue
        known = client.read_automations_by_name(automation.name)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)
        made.append(automation.name)
    return made


def read_automation(path: Path, block_id: str | None) -> AutomationCore | None:
    """Return the automation of a file; None if it tells somebody and nobody is named."""
    values: dict[str, Any] = yaml.safe_load(path.read_text())
    if "body" in values:
        if block_id is None:
            return None
        notification = {"subject": values.pop("subject"), "body": values.pop("body")}
        values["actions"] = [{"type": "send-notification", "block_document_id": block_id, **notification}]
    return AutomationCore.model_validate(values)


def _prefect(*words: str) -> None:
    root = Path(__file__).resolve().parents[1]
    # prefect.yaml takes PWD for the place of `data/` and `runs/`, as a shell would set it.
    environment = {**os.environ, "PWD": str(root), "PREFECT_PLUGINS_ENABLED": "0"}
    done = subprocess.run([sys.executable, "-m", "prefect", *words], cwd=root, env=environment, check=False)
    if done.returncode:
        raise VdmError(f"`prefect {' '.join(words)}` failed: its message is above")


if __name__ == "__main__":
    main()
