"""A deployment over registries of sentinels that keeps all that is said and sent, and whose sites fail now and then."""

from __future__ import annotations

import hashlib
import json
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path

import tomli_w

from bench.deployment import NAME, Deployment
from bench.round import written
from bench.waiting import until
from client.node.outbox import read_entries
from client.node.worker import Parcel
from client.site.exclusions import EXCLUSIONS_FILE
from common.config import RunConfig
from server.rounds.store import RunStore
from simulation.prepare import write_site
from tests.broken.registries import BREAKS
from tests.sentinels import REGISTRY, codebook, rows

HOOK = """
import logging, os, socket, ssl, sys

written = logging.FileHandler(f"{os.environ['LOGGED']}/{os.getpid()}.log")
written.setFormatter(logging.Formatter("%(levelname)s %(name)s %(message)s"))
for name, handlers in {"": [written], "flwr": [written], "fedreason": [written, logging.StreamHandler()]}.items():
    for handler in handlers:
        logging.getLogger(name).addHandler(handler)
    logging.getLogger(name).setLevel(logging.DEBUG)
logging.debug("%s", sys.orig_argv)

if captured := os.environ.get("CAPTURED"):
    def kept(kind, send):
        def sending(self, data, *more):
            with open(f"{captured}/{os.getpid()}-{kind}-{id(self)}", "ab", buffering=0) as file:
                file.write(data)
            return send(self, data, *more)
        return sending

    ssl.SSLSocket.send = kept("tls", ssl.SSLSocket.send)
    for method in ("send", "sendall"):
        setattr(socket.socket, method, kept("plain", getattr(socket.socket, method)))

if "client.node.resident" in sys.orig_argv:
    from common.questions.question import QuestionMaker

    draw, asked = QuestionMaker.draw, []
    site = next(os.path.basename(word) for word in sys.orig_argv if "/hospitals/" in word)

    def stumbling(maker, patient, *more):
        asked.append(patient.id)
        if site == "south" and len(asked) % 4 == 0:
            raise ValueError(f"could not convert {patient.id}: {dict(patient.values)}")
        if site == "west" and not os.path.exists(os.environ["LOGGED"] + "/died"):
            open(os.environ["LOGGED"] + "/died", "w").close()
            os.kill(os.getpid(), 9)
        return draw(maker, patient, *more)

    QuestionMaker.draw = stumbling
"""
"""What every Python process of the deployment runs first.

It writes the log of every library, at DEBUG, to a file; what it prints stays as it is. A site also writes down each
byte that it gives to a socket, before it is encrypted. The site `south` fails at every fourth patient, with the record
in the text of its error. The process that holds the records of `west` is killed once, in the middle of its work.
"""


class Overheard(Deployment):
    """A deployment that keeps all that is said and sent."""

    def __init__(self, folder: Path, registries: Mapping[str, Path], policy: Mapping[str, object]) -> None:
        super().__init__(folder, registries, policy)
        self.told: list[str] = []
        self._site = ""
        for name in ("hook", "logged", "tmp", *(f"captured/{site}" for site in self.sites)):
            (folder / name).mkdir(parents=True)
        (folder / "hook" / "sitecustomize.py").write_text(HOOK)
        (folder / "codebook.toml").write_text(codebook().to_toml())

    @property
    def environment(self) -> dict[str, str]:
        """Environment of every process, and where a site writes down what it sends."""
        folders = {"PYTHONPATH": "hook", "LOGGED": "logged", "TMPDIR": "tmp"}
        mine = {name: str(self.folder / place) for name, place in folders.items()}
        captured = {"CAPTURED": str(self.folder / "captured" / self._site)} if self._site else {}
        return {**super().environment, **mine, **captured}

    def provision(self) -> None:
        """Lay it out by the commands that people type; its sites leave out what the codebook does not know."""
        sites = [word for site in self.sites for word in ("--site", site)]
        ports = ["--port", self.port, "--superlink-port", self.superlink_port]
        self.must("server", "provision", "--name", NAME, "--host", "127.0.0.1", *sites, *ports,
                  "--codebook", self.folder / "codebook.toml", "--out", self.folder / "kits")  # fmt: skip
        for site in self.sites:
            self.must("client", "init", "--kit", self.folder / "kits" / site)
            self.settle(site)
        self.must("server", "admit", *(self.hospitals / site / "request.json" for site in self.sites))
        for site in self.sites:
            self.must("client", "roster", "accept", "--site", site, self.federation / "roster.json", "--yes")
        for site in self.sites:
            path = self.hospitals / site / "site.toml"
            config = tomllib.loads(path.read_text())
            path.write_text(tomli_w.dumps(config | {"registry": config["registry"] | {"ignored": ["undescribed"]}}))

    def start_site(self, site: str) -> subprocess.Popen[bytes]:
        """Start a site whose bytes are written down."""
        self._site = site
        try:
            return super().start_site(site)
        finally:
            self._site = ""

    def command(self, *words: object) -> subprocess.CompletedProcess[str]:
        """Keep what a command prints."""
        done = super().command(*words)
        self.told.append(f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}")
        return done

    def settle(self, site: str) -> None:
        """Keep the content of every message, and let the first patient opt out."""
        super().settle(site)
        path = self.hospitals / site / "site.toml"
        path.write_text(tomli_w.dumps({**tomllib.loads(path.read_text()), "keep_contents": 10_000}))
        (self.hospitals / site / EXCLUSIONS_FILE).write_text(rows(site, 1)[0]["case"] + "\n")

    def allow(self, policy: Mapping[str, object]) -> None:
        """Change the policy of every site."""
        for site in self.sites:
            path = self.hospitals / site / "policy.toml"
            path.write_text(tomli_w.dumps(policy))
            if (self.hospitals / site / "state" / "policy.json").exists():
                sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
                self.must("client", "policy", "confirm", "--site", site, "--sha256", sha256)


def registries_of(folder: Path, sites: Mapping[str, int]) -> dict[str, Path]:
    """Write a registry of so many patients for each site."""
    records = {site: rows(site, count) for site, count in sites.items()}
    return {
        site: write_site(folder / site, site, list(own[0]), own, codebook()) / REGISTRY for site, own in records.items()
    }


def with_failures(deployment: Overheard, config: RunConfig, registry: Path) -> dict[str, set[int]]:
    """Run; from the first round on a registry is gone. Returns the refusals by site."""
    run = deployment.start("run", "python", "-m", "server", "run", written(config, deployment.folder))
    standing = deployment.federation / "runs" / config.name / "standing.json"

    def under_way() -> bool:
        now = json.loads(standing.read_text()) if standing.exists() else {}
        return run.poll() is not None or (now.get("round", 0) >= 1 and now.get("exchange") == "train")

    until(under_way, lambda: deployment.log("run") + deployment.log("up"))
    away = registry.with_suffix(".away")
    registry.rename(away)
    until(lambda: run.poll() is not None, lambda: deployment.log("run") + deployment.log("up"))
    away.rename(registry)
    assert run.wait() == 0, deployment.log("run") + deployment.log("up")
    deployment.processes.pop("run")
    with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
        told = [row.refused for row in store.rounds()]
    return {site: {refused[site] for refused in told if site in refused} for site in deployment.sites}


def broken_registry(deployment: Overheard, registry: Path) -> None:
    """Start a site with each kind of broken registry, which must refuse."""
    deployment.end("west")
    whole = registry.read_bytes()
    for spoil, code in (BREAKS["a patient twice"], BREAKS["no header"]):
        spoil(registry)
        done = deployment.command("client", "--site", "west")
        assert code is not None and f"E{int(code)}" in done.stdout + done.stderr, done.stdout + done.stderr
        registry.write_bytes(whole)


def require_all_was_captured(deployment: Overheard, kinds: set[str]) -> None:
    """What was meant to happen happened, every program logged, and every message is among the bytes that were caught.

    These kinds of message each site has sent. Of a message in the outbox each of its objects is looked for among the
    bytes that the site gave to its sockets.
    """
    started = [path.read_text().splitlines()[0] for path in (deployment.folder / "logged").glob("*.log")]
    programs = ("flower-superlink", "flower-superexec", "flwr-serverapp", "client.node.resident", "'client', '--site'")
    assert all(any(program in line for line in started) for program in programs), started
    assert "ValueError at" in deployment.log("south") and "the resident process ended" in deployment.log("west")
    for site in deployment.sites:
        captured = b"".join(path.read_bytes() for path in (deployment.folder / "captured" / site).iterdir())
        outbox = deployment.hospitals / site / "state" / "outbox"
        entries = read_entries(outbox)
        assert kinds <= {entry.kind for entry in entries}
        for entry in entries:
            parcel = Parcel.of((outbox / f"{entry.number}.message").read_bytes())
            assert all(part in captured for part in parcel.objects), entry
