"""A disk of 64 KiB to fill: a script runs in a mount namespace of its own, where /mnt is that disk."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

from tests.paths import ROOT

_MOUNT = "mount -t tmpfs -o size=64k none /mnt"
_CAN_MOUNT = (
    shutil.which("unshare") is not None
    and subprocess.run(["unshare", "-rm", "sh", "-c", _MOUNT], capture_output=True, check=False).returncode == 0
)
needs_small_disk = pytest.mark.skipif(not _CAN_MOUNT, reason="needs a mount namespace of its own")

_FILL = """
def fill():
    ballast = open("/mnt/ballast", "wb", buffering=0)
    try:
        while True:
            ballast.write(b"x" * 512)
    except OSError:
        return ballast
"""


def on_small_disk(script: str) -> str:
    """Run a script, in which `fill()` fills the disk and returns what fills it; return what it logged."""
    whole = _FILL + textwrap.dedent(script)
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", f'{_MOUNT} && exec "$0" -c "$1"', sys.executable, whole],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr
