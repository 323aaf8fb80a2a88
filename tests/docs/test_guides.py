"""Every command line of the guides, as it stands there: taken by the real command line, and the set-up really run."""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
import typer

from bench.deployment import NGINX, free_port, listening
from bench.round import written
from bench.waiting import PATIENCE, until
from bench.words import spread
from common import synthetic
from simulation.prepare import prepare
from tests.paths import ROOT
from tests.small import small_config

GUIDES = (
    "README.md",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "docs").glob("*.md"))),
    "server/templates/kit/README.txt",
    "server/templates/kit/site.toml",
    "server/templates/kit/policy.toml",
    "client/templates/compose.yaml",
    "client/templates/systemd/fedreason-site@.service",
)
_SYSTEM = ("docker", "systemctl", "systemd-run", "useradd", "cp", "mv", "rm", "mkdir", "install", "chown", "sudo")
"""What only a machine of its own takes; what such a line has python do is taken all the same."""
_PROGRAM = (
    r"(?:[A-Z_]+=\S+ )*(?:python3? -m|flwr|nginx|make|pip|/opt/fedreason/bin/(?:pip|python)"
    rf"|{'|'.join(_SYSTEM)})(?= |$)"
)
_FENCED = re.compile(r"^```\w*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(rf"`({_PROGRAM}[^`]*)`")
_LINE = re.compile(rf"^\s*(?:#\s+)?(?:ExecStart=/opt/fedreason/bin/)?({_PROGRAM}.*)$")
_SAID = re.compile(r"(python -m client [\w ]+--[\w-]+ (?:\$site|NAME))")
SPREAD = {"bench.grpo": "--prompt", "bench.memory": "--sites", "bench.ranks": "--ranks"}
"""Options that take several words."""
PROGRAMS = ("client", "server", "simulation")


def commands(guide: str) -> list[str]:
    """Return the command lines of a guide, in its order: of its blocks, of code within its lines, of its comments."""
    text = (ROOT / guide).read_text(encoding="utf-8")
    found: list[tuple[int, str]] = []
    if guide.endswith(".md"):
        for block in _FENCED.finditer(text):
            lines = block[1].replace("\\\n", " ").splitlines()
            found += [(block.start(), line) for line in lines if re.match(_PROGRAM, line)]
        text = _FENCED.sub(lambda block: " " * len(block[0]), text)
    else:
        for line in re.finditer(r"^.*$", text, re.MULTILINE):
            if match := _LINE.match(line[0]) or _SAID.search(line[0]):
                found.append((line.start(), match[1]))
    found += [(match.start(), " ".join(match[1].split())) for match in _INLINE.finditer(text)]
    return [line for _, line in sorted(found, key=lambda one: one[0]) if line != "make"]


EVERY = [(guide, line) for guide in GUIDES for line in commands(guide)]


def take(line: str) -> None:
    """Have a command line parsed by the program that it is for; nothing is done."""
    words = [
        word
        for word in shlex.split(line.replace("$site", "amc").replace("NUMBER", "1").replace("%i", "amc"), comments=True)
        if word
    ]
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    if pythons := [place for place, word in enumerate(words) if Path(word).name == "python"]:
        words = ["python", *words[pythons[0] + 1 :]]
    program, *rest = words
    if words[:3] == ["python3", "-m", "venv"]:
        return
    if program == "python":
        assert rest[0] == "-m"
        module, *options = rest[1:]
        app = application(module)
        if not options and module in PROGRAMS:
            return  # the name of a program
        if module == "simulation" and options[0] == "configs/demo.toml":
            options.insert(0, "run")  # as its `main` does
        take_typer(app, spread(options, SPREAD[module]) if module in SPREAD else options)
    elif program == "flwr":
        take_typer(importlib.import_module("flwr.cli.app").app, rest)
    elif program.endswith("pip"):
        take_pip(rest)
    elif program == "make":
        done = subprocess.run(["make", "-n", *rest], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    elif program == "nginx":
        assert rest[:6] == ["-p", "kits/coordinator/deploy", "-c", "nginx.conf", "-e", "nginx/error.log"], rest
        assert rest[6:] in ([], ["-s", "reload"])
    else:
        assert program in _SYSTEM


def application(module: str) -> typer.Typer:
    if module in PROGRAMS:
        module += ".__main__"
    loaded = importlib.import_module(module)
    if hasattr(loaded, "app"):
        return loaded.app  # type: ignore[no-any-return]
    app = typer.Typer()
    app.command()(loaded.main)
    return app


def take_typer(app: typer.Typer, words: list[str]) -> None:
    command, name = typer.main.get_command(app), "program"
    context = None
    with contextlib.suppress(click.exceptions.Exit):
        while True:
            context = command.make_context(name, list(words), parent=context)
            words = [*getattr(context, "_protected_args", []), *context.args]
            if not isinstance(command, click.Group) or not words:
                return
            found, sub, words = command.resolve_command(context, words)
            assert sub is not None and found is not None
            command, name = sub, found


def take_pip(words: list[str]) -> None:
    from pip._internal.commands import create_command

    options, wanted = create_command(words[0]).parser.parse_args(words[1:])
    if words == ["show", "fedreason"]:
        return
    assert words[0] == "install"
    assert all((ROOT / path).exists() for path in options.constraints)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for name in [*wanted, *options.editables]:
        assert all(extra in extras for extra in re.findall(r"\[(\w+)\]", name)), name


@pytest.mark.parametrize(("guide", "line"), EVERY, ids=[f"{guide}: {line}" for guide, line in EVERY])
def test_a_command_of_the_guides_is_taken_as_it_stands(guide: str, line: str) -> None:
    take(line)


@pytest.mark.parametrize(
    "line",
    ["python -m server export RUN", "python -m client outbox", "python -m server up --fast", "python -m client polcy",
     "python -m client policy trust --site amc", "make nothing", "python -m bench.round --site 3",
     "pip install '.[gpus]'", "python -m client init --kit", "flwr rum . prod"],
)  # fmt: skip
def test_a_command_that_lacks_an_option_or_has_one_too_many_is_not_taken(line: str) -> None:
    with pytest.raises((click.ClickException, AssertionError, SystemExit)):
        take(line)


# --- The set-up, as the two guides tell it ---

NOT_RUN = {
    "python3 -m venv /opt/fedreason": "tests/test_package.py types the install and the upgrade, into another folder",
    "/opt/fedreason/bin/pip install -c constraints.txt .": "wants internet",
    "pip install -c constraints.txt .": "the same",
    "/opt/fedreason/bin/pip install --no-index --find-links wheelhouse --require-hashes -r wheelhouse/requirements.txt":
        "tests/test_package.py",
    "/opt/fedreason/bin/pip show fedreason": "the same",
    "make wheelhouse": "the same",
    "pip show fedreason": "the same",
    "pip install -c constraints.txt bitsandbytes": "for a GPU",
    "pip install 'fedreason[postgres]'": "installs",
    "pip install 'fedreason[models]'": "installs",
    "python -m server model SOURCE --out models/NAME": "tests/server/models/test_convert.py",
    "python -m server export runs/demo --out FOLDER": "tests/server/reports/test_studied.py exports a run by its path",
    "python -m server generate --adapter FOLDER": "tests/server/reports/test_adapter.py",
    "python -m server warmup configs/warmup/smollm2.toml --out models/smollm2-warm":
        "tests/server/models/test_warmup.py",
    "python -m server dashboard": "tests/deployment/test_operations.py",
    "python -m server dashboard --add kim": "tests/server/dashboard/test_cli.py",
    "pip install 'fedreason[tensorboard]'": "installs",
    "pip install '.[gpu]'": "for a GPU",
    "flwr run . prod --stream": "tests/deployment/test_deploy.py",
    "flwr ls prod": "tests/server/provisioning/test_admission.py asks Flower's own command line",
    "flwr stop NUMBER prod": "stops a run of Flower's own command",
    "python -m client --site NAME": "is run as `python -m client --site amc`",
    "python -m client model": "tests/client/training/test_making.py makes a model",
    "python -m client model --run run.toml": "the same",
    "python -m client model --run FILE": "the same",
    "python -m client dashboard --site amc": "tests/client/dashboard/test_cli.py serves and stops one",
    "python -m client policy confirm --site amc": "tests/client/policy/test_change.py confirms a weaker policy",
    "python -m client policy trust new.pub --replace --site amc": "tests/client/policy/test_signature.py",
    "python -m client init --kit kits/amc --folder ~/.fedreason/sites/amc-second":
        "tests/server/provisioning/test_provision.py makes a site in a folder that it names",
}  # fmt: skip
"""Command lines of the two guides that the set-up below leaves out, beside those of `_SYSTEM`, and why."""

SITES = ("amc", "snubh", "smc")
RUN = "guided"


class Guided:
    """A coordinator and three hospitals on this machine, who type what the guides say.

    What differs from the guides is here and nowhere else: the public name is localhost, ports are free ones, the run is
    a small one, placeholders (RUN, SITE, FOLDER) are names, and what the guides say of amc is done at the others too.
    """

    def __init__(self, folder: Path, run: Path, sites: Path) -> None:
        self.folder, self.sites = folder, sites
        self.port, self.superlink_port = free_port(), free_port()
        self.typed: list[str] = []
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._said = {
            "coordinator.example": "localhost",
            "sepsis.toml": str(run),
            "RUN": RUN,
            "SITE": "newcomer",
            "FOLDER": "adapter",
        }
        self._environment = os.environ | {
            "COLUMNS": "200",
            "FEDREASON_HOME": str(sites),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "PATH": os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"], str(Path(NGINX).parent))),
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
        }
        self._environment.pop("FEDREASON_FEDERATION", None)

    def words(self, line: str, site: str) -> list[str]:
        self.typed.append(line)
        words = [self._said.get(word, word) for word in shlex.split(line, comments=True)]
        words = [re.sub(r"\bamc\b", site, word) for word in words] if "client" in words else words
        if "provision" in words:
            words += ["--port", str(self.port), "--superlink-port", str(self.superlink_port)]
        return words

    def types(
        self, line: str, site: str = "amc", *, place: Path | None = None, answer: str = "", status: int = 0
    ) -> str:
        """Type a line and wait for its end."""
        done = subprocess.run(
            self.words(line, site), cwd=place or self.folder, env=self._environment, input=answer, text=True,
            capture_output=True, timeout=PATIENCE,
        )  # fmt: skip
        assert done.returncode == status, f"{line}\n{done.stdout}\n{done.stderr}"
        return done.stdout + done.stderr

    def leaves_running(self, name: str, line: str, site: str = "amc") -> None:
        """Type a line that goes on for ever."""
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                self.words(line, site), cwd=self.folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text(errors="replace")


@pytest.fixture
def guided(small_model: Path, tmp_path: Path) -> Iterator[Guided]:
    privacy = {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-5}
    config = small_config(
        small_model,
        name=RUN,
        federation={
            "name": "sepsis",
            "sites": 3,
            "population": 30,
            "sampling_rate": 0.6,
            "rounds": 2,
            "deadline": 120.0,
        },
        privacy=privacy,
    )
    prepared = prepare(config, synthetic.codebook(), tmp_path / "registries")
    for site, folder in zip(SITES, prepared.values(), strict=True):
        shutil.copy(folder / "registry.csv", tmp_path / f"{site}.csv")
    found = Guided(tmp_path, written(config, tmp_path), tmp_path / "sites")
    yield found
    for process in found.running.values():
        process.terminate()
    for process in found.running.values():
        process.wait(PATIENCE)
    pid = found.folder / "kits" / "coordinator" / "deploy" / "nginx" / "nginx.pid"
    if pid.exists():
        os.kill(int(pid.read_text()), signal.SIGTERM)


def edit(guided: Guided, site: str, model: Path) -> None:
    """Edit the two files as the hospital guide and their own comments say."""
    for name, old, new in (
        ("site.toml", 'path = "registry.csv"', f'path = "{guided.folder / site}.csv"'),
        ("site.toml", 'device = "auto"', 'device = "cpu"'),
        ("policy.toml", 'base_models = ["tiny"]', f'base_models = ["{model}"]'),
    ):
        path = guided.sites / site / name
        text = path.read_text()
        assert text.count(f"\n{old}\n") == 1
        path.write_text(text.replace(old, new))


@pytest.mark.deploy
@pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed")
def test_who_follows_the_two_guides_gets_a_federation_that_trains(guided: Guided, small_model: Path) -> None:
    _set_up(guided, small_model)
    _run(guided)
    _watch(guided)
    _change(guided)
    told = {line for guide in ("docs/coordinator.md", "docs/hospital.md") for line in commands(guide)}
    told = {line for line in told if line.split()[0] not in _SYSTEM}
    assert told - set(guided.typed) - set(NOT_RUN) == set()
    block = next(block for block in _FENCED.findall((ROOT / "README.md").read_text()) if "provision" in block)
    typed = {tuple(shlex.split(line)) for line in guided.typed}
    assert [line for line in block.splitlines() if tuple(shlex.split(line, comments=True)) not in typed] == []


def _set_up(guided: Guided, model: Path) -> None:
    types, folder = guided.types, guided.folder
    provision = "python -m server provision --name sepsis --host coordinator.example --site amc --site snubh --site smc"
    told = types(f"{provision} --out kits")
    fingerprint = re.findall(r"SHA256:\S+", told)[0]
    for site in SITES:
        assert fingerprint in types("python -m client init --kit kits/amc", site)
        edit(guided, site, model)
        (folder / site).mkdir()
        shutil.copy(guided.sites / site / "request.json", folder / site)
    types("python -m server admit amc/request.json snubh/request.json smc/request.json")
    shutil.copy(folder / "kits" / "coordinator" / "roster.json", folder)
    for site in SITES:
        types("python -m client roster accept --site amc roster.json", site, answer="y\n")
    types("python -m server up --print")
    guided.leaves_running("up", "python -m server up")
    until(lambda: "The SuperLink answers" in guided.log("up"), lambda: guided.log("up"))
    until(lambda: (folder / "kits" / "coordinator" / "nodes.json").exists(), lambda: guided.log("up"))
    types("nginx -p kits/coordinator/deploy -c nginx.conf -e nginx/error.log")
    until(lambda: listening(guided.port), "nginx listens")
    for site in SITES:
        types("python -m client check --site amc", site)
    assert "patient data" in types("python -m client preview --site amc")
    for site in SITES:
        guided.leaves_running(site, "python -m client --site amc", site)
    for site in SITES:
        until(lambda site=site: "connected" in guided.log(site), lambda site=site: guided.log(site))  # type: ignore[misc]


def _run(guided: Guided) -> None:
    guided.types("python -m server ask sepsis.toml")
    assert "finished: 2 rounds" in guided.types("python -m server run sepsis.toml")


def _watch(guided: Guided) -> None:
    types = guided.types
    assert all(site in types("python -m server status") for site in SITES)
    types("python -m server report RUN")
    types("python -m server export RUN --out FOLDER")
    assert (guided.folder / "adapter" / "adapter_config.json").exists()
    types("python -m server health")
    types("python -m server roster")
    types("python -m server certificates")
    types("python -m server abort RUN")
    types("python -m client status --site amc")
    types("python -m client pause --site amc")
    types("python -m client resume --site amc")
    types("python -m client training --site amc")
    assert "contribution" in types("python -m client outbox --site amc")
    assert RUN in types("python -m client ledger --site amc")
    types("python -m client units")
    here = guided.sites / "amc"
    types("python -m client policy keygen --out officer", place=here)
    types("python -m client policy trust officer.pub --site amc", place=here)
    types("python -m client policy sign policy.toml --key officer", place=here)
    types("python -m client policy show --site amc")


def _change(guided: Guided) -> None:
    types = guided.types
    types("python -m server certificates --renew")
    types("nginx -p kits/coordinator/deploy -c nginx.conf -e nginx/error.log -s reload")
    types("python -m client rotate --site amc")
    types("python -m client rotate --site amc --lost", "snubh")
    for site in SITES[:2]:
        shutil.copy(guided.sites / site / "roster.json", guided.folder / site)
    types("python -m server roster --restore amc/roster.json --restore snubh/roster.json")
    assert "newcomer" in types("python -m server kit SITE")
    guided._said["SITE"] = "smc"
    types("python -m server revoke SITE")
    types("python -m server stop")
    assert guided.running["up"].wait(PATIENCE) == 0
