"""Making a model is seen: how far it is, who makes it, and that nothing half made is ever taken for one."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli_w

import client.training.maker as maker
from bench.deployment import descendants
from bench.waiting import PATIENCE, until
from client.node.handlers import answer
from client.node.resident import Resident
from client.training.maker import require_made
from client.training.workplace import Workplace
from common import synthetic, tiny
from common.config import ModelConfig, RunConfig
from common.errors import Code, FedReasonError
from common.messages.frames import read_reply_frame, reply_frame
from common.messages.kinds import Refusal, Task
from common.model.making import STAGE, Progress, lines, read_progress, told
from common.tiny import Embedded
from tests.federations import command, joined, made, refused
from tests.paths import ROOT
from tests.small import small_config

_MAKES = """
import time
from pathlib import Path
import common.tiny as tiny
from common.model.making import Progress
def pretend(folder, report, *_):
    (folder / "config.json").write_text("{}")
    for step in range(1, 10_000):
        report(Progress("warming up", step, 9_999))
        time.sleep(0.05)
        if Path(FINISH).exists():
            return
tiny._make = pretend
"""


def started(cache: Path, finish: Path, *words: str) -> subprocess.Popen[str]:
    """Start `python -m client model`, whose model takes until the file `finish` is there."""
    script = f"{_MAKES.replace('FINISH', repr(str(finish)))}\nfrom client.__main__ import main\nmain()\n"
    return subprocess.Popen(
        [sys.executable, "-c", script, "model", *words],
        cwd=ROOT,
        env=os.environ | {"FEDREASON_CACHE": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kept(cache: Path) -> list[str]:
    """Names of the folders in a cache, whatever is hidden among them."""
    return [path.name for path in cache.iterdir() if path.is_dir()]


def progressing(cache: Path) -> bool:
    return any(read_progress(path) is not None for path in cache.glob("*.progress"))


def test_progress_is_told_and_kept_while_the_maker_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.model.making._BEAT_SECONDS", 0.01)
    heard: list[Progress] = []
    path = tmp_path / "x.progress"
    with told(path, heard.append) as tell:
        tell(Progress("warming up", 3, 9))
        until(lambda: heard.count(Progress("warming up", 3, 9)) > 3)
        assert read_progress(path) == Progress("warming up", 3, 9)
    assert str(heard[-1]) == "warming up, step 3 of 9"
    assert not path.exists()


def test_progress_that_nobody_renews_counts_as_none(tmp_path: Path) -> None:
    path = tmp_path / "x.progress"
    path.write_text(json.dumps({"doing": "warming up", "step": 1, "steps": 2}))
    assert read_progress(path) is not None
    os.utime(path, (time.time() - 60, time.time() - 60))
    assert read_progress(path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"doing": 1}', '{"doing": "x", "step": "y", "steps": 0}'])
def test_a_damaged_file_of_progress_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "x").write_text(text)
    assert read_progress(tmp_path / "x") is None


def test_lines_come_every_few_seconds_and_not_with_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("common.model.making.time.monotonic", lambda: now[0])
    heard: list[str] = []
    report = lines(heard.append)
    for second in range(21):
        now[0] = float(second)
        report(Progress("warming up", second, 20))
    assert heard == [f"warming up, step {s} of 20 ({s} s)" for s in (0, 5, 10, 15, 20)]


# --- python -m client model ---


@pytest.mark.federation
def test_a_second_command_waits_and_says_how_far_the_first_is_and_a_third_finds_it_there(tmp_path: Path) -> None:
    cache, finish = tmp_path / "cache", tmp_path / "finish"
    first = started(cache, finish)
    until(lambda: cache.exists() and progressing(cache))
    second = started(cache, finish)
    assert second.stderr is not None
    line = second.stderr.readline()
    assert line.startswith(f"{STAGE}: waiting for another process that makes it: "), line
    finish.touch()
    for process in (first, second):
        out, error = process.communicate(timeout=PATIENCE)
        assert process.returncode == 0 and out.endswith(": made\n"), error
    (name,) = kept(cache)
    assert sorted(path.name for path in cache.iterdir()) == [name, f"{name}.lock"]
    third = started(cache, finish)
    assert third.communicate(timeout=PATIENCE)[0].endswith(": there already\n")


@pytest.mark.federation
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_command_leaves_nothing_and_no_traceback(tmp_path: Path, number: signal.Signals) -> None:
    cache = tmp_path / "cache"
    process = started(cache, tmp_path / "never")
    until(lambda: cache.exists() and progressing(cache))
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 130 and "Traceback" not in error
    assert [path.suffix for path in cache.iterdir()] == [".lock"]


@pytest.mark.federation
def test_what_a_killed_maker_left_is_cleared_away_by_the_next_and_never_taken_for_a_model(tmp_path: Path) -> None:
    cache, finish = tmp_path / "cache", tmp_path / "finish"
    process = started(cache, finish)
    until(lambda: cache.exists() and progressing(cache))
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert len(kept(cache)) == 1 and kept(cache)[0].startswith(".")
    finish.touch()
    process = started(cache, finish)
    out, _ = process.communicate(timeout=PATIENCE)
    assert out.endswith(": made\n")
    assert len(kept(cache)) == 1 and not kept(cache)[0].startswith(".")


def test_a_run_of_another_base_has_nothing_to_make(tmp_path: Path) -> None:
    done = command("client", "model", "--run", "configs/qwen.toml", env=os.environ | {"FEDREASON_CACHE": str(tmp_path)})
    assert done.returncode == 0 and "nothing to make" in done.stdout
    assert not list(tmp_path.iterdir())


def test_a_cache_that_cannot_be_written_is_a_numbered_refusal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    error = refused(Code.MODEL_CACHE, lambda: tiny.tiny_model(tmp_path / "file"))
    assert str(tmp_path / "file") in error.found


# --- a site that has to make its model first ---


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Return a run of the embedded model, which is nowhere yet."""
    monkeypatch.setenv("FEDREASON_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(maker, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(maker, "_makers", {})
    config = small_config(Path("none"), questions={"codebook": "synthetic"})
    return config.model_copy(update={"model": ModelConfig(base="tiny")})


def make_by(function: Callable[[Embedded], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Have another function make the model in the process of its own; fork, so that it is found there."""
    monkeypatch.setattr(maker, "_make", function)
    monkeypatch.setattr(maker, "get_context", lambda _: multiprocessing.get_context("fork"))


def test_a_site_answers_how_far_its_model_is_until_it_is_there(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = tmp_path / "finish"

    def slowly(model: Embedded) -> None:
        def pretend(folder: Path, report: Callable[[Progress], None], *_: object) -> None:
            while not finish.exists():
                report(Progress("warming up", 7, 9))
                time.sleep(0.01)

        monkeypatch.setattr(tiny, "_make", pretend)
        monkeypatch.setattr("common.model.making._BEAT_SECONDS", 0.01)
        model.made()

    make_by(slowly, monkeypatch)
    refusals: list[FedReasonError] = []

    def told() -> bool:
        refusals.append(refused(Code.MODEL_MAKING, lambda: require_made(config, synthetic.codebook())))
        return "step 7 of 9" in refusals[-1].found

    until(told)
    assert isinstance(refusals[-1], maker.Making) and refusals[-1].progress == Progress("warming up", 7, 9)
    finish.touch()
    monkeypatch.setattr(maker, "ANSWER_SECONDS", 120.0)
    require_made(config, synthetic.codebook())
    assert Embedded.of().there


def test_a_maker_that_dies_is_a_passing_refusal_and_is_started_again(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"

    def dies(model: Embedded) -> None:
        with starts.open("a") as file:
            file.write("started\n")
        os._exit(9)

    make_by(dies, monkeypatch)
    monkeypatch.setattr(maker, "ANSWER_SECONDS", 120.0)
    for _ in range(2):
        assert "status 9" in refused(Code.SITE_WORKER, lambda: require_made(config, synthetic.codebook())).found
    assert starts.read_text() == "started\n" * 2


@pytest.mark.federation
def test_a_site_whose_model_is_being_made_answers_meanwhile_and_stopped_it_makes_nothing_more(
    config: RunConfig, tmp_path: Path
) -> None:
    """The real processes: node's handle, resident process and maker; the model itself is not waited for."""
    federation = made(tmp_path).federation
    (folder,) = joined(federation, "amc")
    synthetic.write_registry(tmp_path / "data", "north", 20, 1)
    site = tomllib.loads((folder / "site.toml").read_text())
    (folder / "site.toml").write_text(
        tomli_w.dumps(site | {"registry": {"path": str(tmp_path / "data" / "registry.csv")}})
    )
    (folder / "policy.toml").write_text('base_models = ["*"]\nmetrics = "plain"\n')
    roster = federation.roster()
    assert roster is not None
    named = config.federation.model_copy(update={"name": federation.name})
    task = Task(
        config.model_copy(update={"federation": named}), 0, 0, None, roster.sha256, federation.roster_file.read_text()
    )
    resident = Resident(folder)
    resident.start()
    try:
        while not resident.ready(1.0):
            pass
        for _ in range(2):
            resident.give("query", task)
            while (reply := resident.take(1.0)) is None:
                pass
            assert isinstance(reply, Refusal) and (reply.code, len(reply.progress or ())) == (408, 2), reply
        making = [pid for pid, line in descendants(os.getpid()).items() if "spawn_main" in line]
        assert len(making) == 1
    finally:
        resident.stop()
    until(lambda: not any("spawn_main" in line for line in descendants(os.getpid()).values()))
    until(lambda: not Path(f"/proc/{making[0]}/cmdline").exists())


def test_how_far_a_model_is_travels_with_the_number_and_nothing_else(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def making(site: Workplace, task: Task) -> None:
        raise maker.Making(task.config.name, Progress("SENTINEL", 7, 9))

    monkeypatch.setattr("client.node.handlers.resident_site", lambda folder: type("S", (), {"name": "amc"}))
    reply = answer(tmp_path, making, Task(config, 0, 0, None))  # type: ignore[arg-type]
    frame = reply_frame(reply)
    assert read_reply_frame(frame) == Refusal("amc", 408, (7, 9)) and b"SENTINEL" not in frame


@pytest.mark.parametrize("progress", ["7", [7], [7, "9"], {"step": 7}, [7, 9, 11], [0.5, 9]])
def test_progress_of_another_form_is_refused(progress: object) -> None:
    frame = reply_frame(Refusal("amc", 408, progress))  # type: ignore[arg-type]
    refused(Code.RUN_REPLY, lambda: read_reply_frame(frame))


def test_an_error_that_tells_progress_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(maker.Making("run", Progress("warming up", 1, 2))))
    assert (error.code, error.run, error.progress) == (Code.MODEL_MAKING, "run", Progress("warming up", 1, 2))
    assert isinstance(error, FedReasonError)
