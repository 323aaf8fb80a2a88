"""A real PostgreSQL in a temporary folder, for the time of a test.

A shell holds it: when the pipe to that shell closes, as it does however the test's process ends, the server is stopped
and its folder removed.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from bench.deployment import free_port
from bench.waiting import until

USER = "postgres"
_SCRIPT = """
"$@" >"$0/log" 2>&1 &
cat >/dev/null
kill -QUIT $! && wait $!
cd / && rm -rf "$0"
"""
_CLUSTER = ("-A", "scram-sha-256", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions")
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off", "max_connections=20", "shared_buffers=16MB")


def missing() -> str:
    """Why no PostgreSQL can be started here, or ''."""
    if _binaries() is None:
        return "PostgreSQL is not installed"
    if find_spec("psycopg") is None:
        return "psycopg is not installed (extra postgres)"
    if os.geteuid() == 0:
        import pwd

        if USER not in {entry.pw_name for entry in pwd.getpwall()}:
            return f"PostgreSQL does not run as root, and there is no user {USER}"
    return ""


@contextmanager
def postgres() -> Iterator[str]:
    """Yield the URL of a superuser of a fresh server on loopback: password by scram, UTF-8, database `postgres`."""
    binaries = _binaries()
    assert binaries is not None, missing()
    user = USER if os.geteuid() == 0 else None
    folder = Path(tempfile.mkdtemp(prefix="fedreason-postgres-"))
    try:
        password, port = secrets.token_urlsafe(16), free_port()
        (folder / "password").write_text(password)
        if user:
            for path in (folder, folder / "password"):
                shutil.chown(path, user, user)
        made = subprocess.run(
            [binaries / "initdb", "-D", "data", "-U", USER, "--pwfile=password", *_CLUSTER],
            capture_output=True,
            text=True,
            cwd=folder,
            user=user,
            group=user,
            extra_groups=[] if user else None,
        )
        assert made.returncode == 0, made.stderr
        settings = [f"port={port}", "listen_addresses=127.0.0.1", "unix_socket_directories=", *_FAST]
        options = [f"--{setting}" for setting in settings]
        shell = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT, folder, binaries / "postgres", "-D", folder / "data", *options],
            stdin=subprocess.PIPE,
            cwd=folder,
            user=user,
            group=user,
            extra_groups=[] if user else None,
            start_new_session=True,  # an interrupt from the keyboard is for the test alone
        )
        try:
            _wait_until_ready(binaries, port, folder / "log")
            yield f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}/postgres"
        finally:
            assert shell.stdin is not None
            shell.stdin.close()
            shell.wait()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _binaries() -> Path | None:
    """Folder of `initdb` and `postgres`: of those in PATH, else the newest that Debian keeps."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    versions = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(versions, key=lambda path: int(path.parent.name), default=None)


def _wait_until_ready(binaries: Path, port: int, log: Path) -> None:
    ready = [str(binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
    until(
        lambda: subprocess.run(ready).returncode == 0,
        lambda: log.read_text() if log.exists() else "PostgreSQL did not start.",
    )
