"""House rules: what is declared, what stays light, what is shipped, and that the documentation's commands exist."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from io import BytesIO
from pathlib import Path

import pytest

from tests.imports import imported
from tests.paths import PACKAGES, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COMMANDS = (ROOT / "README.md", ROOT / ".ci" / "run")


def imports_of(package: str) -> dict[str, set[str]]:
    """Return the top-level modules that each file of a package imports."""
    return {
        str(path.relative_to(ROOT)): {name.partition(".")[0] for name in imported(path, ROOT)}
        for path in sorted((ROOT / package).rglob("*.py"))
    }


def test_what_is_imported_is_declared() -> None:
    extras = PROJECT["project"]["optional-dependencies"]
    stated = PROJECT["project"]["dependencies"] + extras["gpu"] + extras["models"]
    declared = {re.split(r"[^A-Za-z0-9-]", text)[0].lower() for text in stated}
    distributions = packages_distributions()
    missing = {}
    for package in PACKAGES:
        for path, names in imports_of(package).items():
            foreign = names - set(sys.stdlib_module_names) - set(PACKAGES)
            unknown = {
                name
                for name in foreign
                if not declared & {known.lower().replace("_", "-") for known in distributions.get(name, [name])}
            }
            if unknown:
                missing[path] = unknown
    assert missing == {}


HEAVY = ("torch", "flwr", "transformers", "peft", "trl", "opacus", "pandas", "ray")


@pytest.mark.long
@pytest.mark.parametrize(
    "modules",
    [
        "common.config, common.codebook, common.questions.question, common.questions.prompt, common.synthetic",
        "client.site.config, client.registry, client.site.kit, client.site.folders, client.policy.policy",
        "client.node.preflight, client.__main__",
        "server.provisioning.provision, server.services.admission, server.__main__",
        "simulation.__main__, simulation.partition",
    ],
)
def test_light_modules_import_nothing_heavy(modules: str) -> None:
    assert heavy(modules) == []


def test_the_coordinator_s_part_of_a_run_starts_without_torch() -> None:
    """It is started for every question before a run and after every death, and then waits for sites."""
    assert heavy("server.app") == ["flwr"]


@pytest.mark.long
@pytest.mark.parametrize(
    "modules",
    ["simulation.driver, simulation.report", "simulation.study.driver, simulation.study.report"],
    ids=["simulation", "study"],
)
def test_what_waits_for_the_processes_of_a_simulation_loads_no_torch(modules: str) -> None:
    assert heavy(modules) == []


def test_what_sites_would_yield_without_training_is_counted_without_torch(tmp_path: Path) -> None:
    """The parent of a simulation does it, when its processes have ended."""
    then = f"""
from pathlib import Path
path, folder = Path("configs/demo.toml"), Path({str(tmp_path)!r})
config, codebook = common.config.load_config(path)
few = config.model_copy(update={{"simulation": config.simulation.model_copy(update={{"patients": 12}})}})
simulation.driver.prepare_once(few, codebook, folder, path.parent)
assert simulation.baselines.baselines(simulation.folders.open_sites(folder), few)
"""
    assert heavy("common.config, simulation.baselines, simulation.driver, simulation.folders", then) == []


def heavy(modules: str, then: str = "") -> list[str]:
    """Return what is loaded by a program that imports modules, and does something then."""
    program = f"import sys, {modules}\n{then}\nprint(*sorted(set(sys.modules) & {set(HEAVY)!r}))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_module_is_seldom_two_ideas() -> None:
    """The tests' own bound stands in tests/test_suite.py."""
    lengths = {
        path: len(path.read_text().splitlines())
        for package in (*PACKAGES, "bench")
        for path in (ROOT / package).rglob("*.py")
    }
    assert [str(path) for path, length in lengths.items() if length > 350] == []


def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.name)
def test_every_make_command_of_the_documentation_is_a_target(path: Path) -> None:
    named = set(re.findall(r"(?:`|\n)(?:[A-Z_]+=\S+ )?make (?:--\S+ )?([a-z][a-z0-9-]*)", path.read_text()))
    assert named
    assert named <= make_targets()


def test_the_readme_shows_the_two_commands_on_its_first_screen() -> None:
    first_screen = "\n".join((ROOT / "README.md").read_text().splitlines()[:40])
    assert "\nmake demo " in first_screen and "\nmake test " in first_screen
    assert {"demo", "support2", "test", "test-fast", "test-all", "lint", "bench", "clean"} <= make_targets()


def test_every_module_that_the_documentation_runs_exists() -> None:
    texts = [path.read_text() for path in [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md")]]
    modules = {name for text in texts for name in re.findall(r"(?:python|\$\(RUN\)) -m ([a-z][a-z0-9_.]*[a-z])", text)}
    own = {name for name in modules if name.partition(".")[0] in {*PACKAGES, "bench"}}
    assert "simulation" in own
    for name in own:
        path = ROOT.joinpath(*name.split("."))
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), name


def test_every_file_that_the_documentation_links_exists() -> None:
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_constraints_pin_every_dependency_and_flower_exactly() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9_.-]+==[0-9][A-Za-z0-9.]*", line) for line in lines)
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines}
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["test"]]
    names = {re.split(r"[^A-Za-z0-9-]", text)[0].lower() for text in wanted}
    assert names <= pinned
    assert "flwr[simulation]==1.41.0" in PROJECT["project"]["dependencies"] and "flwr==1.41.0" in lines


def test_the_flower_bundle_holds_what_nodes_need_and_nothing_else(tmp_path: Path) -> None:
    from flwr.cli.build import build_fab_from_disk

    tree = tmp_path / "tree"
    for folder in (*PACKAGES, "configs", "tests", "bench", "docs"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    (tree / "runs" / "demo").mkdir(parents=True)
    (tree / "runs" / "demo" / "summary.json").write_text("{}")
    (tree / "registry.csv").write_text("patient_id\n1\n")
    with zipfile.ZipFile(BytesIO(build_fab_from_disk(tree))) as bundle:
        names = set(bundle.namelist())
    folders = ("common", "client", "server")
    code = {path.relative_to(tree).as_posix() for folder in folders for path in (tree / folder).rglob("*.py")}
    configs = {path.relative_to(tree).as_posix() for path in (tree / "configs").rglob("*.toml")}
    assert names == code | configs | {"pyproject.toml", ".info/CONTENT"}
    default = PROJECT["tool"]["flwr"]["app"]["config"]["config"]
    assert default in names


@pytest.mark.parametrize("package", ["client", "server"])
def test_every_command_that_the_guides_name_exists(package: str) -> None:
    """Guides, the kit's page and messages of the code: a command or option that is not there sends a reader astray."""
    app = importlib.import_module(f"{package}.__main__").app
    known = {command.name or command.callback.__name__ for command in app.registered_commands}
    known |= {group.name for group in app.registered_groups}
    texts = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "server" / "templates").rglob("*.txt")]
    texts += [path for name in PACKAGES for path in (ROOT / name).rglob("*.py")]
    named = {word for path in texts for word in re.findall(rf"python -m {package} ([a-z]+)", path.read_text())}
    assert len(named) > 5
    assert named <= known


# --- Carried to a hospital without internet ---

_LATER = 'print("the upgrade")\n'


@pytest.fixture
def carried(tmp_path: Path) -> Path:
    """Return a folder with what a build of the package needs, by the Makefile's own target, without any network."""
    source = tmp_path / "source"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("Makefile", "pyproject.toml", "constraints.txt", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, source)
    (source / ".venv").mkdir()
    (source / ".venv" / ".installed").touch()
    return source


def typed(lines: list[str], place: Path) -> str:
    """Type lines of a guide, the installation in a folder of this test, and fedreason alone in the wheelhouse."""
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0", "PYTHONPATH": ""}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    script = "set -e\n" + "\n".join(lines).replace("/opt/fedreason", str(place / "fedreason"))
    environment = os.environ | offline | {"PATH": path}
    done = subprocess.run(["bash", "-c", script], cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def told(guide: str, section: str) -> list[list[str]]:
    """Return the blocks of a guide's section, by line, without what only a machine with systemd takes."""
    text = (ROOT / "docs" / guide).read_text().partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    return [[line for line in block.splitlines() if not line.startswith("systemctl ")] for block in blocks]


@pytest.mark.federation
def test_an_upgrade_as_the_guide_tells_it_runs_what_was_carried_and_can_be_taken_back(
    carried: Path, tmp_path: Path
) -> None:
    make = ["make", "-s", "-C", str(carried), "wheelhouse", f"RUN={sys.executable}"]
    typed([shlex.join(make), f"ln -s {carried}/wheelhouse wheelhouse"], tmp_path)
    (_, install), (upgrade, back) = told("hospital.md", "Install"), told("hospital.md", "Upgrade")
    say = [f"{tmp_path}/fedreason/bin/python -c 'import common'"]
    assert "the upgrade" not in typed([*install, *say], tmp_path)
    (carried / "common" / "__init__.py").write_text(_LATER)
    (carried / "common" / "errors.py").unlink()
    (carried / "wheelhouse" / "fedreason-0.0.9-py3-none-any.whl").touch()
    typed([shlex.join(make)], tmp_path)
    pinned = (carried / "wheelhouse" / "requirements.txt").read_text().splitlines()
    assert [line.partition("==")[0] for line in pinned] == ["fedreason"], "an older wheelhouse is emptied"
    assert typed([*upgrade, *say], tmp_path).splitlines()[-1] == "the upgrade"
    assert not list(tmp_path.glob("fedreason/lib/*/site-packages/common/errors.py")), "it is gone from the source"
    assert "the upgrade" not in typed([*back, *say], tmp_path)


@pytest.mark.long
def test_the_version_of_a_wheelhouse_tells_of_which_source_it_was_made(carried: Path, tmp_path: Path) -> None:
    make = shlex.join(["make", "-s", "-C", str(carried), "wheelhouse", f"RUN={sys.executable}"])
    commit = "git -c user.name=a -c user.email=a@b.c commit -qm x"
    typed([f"cd {carried}", "git init -q .", "git add -A", commit, make], tmp_path)
    head = typed([f"cd {carried}", "git rev-parse HEAD"], tmp_path).strip()
    (wheel,) = (carried / "wheelhouse").glob("*.whl")
    base, _, build = wheel.name.split("-")[1].partition("+")
    assert base == PROJECT["project"]["version"] and build[0] == "g"
    assert len(build) >= 8 and head.startswith(build[1:])
