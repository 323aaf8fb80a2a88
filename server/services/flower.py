"""How Flower's programs are found and called at the coordinator: their environment, and `flwr ... --format json`.

The SuperLink's control interface knows no passwords: it listens on loopback alone, and the reverse proxy leaves it out.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import sysconfig
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

import tomli_w

from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.processes import held
from server.provisioning.certificates import require_valid_certificates
from server.provisioning.federation import Federation

CONNECTION = "prod"
"""Name of the federation's SuperLink in Flower's own configuration: `flwr ls prod`."""
LOOPBACK = "127.0.0.1"
_ANSWER_SECONDS = 2.0
_COMMAND_SECONDS = 60.0
_APP = {
    "project": {
        "name": "fedreason-run",
        "version": "1.0.0",
        "description": "Starts the ServerApp that is installed at the coordinator.",
        "license": "Apache-2.0",
    },
    "tool": {
        "flwr": {
            "app": {
                "publisher": "fedreason",
                "components": {"serverapp": "server.app:app", "clientapp": "client.app:app"},
                "config": {"config": "", "runs": "", "federation": "", "sha256": "", "stated": "", "ask": False},
            }
        }
    },
}
"""The bundle that Flower demands. It holds no code: coordinator and sites run what is installed there."""


class FlowerRefusal(Exception):
    """What `flwr` answered instead of doing it, with Flower's own number (None: it gave none)."""

    def __init__(self, number: int | None, text: str) -> None:
        super().__init__(text)
        self.number = number


def executable(name: str) -> str:
    """Path of a program of Flower, from the environment that this Python belongs to."""
    places = (str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", ""))
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        raise FedReasonError(
            Code.SERVICE_FAILED, f"There is no {name} beside {sys.executable}.", "Install fedreason with its Flower."
        )
    return found


def environment(federation: Federation) -> dict[str, str]:
    """Environment of Flower's programs: ours, what `settings` says, and no proxy on the way to loopback."""
    without_proxy = [name for name in ("no_proxy", "NO_PROXY") if os.environ.get(name)] or ["NO_PROXY"]
    return {
        **os.environ,
        **settings(federation),
        **{name: ",".join(filter(None, (os.environ.get(name), LOOPBACK, "localhost"))) for name in without_proxy},
        "PATH": os.pathsep.join((str(Path(executable("flwr")).parent), os.environ.get("PATH", os.defpath))),
    }


def settings(federation: Federation) -> dict[str, str]:
    """Return what Flower's programs are told through the environment."""
    return {
        "FLWR_HOME": str(federation.flower_home),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FEDREASON_FEDERATION": str(federation.folder),
        "FEDREASON_RUNS": str(federation.runs),
    }


def prepare(federation: Federation) -> None:
    """Write what Flower's command line wants to find: where the SuperLink is, and the bundle to submit."""
    address = f"{LOOPBACK}:{federation.config.superlink_port}"
    link = {"address": address, "root-certificates": str(federation.ca_certificate)}
    _write_toml(federation.flower_home / "config.toml", {"superlink": {"default": CONNECTION, CONNECTION: link}})
    _write_toml(app_folder(federation) / "pyproject.toml", _APP)
    private_folder(federation.superlink)


def _write_toml(path: Path, table: dict[str, Any]) -> None:
    content = tomli_w.dumps(table).encode()
    if not path.exists() or path.read_bytes() != content:
        private_folder(path.parent)
        write_private(path, content)


def app_folder(federation: Federation) -> Path:
    """Folder of the bundle that is submitted."""
    return federation.flower_home / "run"


def superlink_answers(federation: Federation) -> bool:
    """Whether the federation's own SuperLink, by its certificate, answers on its port."""
    try:
        context = ssl.create_default_context(cafile=federation.ca_certificate)
        link = HTTPSConnection(LOOPBACK, federation.config.superlink_port, context=context, timeout=_ANSWER_SECONDS)
        with contextlib.closing(link):
            link.request("GET", "/health")
            return link.getresponse().status == 200
    except (OSError, HTTPException):
        return False


def require_superlink(federation: Federation) -> None:
    """Refuse to go on without the SuperLink, or with a certificate by which nobody would know it."""
    if not superlink_answers(federation):
        require_valid_certificates(federation)
        raise FedReasonError(
            Code.COORDINATOR_DOWN,
            f"The SuperLink of {federation.name} does not answer on {LOOPBACK}:{federation.config.superlink_port}.",
            "A coordinator runs: wait until it has started; where it is in a container, say the command in there "
            "(docker compose exec)."
            if held(federation.superlink / "up.lock")
            else "Start the coordinator: python -m server up",
        )


def flwr(federation: Federation, *words: str) -> dict[str, Any]:
    """Run one command of Flower and return its answer.

    Raises
    ------
    FlowerRefusal
        Where Flower says no.
    FedReasonError
        COORDINATOR_DOWN where the SuperLink does not answer, SERVICE_FAILED where Flower's answer is none.
    """
    require_superlink(federation)
    prepare(federation)
    try:
        done = subprocess.run(
            [executable("flwr"), *words, "--format", "json"],
            cwd=federation.flower_home,
            env=environment(federation),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            start_new_session=True,
            check=False,
        )
        answer = json.loads(done.stdout)
        success = answer.get("success", True)
    except (subprocess.TimeoutExpired, ValueError, AttributeError):
        raise FedReasonError(
            Code.SERVICE_FAILED,
            f"`flwr {words[0]}` gave no answer that can be read.",
            f"See {federation.superlink / 'superlink.log'}, then repeat the command.",
        ) from None
    if not success:
        require_superlink(federation)
        text = str(answer.get("error-message", "")).strip().split("\n")[-1]
        raise FlowerRefusal(_number(text), text)
    return dict(answer)


def _number(text: str) -> int | None:
    """Flower's number in "[code: 23] Public key already in use."."""
    head = text.removeprefix("[code: ").partition("]")[0]
    return int(head) if text.startswith("[code: ") and head.isdigit() else None


def failed(what: str, refusal: FlowerRefusal) -> FedReasonError:
    """Return the refusal of ours for one of Flower's."""
    return FedReasonError(
        Code.SERVICE_FAILED, f"The SuperLink did not {what}: {refusal}", "See its log, superlink/superlink.log."
    )
