"""The log of training: every step has its line, which survives a crash, holds no record, and stays at the site."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from bench.waiting import until
from client.site.config import LogConfig, load_site
from client.training.cli import table
from client.training.log import Entry, TrainingLog, log_folder, read_log, runs
from client.training.requests import contribute
from client.training.workplace import Workplace
from common import synthetic
from common.config import RunConfig
from common.errors import Code, FedReasonError
from server.rounds.loop import run_rounds
from server.rounds.store import RunStore
from simulation.arms import LocalExchange
from simulation.prepare import prepare
from tests.client.training.tasks import opened, task_of
from tests.paths import ROOT
from tests.sentinels import codebook as sentinel_codebook
from tests.sentinels import found_below, rows, site_of
from tests.small import PRIVACY, small_config
from tests.small_disk import needs_small_disk, on_small_disk


@pytest.fixture
def config(small_model: Path) -> RunConfig:
    return small_config(small_model, federation={"sampling_rate": 0.7})


def entry(round: int, **values: object) -> Entry:
    return replace(Entry("c", round, 0, 0, 1, 2, 0, 8), **values)  # type: ignore[arg-type]


# --- What is in it ---


def test_no_record_is_in_the_log_and_it_is_for_the_owner_alone(small_model: Path, tmp_path: Path) -> None:
    config = small_config(
        small_model,
        questions={"view": "full", "codebook_sha256": sentinel_codebook().sha256},
        federation={"sampling_rate": 1.0, "sites": 1, "quorum": 1},
        privacy=PRIVACY,
    )
    policy = {"base_models": ["*"], "patient": {"column": "case"}, "privacy": {"min_sites": 1, "min_answer_every": 0.0}}
    site = Workplace(site_of(tmp_path / "north", rows("north", 9), policy))
    contribute(site, task_of(site, config))
    path = log_folder(site.folder) / f"{config.name}.jsonl"
    assert len(read_log(site.folder, config.name)) == 1
    assert found_below(tmp_path) == {}
    modes = {each.name: stat.S_IMODE(each.stat().st_mode) for each in (path, path.parent)}
    assert modes == {"small.jsonl": 0o600, "training": 0o700}
    path.write_text(path.read_text() + json.dumps({"patient": rows("north", 1)[0]["case"]}))
    assert list(found_below(tmp_path)) == [str(path.relative_to(tmp_path))], "what is in it is looked at"


def test_the_log_of_every_site_has_every_round_of_a_run(small_model: Path, tmp_path: Path) -> None:
    config = small_config(small_model)
    sites = [Workplace(folder) for folder in prepare(config, synthetic.codebook(), tmp_path / "sites").values()]
    with RunStore.opened(tmp_path / "run", config) as store:
        run_rounds(config, LocalExchange(sites), store)
        mean = [row.counts for row in store.rounds()]
    logs = [read_log(site.folder, config.name) for site in sites]
    assert [[line.round for line in log] for log in logs] == [[1, 2, 3]] * 3
    for number, counts in enumerate(mean):
        assert counts is not None
        assert sum(log[number].patients for log in logs) == counts["patients"]


# --- Kept, torn, full ---


def test_a_torn_line_is_left_out_and_the_next_one_is_whole(config: RunConfig, tmp_path: Path) -> None:
    log = TrainingLog(tmp_path, LogConfig(), config)
    for number in (1, 2):
        log.write(entry(number))
    path = log_folder(tmp_path) / "small.jsonl"
    os.truncate(path, path.stat().st_size - 20)
    assert [line.round for line in read_log(tmp_path, "small")] == [1]
    TrainingLog(tmp_path, LogConfig(), config).write(entry(2, attempt=1))
    assert [(line.round, line.attempt) for line in read_log(tmp_path, "small")] == [(1, 0), (2, 1)]
    assert path.read_bytes().startswith(b'{"config":"c","round":1')


WRITER = """
    import sys
    from pathlib import Path
    from client.site.config import LogConfig
    from client.training.log import Entry, TrainingLog
    from common.config import RunConfig
    config = RunConfig.model_validate_json(sys.argv[2])
    log = TrainingLog(Path(sys.argv[1]), LogConfig(completions=2), config)
    print("up", flush=True)
    for number in range(1, 10**6):
        log.write(Entry("c", number, 0, 0, 1, 2, 0, 8), [{"item": "x" * 1000}])
"""


def test_a_killed_site_loses_no_line_that_was_written(config: RunConfig, tmp_path: Path) -> None:
    ends = []
    for _ in range(3):
        arguments = [sys.executable, "-c", textwrap.dedent(WRITER), str(tmp_path), config.model_dump_json()]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        written = len(read_log(tmp_path, "small"))
        until(lambda before=written: len(read_log(tmp_path, "small")) > before + 5)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        ends.append(len(read_log(tmp_path, "small")))
    numbers = [line.round for line in read_log(tmp_path, "small")]
    starts = [0, *ends]
    assert ends[0] > 5
    assert numbers == [n for a, b in zip(starts, ends, strict=False) for n in range(1, b - a + 1)]
    kept = (log_folder(tmp_path) / "completions" / "small.jsonl").read_text().splitlines()
    assert len(kept) == 2 and all(json.loads(line) for line in kept)


@needs_small_disk
def test_on_a_full_disk_training_goes_on_and_says_so_once() -> None:
    told = on_small_disk(
        f"""
        import logging
        from pathlib import Path
        from client.site.config import LogConfig
        from client.training.log import Entry, TrainingLog, read_log
        from common.config import RunConfig
        logging.basicConfig(format="%(message)s")
        config = RunConfig.model_validate({small_config(Path("tiny")).model_dump(by_alias=True)!r})
        site = Path("/mnt/site")
        log = TrainingLog(site, LogConfig(completions=1), config)
        log.write(Entry("c", 1, 0, 0, 1, 2, 0, 8))
        ballast = fill()
        for number in (2, 3, 4, 5, 6, 7, 8):
            log.write(Entry("c", number, 0, 0, 1, 2, 0, 8), [{{"text": "x" * 3000}}])
        ballast.truncate(0)
        log.write(Entry("c", 9, 0, 0, 1, 2, 0, 8))
        rounds = [entry.round for entry in read_log(site, "small")]
        assert rounds[0] == 1 and rounds[-1] == 9 and rounds == sorted(rounds), rounds
        """
    )
    assert told.splitlines() == ["/mnt/site/state/training cannot be written (OSError)"]


def test_a_number_that_is_not_finite_is_no_number_of_json(config: RunConfig, tmp_path: Path) -> None:
    TrainingLog(tmp_path, LogConfig(), config).write(entry(1, adapter_norm=float("nan"), kl=float("inf"), reward=0.5))
    text = (log_folder(tmp_path) / "small.jsonl").read_text()
    assert json.loads(text, parse_constant=pytest.fail)["reward"] == 0.5
    (line,) = read_log(tmp_path, "small")
    assert (line.adapter_norm, line.kl) == (None, None)


# --- Completions ---


def test_completions_are_kept_where_asked_for_those_of_the_last_rounds_and_removed_where_not(
    config: RunConfig, tmp_path: Path
) -> None:
    site = opened(tmp_path, config, completions=2)
    path = log_folder(site.folder) / "completions" / "small.jsonl"
    for number, attempt in ((1, 0), (2, 0), (3, 0), (3, 1)):
        contribute(site, task_of(site, config, number, attempt))
    kept = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(group["round"], group["attempt"]) for group in kept} == {(2, 0), (3, 0), (3, 1)}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = {(line.round, line.attempt): line for line in read_log(site.folder, "small")}
    for key in {(2, 0), (3, 0), (3, 1)}:
        given = [c for group in kept if (group["round"], group["attempt"]) == key for c in group["completions"]]
        assert np.mean([c["reward"] for c in given]) == pytest.approx(lines[key].reward)
        assert max(c["tokens"] for c in given) == lines[key].completion_longest
    boxed = [c["reward"] == (f"\\boxed{{{g['right']}}}" in c["text"]) for g in kept for c in g["completions"]]
    assert np.mean(boxed) > 0.9, "texts stand with their own rewards"
    toml = site.folder / "site.toml"
    toml.write_text(toml.read_text().replace("completions = 2", "completions = 0"))
    again = Workplace(site.folder)
    contribute(again, task_of(again, config, 3, attempt=2))
    assert not path.exists() and len(read_log(site.folder, "small")) == 5


# --- TensorBoard ---


def test_the_event_file_holds_the_same_numbers_and_a_restart_takes_back_what_comes_again(
    config: RunConfig, tmp_path: Path
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    site = opened(tmp_path, config, tensorboard=True)
    for number in (1, 2, 3):
        contribute(site, task_of(site, config, number))
    again = Workplace(site.folder)
    contribute(again, task_of(again, config, 3, attempt=1))
    (folder,) = (log_folder(site.folder) / "tensorboard").iterdir()
    events = EventAccumulator(str(folder))
    events.Reload()
    lines = read_log(site.folder, "small")
    assert [(line.round, line.attempt) for line in lines] == [(1, 0), (2, 0), (3, 0), (3, 1)]
    assert {"reward", "kl", "seconds_decode", "peak_bytes"} < set(events.Tags()["scalars"])
    for name in ("reward", "kl", "completion_tokens"):
        shown = [(scalar.step, scalar.value) for scalar in events.Scalars(name)]
        wanted = [getattr(lines[number], name) for number in (0, 1, 3)]
        assert [step for step, _ in shown] == [1, 2, 3]
        assert [value for _, value in shown] == pytest.approx(wanted)
    again.log(config).close()
    site.log(config).close()


def environment_without(folder: Path, missing: str) -> dict[str, str]:
    """Return the environment of an interpreter that has every package of this one but one."""
    (packages,) = {path for path in sys.path if path.endswith("site-packages")}
    folder.mkdir()
    for path in Path(packages).iterdir():
        if path.name != missing:
            (folder / path.name).symlink_to(path)
    return {**os.environ, "PYTHONPATH": f"{folder}:{ROOT}"}


def test_tensorboard_wanted_and_not_there_is_refused_at_the_start(config: RunConfig, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    folder = opened(tmp_path / "sites", config, tensorboard=True).folder
    script = (
        "import sys; from pathlib import Path; from client.site.config import load_site; load_site(Path(sys.argv[1]))"
    )
    told = {}
    for missing in ("tensorboard", "nothing"):
        done = subprocess.run(
            [sys.executable, "-S", "-c", script, str(folder)],
            env=environment_without(tmp_path / missing, missing),
            capture_output=True,
            text=True,
            check=False,
        )
        told[missing] = (done.returncode, done.stderr)
    assert told["nothing"] == (0, "")
    code, text = told["tensorboard"]
    assert code == 1 and f"E{Code.CONFIG_VALUE.value}" in text
    assert "log.tensorboard" in text and "pip install 'fedreason[tensorboard]'" in text


def test_an_unknown_option_of_the_log_is_refused(config: RunConfig, tmp_path: Path) -> None:
    with pytest.raises(FedReasonError) as caught:
        opened(tmp_path, config, wandb=True)
    assert caught.value.code == Code.CONFIG_UNKNOWN_KEY
    assert load_site(opened(tmp_path / "other", config).folder).log == LogConfig(tensorboard=False, completions=0)


# --- The command ---


def client(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "client", "training", *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "160"},
    )


def test_the_command_shows_the_last_steps_of_the_latest_run(config: RunConfig, tmp_path: Path) -> None:
    (tmp_path / "site.toml").touch()
    assert "Nothing was trained" in client("--site", str(tmp_path)).stderr
    for name, count in (("first", 2), ("small", 4)):
        log = TrainingLog(tmp_path, LogConfig(), config.model_copy(update={"name": name}))
        for number in range(1, count + 1):
            log.write(entry(number, config="other" if number == 1 else "c", reward=number / 8, peak_bytes=10**9))
        time.sleep(0.01)
    assert runs(tmp_path) == ["first", "small"]
    shown = client("--site", str(tmp_path), "--last", "2")
    assert shown.returncode == 0 and "small" in shown.stderr
    _, *rows, energy = shown.stdout.splitlines()
    assert [line.split()[:3] for line in rows] == [["3", "1", "0.375"], ["4", "1", "0.500"]]
    assert energy.startswith("Energy of ")
    told = json.loads(client("--site", str(tmp_path), "--run", "first", "--json").stdout)
    assert [line["round"] for line in told] == [2], "a run of another configuration under the same name is another run"
    refused = client("--site", str(tmp_path), "--run", "third")
    assert refused.returncode != 0 and "first, small" in refused.stderr


def test_the_command_needs_no_model_libraries(tmp_path: Path) -> None:
    script = "import sys, client.__main__, client.training.log; print({'torch', 'peft', 'flwr'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == "set()\n"


def test_a_table_shows_steps_and_what_was_asked_again() -> None:
    screen = StringIO()
    again = entry(3, step=1, attempt=2, clipped=0.25, kl=0.0123, truncated=0.5)
    Console(file=screen, width=160).print(table([entry(3), again]))
    _, first, second = screen.getvalue().splitlines()
    assert first.split() == ["3", "1"]
    assert second.startswith("3, step 2, again 2")
    assert {"25%", "0.0123", "50%"} <= set(second.split())
