"""`deploy/` of a federation: nginx, systemd and compose, filled in for its folder, names and ports.

Written anew by each `up`; the keys that nginx lets through by each change of the roster, too. The templates mark what
is filled in by `@`, since nginx and compose use `$` themselves.
"""

from __future__ import annotations

import base64
import grp
import os
import re
import shutil
import sys
from collections.abc import Iterable
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from common.access import user_name
from common.errors import Code, FedReasonError
from common.identity.keys import node_public_key, private_folder, write_private
from common.identity.roster import Member
from server.provisioning.federation import FILE, Federation

TEMPLATES = (
    "nginx.conf",
    "compose.yaml",
    "Dockerfile",
    "systemd/fedreason-coordinator.service",
    "systemd/fedreason-proxy.service",
)
_BODILESS = (
    "activate-node",
    "confirm-message-received",
    "deactivate-node",
    "get-fab",
    "get-run",
    "pull-messages",
    "pull-object",
    "register-node",
    "send-node-heartbeat",
    "unregister-node",
)
"""What a node of Flower 1.41 calls below /v1/fleet/, but for push-messages and push-object, which carry a body."""
_PART_MEGABYTES = 6
_KEY_HEAD = 200
"""A file's name has 255 characters at most, and a key more: so many of them are the folder's name."""
_LOGS = ("access.log", "error.log")
_LOG_BYTES = 5_000_000
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_UNTOLD = re.compile(r"[\"'$%\\@\n]")


class _AtTemplate(Template):
    """A template whose places are marked by `@`."""

    delimiter = "@"


def render(federation: Federation) -> Path:
    """Write the files of `deploy/` and return that folder.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE where the folder's path holds a character that these programs cannot be told, RUN_LOCKED where
        another command has been changing the federation for 15 s.
    """
    values = _values(federation)
    for path in (federation.folder, Path(sys.executable)):
        if _UNTOLD.search(str(path)):
            raise FedReasonError(
                Code.CONFIG_VALUE,
                f"The path {path} holds one of the characters \" ' $ % \\ @.",
                f"nginx and systemd cannot be told that: move the folder ({FILE} lies in it) to a plainer path.",
            )
    for place in ("nginx", "systemd"):
        private_folder(federation.deploy / place)
    for name in TEMPLATES:
        template = files("server") / "templates" / "deploy" / name
        text = _AtTemplate(template.read_text(encoding="utf-8")).substitute(values)
        write_private(federation.deploy / name, text.encode())
    with federation.locked():  # a site that is admitted or revoked meanwhile would else be put back
        roster = federation.roster()
        write_admitted_keys(federation, roster.members if roster else ())
    return federation.deploy


def write_admitted_keys(federation: Federation, members: Iterable[Member]) -> None:
    """Make nginx let through the node keys of these members, and no others; it looks at the files as they are now.

    The federation is to be locked from when its members are read.
    """
    folder = federation.deploy / "nginx" / "admitted"
    wanted = {folder / text[:_KEY_HEAD] / text[_KEY_HEAD:] for text in map(_as_sent, members)}
    for path in folder.glob("*/*"):  # first: it works on a full disk too
        if path not in wanted:
            path.unlink()
    for path in wanted:
        if not path.exists():
            private_folder(path.parent)
            write_private(path, b"")


def _as_sent(member: Member) -> str:
    """Return a node's public key as Flower sends it: base64 of PEM, which is ASCII, so that no slash is in it."""
    pem = node_public_key(member.node_key).public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(pem).decode()


def proxy_command(federation: Federation) -> list[str]:
    """Command line of the reverse proxy."""
    return [_nginx(), "-p", str(federation.deploy), "-c", "nginx.conf", "-e", "nginx/error.log"]


def _nginx() -> str:
    return shutil.which("nginx", path=os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))) or "nginx"


def _values(federation: Federation) -> dict[str, object]:
    owner, config = federation.folder.stat(), federation.config
    six = f"listen [::]:{config.port} ssl ipv6only=on;"
    at_home = any(path.is_relative_to(home) for home in _HOMES for path in (federation.folder, Path(sys.executable)))
    nginx = _nginx()
    sites = len(config.sites)
    uploads = 16 + 4 * sites
    return {
        "name": federation.name,
        "folder": federation.folder,
        "certificates": federation.certificates,
        "port": config.port,
        "superlink_port": config.superlink_port,
        "listen6": six if ":" in config.host else f"# {six}",
        "user": user_name(owner.st_uid),
        "group": _group(owner.st_gid),
        "uid": owner.st_uid,
        "gid": owner.st_gid,
        "python": sys.executable,
        "nginx": nginx if nginx.startswith("/") else f"/usr/sbin/{nginx}",
        "home": "read-only" if at_home else "yes",
        "capabilities": "CAP_NET_BIND_SERVICE" if config.port < 1024 else "",
        "project": re.sub(r"[^a-z0-9_-]", "-", federation.name.lower()),
        "version": version("fedreason").partition("+")[0],  # an image's tag has no +
        "small_paths": "|".join(_BODILESS),
        "sites": sites,
        "connections": 32 + 8 * sites,
        "requests": 50 + 25 * sites,
        "uploads": 20 + 10 * sites,
        "uploads_at_once": uploads,
        "uploads_of_all": 4 * uploads,
        "body_disk": 4 * uploads * _PART_MEGABYTES,
        "part": _PART_MEGABYTES,
        "key_head": _KEY_HEAD,
    }


def trim_logs(federation: Federation) -> None:
    """Keep the proxy's logs small: what is longer than 5 MB becomes `.1`, and nginx, which appends, begins anew.

    On a full disk the log begins anew all the same, and its lines are lost: it is what fills the disk.
    """
    for name in _LOGS:
        log = federation.deploy / "nginx" / name
        if log.exists() and log.stat().st_size > _LOG_BYTES:
            try:
                with log.open("rb") as file:
                    file.seek(-_LOG_BYTES, os.SEEK_END)
                    write_private(log.with_name(f"{name}.1"), file.read(_LOG_BYTES))
            finally:
                os.truncate(log, 0)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
