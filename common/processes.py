"""Processes of ours: none outlives its parent, one that loads much starts sooner, which is which, who holds a lock."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.5


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """Import what is large: it stays until the end, so that the collector looks at it neither meanwhile nor later.

    Where all was imported before, nothing is made to stay: the same lines may be run again and again.
    """
    if not gc.isenabled():  # somebody who loads more is at it
        yield
        return
    known = len(sys.modules)
    gc.disable()
    try:
        yield
    finally:
        if len(sys.modules) > known:
            gc.freeze()
        gc.enable()


def die_with_parent() -> None:
    """Ask Linux to end this process with its parent, however that ends: for `preexec_fn` of `subprocess.Popen`."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def outlive_parent_by(seconds: float, parent: int | None = None) -> None:
    """Kill this process `seconds` after its parent ended, whatever it waits for; until then it may end by itself.

    Parameters
    ----------
    parent
        Process number of the parent, which may have ended before this is called; by default the present one.
    """
    parent = parent or os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_SECONDS)
        time.sleep(seconds)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def mark_of(process: int) -> str | None:
    """Return what tells a process from a later one of its number, and from those of another machine or boot.

    It is when the process started, in ticks of this boot; None where there is no such process, or it is a zombie.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] in "ZX" else f"{boot[:8]}-{fields[19]}"


def held(path: Path) -> bool:
    """Whether a process holds the lock of a file.

    Looked at by a lock that many may hold, so that two who look do not take each other for the holder.
    """
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError:  # another user's
        return seen_held(path)
    return False


def seen_held(path: Path) -> bool:
    """Whether a process that this one can see holds the lock of a file, as Linux lists it: no lock is taken."""
    try:
        number = f":{path.stat().st_ino}"
        locks = Path("/proc/locks").read_text()
    except OSError:
        return False
    rows = (line.split() for line in locks.splitlines())
    return any(row[3] == "WRITE" and row[5].endswith(number) for row in rows if len(row) == 8)
