"""A whole federation on this machine, of real processes: services, reverse proxy, sites. For benches and tests.

It is laid out by the functions behind the commands that do so, started and asked by the commands that people use;
nothing is reached into but files and process numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w

from bench.waiting import PATIENCE, until
from client.site.kit import accept_roster, init_site
from common.processes import die_with_parent
from server.provisioning.provision import provision
from server.services.admission import admit

ROOT = Path(__file__).parent.parent
NGINX = "/usr/sbin/nginx"
NAME = "small"
"""Of the federation: that of the small runs which benches and tests make."""


def free_port() -> int:
    """Return a free port of loopback, below those that a system gives to connections, so that it stays free."""
    while True:
        with contextlib.suppress(OSError), socket.socket() as probe:
            port = 15_000 + secrets.randbelow(15_000)
            probe.bind(("127.0.0.1", port))
            return port


def descendants(pid: int) -> dict[int, str]:
    """Return the processes below a process, by number, with their command lines."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(path.name))
    found: dict[int, str] = {}
    queue = list(children.get(pid, []))
    while queue:
        number = queue.pop()
        with contextlib.suppress(OSError):
            found[number] = (Path(f"/proc/{number}/cmdline").read_bytes()).replace(b"\0", b" ").decode()
        queue += children.get(number, [])
    return found


class Deployment:
    """One federation; use it as a context: leaving ends every process."""

    def __init__(self, folder: Path, registries: Mapping[str, Path], policy: Mapping[str, object]) -> None:
        self.folder, self.sites = folder, tuple(registries)
        self.port, self.superlink_port = free_port(), free_port()
        self.federation, self.hospitals = folder / "kits" / "coordinator", folder / "hospitals"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._registries, self._policy = registries, policy

    def __enter__(self) -> Deployment:
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self.processes):
            self.end(name)

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process."""
        mine = {
            "FEDREASON_HOME": str(self.hospitals),
            "FEDREASON_FEDERATION": str(self.federation),
            "FEDREASON_STATE": str(self.folder / "machine"),
            "FLWR_HOME": str(self.federation / "flower"),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        return os.environ | mine

    def command(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Run `python -m ...` to its end."""
        return subprocess.run(
            [sys.executable, "-m", *map(str, words)],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    def must(self, *words: object) -> str:
        """Run a command that has to succeed, and return what it printed."""
        done = self.command(*words)
        assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def provision(self) -> None:
        """From nothing to accepted rosters: kits, keys at each site, admission, comparison."""
        made = provision(
            name=NAME,
            hosts=["127.0.0.1"],
            sites=self.sites,
            out=self.folder / "kits",
            port=self.port,
            superlink_port=self.superlink_port,
        )
        for site in self.sites:
            init_site(self.folder / "kits" / site, self.hospitals / site)
            self.settle(site)
        admit(made.federation, [self.hospitals / site / "request.json" for site in self.sites])
        for site in self.sites:
            self.accept(site)

    def settle(self, site: str) -> None:
        """Do what a hospital's IT does in site.toml and policy.toml, and state who trains, as no hospital does."""
        folder = self.hospitals / site
        state_split(folder)
        config = tomllib.loads((folder / "site.toml").read_text())
        config |= {"registry": {"path": str(self._registries[site])}, "device": "cpu", "threads": 1}
        (folder / "site.toml").write_text(tomli_w.dumps(config))
        (folder / "policy.toml").write_text(tomli_w.dumps(self._policy))

    def accept(self, site: str) -> None:
        """Accept the coordinator's newest roster at a site."""
        accept_roster(self.hospitals / site, self.federation / "roster.json")

    def start(self, name: str, *command: object) -> subprocess.Popen[bytes]:
        """Start a process, its output in <name>.log."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, command)),
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_own,
            )
        return self.processes[name]

    def up(self) -> None:
        """Start the coordinator's services and the reverse proxy, and wait until they answer."""
        self.start("up", sys.executable, "-m", "server", "up")
        until(lambda: len(self.nodes()) == len(self.sites), lambda: self.log("up"))
        until(lambda: self.command("server", "health").returncode == 0, lambda: self.log("up"))
        self.start_proxy()

    def start_proxy(self) -> None:
        """Start the reverse proxy, and wait until it listens."""
        self.start("nginx", NGINX, "-p", self.federation / "deploy", "-c", "nginx.conf", "-e", "nginx/error.log",
                   "-g", "daemon off;")  # fmt: skip
        until(lambda: listening(self.port), lambda: self.log("nginx"))

    def nodes(self) -> dict[str, str]:
        """Return the sites that the SuperLink knows, by node."""
        path = self.federation / "nodes.json"
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def start_site(self, site: str) -> subprocess.Popen[bytes]:
        """Start a site."""
        return self.start(site, sys.executable, "-m", "client", "--site", site)

    def await_site(self, site: str) -> None:
        """Wait until a site is connected."""
        until(lambda: "connected" in self.log(site), lambda: f"{site}: {self.log(site)}")

    def end(self, name: str, seconds: float = 20) -> int:
        """Stop a process as an operator would, and return its status."""
        process = self.processes.pop(name)
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(seconds)
            process.kill()
        return process.wait()

    def kill(self, name: str, containing: str = "") -> int:
        """Kill -9 a process, or the one below it whose command line holds a text; returns its number."""
        pid = self.processes[name].pid
        if containing:
            pid = next(number for number, line in descendants(pid).items() if containing in line)
        os.kill(pid, signal.SIGKILL)
        return pid

    def status(self) -> dict[str, Any]:
        """Return what `python -m server status --json` says."""
        return dict(json.loads(self.must("server", "status", "--json")))

    def log(self, name: str) -> str:
        """Output of a process so far."""
        path = self.folder / f"{name}.log"
        return path.read_text(errors="replace") if path.exists() else ""


def state_split(folder: Path) -> None:
    """Give a site folder a secret that others have as well, so that the same patients train there."""
    path = folder / "keys" / "split"
    path.write_text("5" * 64)
    path.chmod(0o600)


def listening(port: int) -> bool:
    """Whether somebody listens on a port of loopback."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _own() -> None:
    """Let Ctrl-C work again, where the parent ignores it, and end with the parent."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    die_with_parent()


_Kind = TypeVar("_Kind", bound=Deployment)


@contextlib.contextmanager
def started(deployment: _Kind) -> Iterator[_Kind]:
    """Provision and start everything of a deployment, and wait until every site is connected."""
    with deployment:
        deployment.provision()
        deployment.up()
        for site in deployment.sites:
            deployment.start_site(site)
        for site in deployment.sites:
            deployment.await_site(site)
        yield deployment
