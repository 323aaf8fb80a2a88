"""Units of a study as tasks of Ray: on this machine's cores, or on a cluster that shares the study's folder."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import Code, FedReasonError
from simulation.study.units import Unit

LOCAL = "local"
"""Address of a cluster that is started here for this study alone."""
_POLL_SECONDS = 0.5
_CONNECT_SECONDS = 10.0

Event = dict[str, Any]


def do_by_ray(
    path: Path, runs: Path, units: Sequence[Unit], address: str, show: Callable[[Event], None]
) -> Mapping[str, Any] | None:
    """Do units, each as a task of one core; return the first refusal, None where all are done.

    Parameters
    ----------
    path, runs
        Study file and folder of the runs, as every machine of the cluster sees them.
    address
        Of the cluster; LOCAL starts one here.
    show
        Is told the units' events.

    Raises
    ------
    FedReasonError
        RUN_FAILED where no cluster answers, or a worker ended early.
    """
    import ray
    from ray.exceptions import RayError
    from ray.util.queue import Queue

    _connect(address)
    tasks: dict[Any, Unit] = {}
    try:
        events = Queue()
        task = ray.remote(num_cpus=1, max_retries=0)(_unit)
        tasks = {task.remote(path.absolute(), each.name, runs.absolute(), events): each for each in units}
        while tasks:
            done, _ = ray.wait(list(tasks), timeout=_POLL_SECONDS)
            for event in events.get_nowait_batch(events.qsize()):
                if "code" in event:
                    return dict(event)
                show(event)
            for one in done:
                ray.get(one)
                del tasks[one]
        return None
    except RayError as error:
        raise FedReasonError(
            Code.RUN_FAILED,
            f"A worker of the cluster ended early ({type(error).__name__}).",
            "Look at Ray's logs, then start the same command again: what is done is kept.",
        ) from None
    finally:
        for one in tasks:
            ray.cancel(one, force=True)
        ray.shutdown()


def _connect(address: str) -> None:
    import ray

    _require_answer(address)
    # One thread for each task, as in the processes of a study without Ray: the bits depend on it.
    environment = {"env_vars": {"OMP_NUM_THREADS": "1"}}
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        ray.init(
            address=address,
            include_dashboard=False if address == LOCAL else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            runtime_env=environment,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise _no_cluster(address, error) from None


def _require_answer(address: str) -> None:
    """Refuse an address at which nobody listens at all: Ray would try for minutes."""
    host, found, port = address.rpartition("://")[2].rpartition(":")
    if found and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            raise _no_cluster(address, error) from None


def _no_cluster(address: str, error: Exception) -> FedReasonError:
    return FedReasonError(
        Code.RUN_FAILED,
        f"No Ray cluster answers at {address} ({type(error).__name__}).",
        f"Start one by `ray start --head`, or say --address {LOCAL}.",
    )


def _unit(path: Path, name: str, runs: Path, events: Any) -> None:
    """Do one unit in a worker of the cluster; a refusal is told as an event."""
    from simulation.study.work import work

    work(path, [name], runs, events.put)
