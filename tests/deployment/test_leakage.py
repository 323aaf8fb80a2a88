"""No sentinel leaves a hospital: the checks with their mutations, the search itself, and a whole deployment."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sqlite3
import struct
import subprocess
import tomllib
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import tomli_w

from bench.deployment import NGINX, Deployment, until
from bench.round import written
from client.node.outbox import read_entries
from client.node.worker import Parcel
from client.site.exclusions import EXCLUSIONS_FILE
from common.config import RunConfig
from common.errors import Code
from server.reports.report import write_run_report
from server.rounds.store import RunStore
from simulation.prepare import write_site
from tests.broken.registries import BREAKS
from tests.checked import mutated, passing
from tests.privacy_checks.leakage import CHECKS, PRIVACY, STRICT, UNPRIVATE, run_of
from tests.sentinels import DATE, MARKER, NUMBERS, OUTSIDE, REGISTRY, codebook, found_below, hashes, hits, rows

MUTATIONS = mutated(CHECKS)


@pytest.mark.federation
@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


# --- The search finds what is there ---


def test_every_field_of_every_record_holds_a_sentinel_but_for_the_listed_category() -> None:
    for row in rows("north", 20):
        assert [name for name, cell in row.items() if not hits(cell.encode())] == ["colour"]


def test_the_codebook_and_a_run_hold_none() -> None:
    assert not hits(codebook().to_toml().encode())
    assert not hits(run_of(3, PRIVACY).model_dump_json().encode())


NUMBER = NUMBERS["beta"]
TEXTS = [MARKER.encode(), DATE.encode(), f"{NUMBER:.6f}".encode()]


@pytest.mark.parametrize(
    "content",
    [
        *TEXTS,
        MARKER.encode("utf-16-le"),
        json.dumps({"name": f"{MARKER} Jané"}).encode(),
        repr(NUMBER).encode(),
        f"{NUMBER:.14e}".encode(),
        f"{NUMBER * 1e6:.0f}".encode(),
        struct.pack("<d", NUMBER),
        np.array([1.0, OUTSIDE, 2.0]).tobytes(),
        np.array(list(NUMBERS.values()), dtype=np.float32).tobytes(),
        *(text.hex().encode() for text in TEXTS),
        *(text.hex().upper().encode() for text in TEXTS),
        *(base64.b64encode(bytes(before) + text + b"more") for text in TEXTS for before in range(4)),
    ],
)
def test_a_sentinel_is_found_in_every_form(content: bytes) -> None:
    assert hits(b"before" + content + b"after")


def test_the_hash_of_an_identifier_is_found() -> None:
    digest = hashlib.sha256(rows("north", 3)[2]["case"].encode())
    for content in (digest.digest(), digest.hexdigest().encode()):
        assert hits(content, hashes({"north": 3})) and not hits(content)


def test_a_sentinel_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(MARKER.encode()))
    np.savez_compressed(tmp_path / "arrays.npz", values=np.array([NUMBER] * 9))
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/file.txt", DATE)
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("create table parts (content blob)")
        database.execute("insert into parts values (?)", (bytes(4090) + MARKER.encode() + bytes(9000),))
    (tmp_path / f"{MARKER}.txt").write_text("")
    (tmp_path / REGISTRY).write_text(MARKER)
    (tmp_path / "clean.txt").write_text("nothing")
    assert set(found_below(tmp_path)) == {"log.gz", "arrays.npz", "bundle.zip", "state.db", f"{MARKER}.txt"}


# --- A whole deployment ---

SITES = {"north": 12, "south": 12, "west": 12}
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
        """Lay out the federation; its sites leave out the column that the codebook does not know."""
        super().provision()
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

    def command(self, *words: object, seconds: float = 400) -> subprocess.CompletedProcess[str]:
        """Keep what a command prints."""
        if words[:2] == ("server", "provision"):
            words = (*words, "--codebook", self.folder / "codebook.toml")
        done = super().command(*words, seconds=seconds)
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


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("registries")
    records = {site: rows(site, count) for site, count in SITES.items()}
    return {
        site: write_site(folder / site, site, list(own[0]), own, codebook()) / REGISTRY for site, own in records.items()
    }


@pytest.fixture
def deployment(registries: dict[str, Path], tmp_path: Path) -> Iterator[Overheard]:
    running = Overheard(tmp_path / "d", registries, STRICT)
    with running:
        running.provision()
        running.up()
        for site in running.sites:
            running.start_site(site)
        for site in running.sites:
            running.await_site(site)
        yield running


def run_named(name: str, privacy: Mapping[str, object] | None, rounds: int) -> RunConfig:
    config = run_of(3, privacy, quorum=1, rounds=rounds, deadline=60.0)
    questions = config.questions.model_copy(update={"codebook": "codebook.toml"})
    return config.model_copy(update={"name": name, "questions": questions})


@pytest.mark.deploy
@pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed")
def test_no_sentinel_is_in_anything_that_a_deployment_sent_logged_told_or_wrote_down(
    deployment: Overheard, registries: dict[str, Path]
) -> None:
    """A refused run, a private one with failures, and one without privacy; then what is broken at a site is told."""
    folder = deployment.folder
    private, plain = run_named("private", PRIVACY, 3), run_named("plain", None, 2)
    ask = deployment.command("server", "ask", written(plain, folder), "--json")
    assert ask.returncode != 0 and ask.stdout.count(str(int(Code.POLICY_REFUSED))) == 3, ask.stdout + ask.stderr

    run = with_failures(deployment, private, registries["north"])
    assert run["north"] == {int(Code.SITE_CLOSED)}, run
    assert f"south (E{int(Code.RUN_FAILED)}" not in deployment.log("run"), "a patient that fails counts as zero"
    deployment.allow(UNPRIVATE)
    deployment.must("server", "run", written(plain, folder), seconds=400)

    broken_registry(deployment, registries["west"])
    for command in ("status", "outbox", "ledger"):
        deployment.must("client", command, "--site", "north")
    deployment.must("server", "status")
    deployment.must("server", "export", "private", "--out", folder / "adapter")
    write_run_report(deployment.federation / "runs" / "private")
    for site in ("north", "south"):
        deployment.end(site)
    deployment.must("server", "stop")

    require_all_was_captured(deployment)
    more = hashes(SITES)
    assert found_below(folder, more) == {}
    assert [text.splitlines()[0] for text in deployment.told if hits(text.encode(), more)] == []
    assert all(hits(registry.read_bytes(), more) for registry in registries.values())


def with_failures(deployment: Overheard, config: RunConfig, registry: Path) -> dict[str, set[int]]:
    """Run; from the first round on a registry is gone. Returns the refusals by site."""
    run = deployment.start("run", "python", "-m", "server", "run", written(config, deployment.folder))
    standing = deployment.federation / "runs" / config.name / "standing.json"

    def under_way() -> bool:
        now = json.loads(standing.read_text()) if standing.exists() else {}
        return run.poll() is not None or (now.get("round", 0) >= 1 and now.get("exchange") == "train")

    until(under_way, 400, lambda: deployment.log("run") + deployment.log("up"))
    away = registry.with_suffix(".away")
    registry.rename(away)
    until(lambda: run.poll() is not None, 400, lambda: deployment.log("run") + deployment.log("up"))
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
        done = deployment.command("client", "--site", "west", seconds=400)
        assert code is not None and f"E{int(code)}" in done.stdout + done.stderr, done.stdout + done.stderr
        registry.write_bytes(whole)


def require_all_was_captured(deployment: Overheard) -> None:
    """What was meant to happen happened, every program logged, and every message is among the bytes that were caught.

    Of a message in the outbox that is each of its objects, among the bytes that the site gave to its sockets.
    """
    started = [path.read_text().splitlines()[0] for path in (deployment.folder / "logged").glob("*.log")]
    programs = ("flower-superlink", "flower-superexec", "flwr-serverapp", "client.node.resident", "'client', '--site'")
    assert all(any(program in line for line in started) for program in programs), started
    assert "ValueError at" in deployment.log("south") and "the resident process ended" in deployment.log("west")
    for site in deployment.sites:
        captured = b"".join(path.read_bytes() for path in (deployment.folder / "captured" / site).iterdir())
        outbox = deployment.hospitals / site / "state" / "outbox"
        entries = read_entries(outbox)
        assert {"layout", "contribution", "evaluation", "refusal"} <= {entry.kind for entry in entries}
        for entry in entries:
            parcel = Parcel.of((outbox / f"{entry.number}.message").read_bytes())
            assert all(part in captured for part in parcel.objects), entry
