"""The coordinator's folder of one federation: what it is called, whom it is for, and where everything lies in it."""

from __future__ import annotations

import ipaddress
import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tomli_w
from filelock import FileLock, Timeout
from pydantic import AfterValidator, Field, field_validator

from common.access import is_there
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.identity.keys import read_public, write_private
from common.identity.roster import Name, Roster, read_roster
from common.toml import Strict, read_toml, validated

FILE = "federation.toml"
COORDINATOR = "coordinator"
"""Name of the coordinator's folder beside the kits, and therefore of no site."""
_VARIABLE = "FEDREASON_FEDERATION"
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)", re.IGNORECASE)
_LOCK_SECONDS = 15.0


def _address(host: str) -> str:
    """Check a host name or an IP address, without port or brackets."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError(f"{host} is no host name or IP address (no port, no https://)")
    return host.lower()


Host = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]


class FederationConfig(Strict):
    """Content of federation.toml.

    Sites reach the reverse proxy at `host`:`port`, or by one of `other_hosts`; `superlink_port` is on loopback alone.
    """

    name: Name
    host: Host
    other_hosts: tuple[Host, ...] = ()
    port: Port = 9092
    superlink_port: Port = 9093
    sites: tuple[Name, ...] = Field(min_length=1)

    @field_validator("sites")
    @classmethod
    def _usable(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        counts = Counter(name.lower() for name in value)
        if twice := [name for name in value if counts[name.lower()] > 1]:
            raise ValueError(f"these names are the same: {', '.join(twice)}")
        if COORDINATOR in counts:
            raise ValueError(f"{COORDINATOR} is the name of the coordinator's own folder, not of a site")
        return value

    @property
    def address(self) -> str:
        """What sites connect to, host:port."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def hosts(self) -> tuple[str, ...]:
        """Every name and address that the server certificate is for, besides loopback."""
        return (self.host, *self.other_hosts)

    def to_toml(self) -> str:
        """Write it as it would be read."""
        return tomli_w.dumps(self.model_dump(mode="json"))


@dataclass(frozen=True)
class Federation:
    """A federation's folder, opened."""

    folder: Path
    config: FederationConfig

    @classmethod
    def open(cls, folder: Path) -> Federation:
        """Read `federation.toml` of a folder.

        Raises
        ------
        FedReasonError
            Where it cannot be read, holds an unknown key or a bad value.
        """
        folder = folder.expanduser().resolve()
        path = folder / FILE
        table, text = read_toml(path, missing=Code.FEDERATION_MISSING, syntax=Code.CONFIG_SYNTAX)
        unknown, value = Code.CONFIG_UNKNOWN_KEY, Code.CONFIG_VALUE
        config = validated(FederationConfig, table, path=path, text=text, unknown=unknown, value=value)
        return cls(folder, config)

    @property
    def name(self) -> str:
        """Name of the federation."""
        return self.config.name

    def require_own(self, run: RunConfig) -> None:
        """Refuse a run that calls its federation otherwise, as every site would.

        Raises
        ------
        FedReasonError
            FEDERATION_OTHER.
        """
        if run.federation.name != self.name:
            raise FedReasonError(
                Code.FEDERATION_OTHER,
                f"Run '{run.name}' says federation.name = {run.federation.name!r}, this federation is {self.name!r}.",
                "Correct it in the run's configuration: every site compares it with its site.toml.",
            )

    @property
    def certificates(self) -> Path:
        """Folder of the certificates and their keys."""
        return self.folder / "certificates"

    @property
    def ca_certificate(self) -> Path:
        """Certificate of the federation's own CA, which every site has."""
        return self.certificates / "ca.crt"

    @property
    def ca_key(self) -> Path:
        """Key of the CA; wanted only to renew the server's certificate."""
        return self.certificates / "ca.key"

    @property
    def server_certificate(self) -> Path:
        """Certificate of the SuperLink and the reverse proxy."""
        return self.certificates / "server.crt"

    @property
    def server_key(self) -> Path:
        """Key of the server certificate."""
        return self.certificates / "server.key"

    @property
    def signing_key(self) -> Path:
        """Ed25519 key that signs the rosters."""
        return self.folder / "keys" / "signing"

    @property
    def signer(self) -> str:
        """Public half of the signing key, which every site has as coordinator.pub."""
        return read_public(self.signing_key.with_name("signing.pub"))

    @property
    def codebook(self) -> Path:
        """The federation's codebook, the same in every kit."""
        return self.folder / "codebook.toml"

    @property
    def roster_file(self) -> Path:
        """The current signed roster."""
        return self.folder / "roster.json"

    @property
    def rosters(self) -> Path:
        """Folder of every version that was signed."""
        return self.folder / "rosters"

    @property
    def nodes(self) -> Path:
        """Folder of the admitted sites' keys at the SuperLink."""
        return self.folder / "nodes"

    def node_key(self, site: str) -> Path:
        """Public P-384 key of an admitted site."""
        return self.nodes / f"{site}.pub"

    @property
    def nodes_file(self) -> Path:
        """Which node id of the SuperLink is which site."""
        return self.folder / "nodes.json"

    @property
    def superlink(self) -> Path:
        """Folder of the SuperLink's state, secret and logs."""
        return self.folder / "superlink"

    @property
    def flower_home(self) -> Path:
        """FLWR_HOME of the commands that speak to this federation's SuperLink."""
        return self.folder / "flower"

    @property
    def deploy(self) -> Path:
        """Folder of the configuration of nginx, systemd and compose for this federation."""
        return self.folder / "deploy"

    @property
    def runs(self) -> Path:
        """Folder that holds the run folders."""
        return self.folder / "runs"

    def roster(self) -> Roster | None:
        """Return the current roster, None before the first site is admitted.

        Raises
        ------
        FedReasonError
            Where it is not one that this coordinator signed.
        """
        return read_roster(self.roster_file, self.signer) if self.roster_file.exists() else None

    def roster_of(self, run: RunConfig) -> tuple[str | None, Roster | None]:
        """Return the roster that a run starts with, as its text and read; none before the first site is admitted.

        Raises
        ------
        FedReasonError
            Where the coordinator did not sign it, or it has more sites than the run's configuration states.
        """
        if not self.roster_file.exists():
            return None, None
        text = self.roster_file.read_text(encoding="utf-8-sig")
        roster = read_roster(text, self.signer)
        members, stated = len(roster.sites), run.federation.sites
        if members > stated:
            raise FedReasonError(
                Code.CONFIG_VALUE,
                f"The federation has {members} sites, the run states federation.sites = {stated}.",
                "State the number of the federation's sites; federation.quorum may be smaller.",
            )
        return text, roster

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from changing the federation meanwhile.

        Raises
        ------
        FedReasonError
            Where another one does so for more than 15 s.
        """
        try:
            with FileLock(self.folder / ".lock", timeout=_LOCK_SECONDS, mode=0o600):
                yield
        except Timeout:
            raise FedReasonError(
                Code.RUN_LOCKED, f"Another command is changing {self.folder}.", "Wait for it, then repeat this one."
            ) from None

    def save(self) -> None:
        """Write `federation.toml`."""
        write_private(self.folder / FILE, self.config.to_toml().encode())


def find_federation(option: Path | None = None) -> Federation:
    """Open the federation of `--federation`, else of FEDREASON_FEDERATION, else `kits/coordinator`, else this folder.

    Raises
    ------
    FedReasonError
        FEDERATION_MISSING where there is none, FILE_FORBIDDEN where it is another user's.
    """
    named = option or (Path(os.environ[_VARIABLE]) if os.environ.get(_VARIABLE) else None)
    if named is not None:
        if not is_there(named.expanduser() / FILE):
            raise FedReasonError(
                Code.FEDERATION_MISSING,
                f"{named} holds no {FILE}.",
                f"Name the coordinator's folder by --federation or {_VARIABLE}.",
            )
        return Federation.open(named)
    for folder in (Path("kits") / COORDINATOR, Path()):
        if is_there(folder / FILE):
            return Federation.open(folder)
    raise FedReasonError(
        Code.FEDERATION_MISSING,
        f"Neither kits/{COORDINATOR} nor this folder holds a {FILE}.",
        f"Name the coordinator's folder by --federation or {_VARIABLE}; `python -m server provision` makes one.",
    )
