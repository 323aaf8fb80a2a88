"""A run that is killed, told to stop or out of disk keeps its checkpoint and goes on with the same bits."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from flwr.app import Error

from bench.waiting import PATIENCE
from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Layout, Refusal
from server.provisioning.federation import Federation
from tests.paths import ROOT
from tests.scripted_grid import ScriptedGrid, federation_of, run
from tests.server.rounds.faults.scene import ROUNDS, SITES, Stopped, nodes, standing, stop_after
from tests.small_disk import needs_small_disk, on_small_disk


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_a_run_killed_after_any_round_ends_with_the_bits_of_an_undisturbed_one(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path, stop: int
) -> None:
    with pytest.raises(Stopped):
        run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation, stop_after(stop))
    sites = nodes()
    assert run(config, ScriptedGrid(*sites), tmp_path / "run", federation) == undisturbed
    assert [number for kind, number in sites[0].asked if kind == "train"] == list(range(stop + 1, ROUNDS + 1))


def test_a_finished_run_is_not_started_again(config: RunConfig, federation: Federation, tmp_path: Path) -> None:
    first = run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation)
    assert run(config, ScriptedGrid(), tmp_path / "run", federation) == first
    assert standing(tmp_path / "run").state == "finished"


def test_sites_left_out_of_a_round_leave_the_sum_of_the_others(
    config: RunConfig, federation: Federation, tmp_path: Path
) -> None:
    """The same participants give the same bits, whatever kept the third site away."""
    config = federation_of(config, quorum=2)
    hashes = []
    for name, reply in (("policy", Refusal("west", 832)), ("failed", Error(1)), ("wrong", Layout("west", 4, "0" * 64))):
        north, south, west = nodes()
        west.but("train", reply)
        hashes.append(run(config, ScriptedGrid(north, south, west), tmp_path / name, federation))
    assert len(set(hashes)) == 1


@pytest.mark.federation
def test_sigterm_ends_the_run_promptly_with_its_checkpoint_and_its_standing(
    config: RunConfig, federation: Federation, undisturbed: str, tmp_path: Path
) -> None:
    """Flower's own handler raises SystemExit from wherever the ServerApp is."""
    script = textwrap.dedent(f"""
        import signal, sys
        from pathlib import Path
        from flwr.supercore.task_identity import TaskIdentity
        from common.config import RunConfig
        from server.provisioning.federation import Federation
        from tests.scripted_grid import Node, ScriptedGrid, run

        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
        TaskIdentity.task_id = TaskIdentity.run_id = TaskIdentity.node_id = 1
        config = RunConfig.model_validate_json({config.model_dump_json()!r})
        sites = [Node(number, site) for number, site in enumerate({SITES!r}, start=1)]
        sites[0].but("train", None, number=3)
        grid = ScriptedGrid(*sites, script=lambda step: print(flush=True) if sites[0].times("train", 3) else None)
        run(config, grid, Path({str(tmp_path / "run")!r}), Federation.open(Path({str(federation.folder)!r})))
    """)
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=PATIENCE) == 0, "ended by the signal, not by the deadline of the round"
    now = standing(tmp_path / "run")
    assert (now.state, now.round, now.code) == ("aborted", 3, Code.RUN_ABORTED)
    assert run(config, ScriptedGrid(*nodes()), tmp_path / "run", federation) == undisturbed


@needs_small_disk
def test_a_full_disk_stops_the_run_by_its_number_and_keeps_the_last_checkpoint(config: RunConfig) -> None:
    on_small_disk(f"""
        from pathlib import Path
        import numpy as np
        from common.config import RunConfig
        from common.errors import Code, FedReasonError
        from server.rounds.store import Checkpoint, RunStore, RoundRow

        config = RunConfig.model_validate_json({config.model_dump_json()!r})
        with RunStore.opened(Path("/mnt/run"), config) as store:
            def save(number, size):
                store.save(Checkpoint(number, np.ones(size, dtype=np.float32), {{}}))

            save(1, 1000)
            ballast = fill()
            codes = []
            row = dict(seconds=1.0, refused={{}}, bytes_up=0, bytes_down=0, counts=None, gradient_norm=0.0)
            big = RoundRow(round=2, sites=["x" * 9999], adapter_sha256="", **row)
            for write in (lambda: save(2, 2000), lambda: store.record(big)):
                try:
                    write()
                except FedReasonError as error:
                    codes.append(error.code)
            assert codes == [Code.DISK_FULL] * 2, codes
            assert not list(Path("/mnt/run").glob("*.new"))
            ballast.truncate(0)
            kept = store.load()
            assert kept.round == 1 and kept.adapter.tolist() == [1.0] * 1000
            save(2, 2000)
    """)
