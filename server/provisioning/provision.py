"""Make a federation: its certificates, the coordinator's folder and a kit for each site.

Everything is written into a new folder that gets its name last, so that what was interrupted leaves no half federation.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from common import synthetic
from common.codebook import ROW, load_codebook
from common.errors import Code, FedReasonError
from common.fresh import fresh_folder
from common.identity.keys import (
    fingerprint,
    load_signing_key,
    new_signing_key,
    private_folder,
    save_key,
    write_private,
)
from common.identity.kit import CA, CODEBOOK, COORDINATOR_KEY, EDITABLE, MANIFEST, sign_kit
from common.toml import validated
from server.provisioning.certificates import new_ca, new_server_certificate
from server.provisioning.federation import COORDINATOR, Federation, FederationConfig


@dataclass(frozen=True)
class Provisioned:
    """What was made: the coordinator's folder, the kits, and the fingerprint that sites ask for."""

    federation: Federation
    kits: tuple[Path, ...]
    fingerprint: str

    def lines(self) -> list[str]:
        """Say it in words."""
        return [
            f"{self.federation.folder}: your own folder, to be kept private and backed up",
            *(f"{kit}: to be sent to {kit.name}" for kit in self.kits),
            f"Your key's fingerprint, which every site asks you for by telephone: {self.fingerprint}",
        ]


def provision(
    *,
    name: str,
    hosts: Sequence[str],
    sites: Sequence[str],
    out: Path,
    port: int = 9092,
    superlink_port: int = 9093,
    codebook: Path | None = None,
) -> Provisioned:
    """Make a federation in the new folder `out`.

    Parameters
    ----------
    name
        Name of the federation.
    hosts
        Names or addresses at which sites reach the coordinator; kits state the first, the certificate is for all.
    sites
        Names of the sites.
    out
        Holds `coordinator` and one folder a site afterwards.
    port
        Public port, at the reverse proxy.
    superlink_port
        Port of the SuperLink, on loopback alone.
    codebook
        The federation's codebook; None for that of the synthetic registry.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE for a name, host or port that cannot be one, KIT_EXISTS where `out` holds anything.
    """
    config = _checked(name, hosts, sites, port, superlink_port)
    content = _codebook(codebook)
    with fresh_folder(out) as new:
        federation = Federation(new / COORDINATOR, config)
        private_folder(federation.folder)
        federation.save()
        private_folder(federation.certificates)
        ca = new_ca(name)
        ca.save(federation.ca_certificate, federation.ca_key)
        new_server_certificate(ca, config.hosts).save(federation.server_certificate, federation.server_key)
        save_key(federation.signing_key, new_signing_key(), f"coordinator@{name}")
        write_private(federation.codebook, content)
        for folder in (federation.rosters, federation.nodes, federation.runs):
            private_folder(folder)
        for site in config.sites:
            _write_kit(federation, site, new / site)
        told = fingerprint(federation.signer)
    made = Federation.open(out / COORDINATOR)
    return Provisioned(made, tuple(made.folder.parent / site for site in config.sites), told)


def add_kit(federation: Federation, site: str, out: Path | None = None) -> Path:
    """Make the kit of a site that joins later, or a lost kit once more; the site is added to federation.toml.

    Raises
    ------
    FedReasonError
        CONFIG_VALUE for a name that cannot be one, KIT_EXISTS where the kit's folder holds anything.
    """
    target = out or federation.folder.parent / site
    with federation.locked():
        config = Federation.open(federation.folder).config
        if site not in config.sites:
            config = _checked(config.name, config.hosts, (*config.sites, site), config.port, config.superlink_port)
        with fresh_folder(target) as new:
            _write_kit(Federation(federation.folder, config), site, new)
            Federation(federation.folder, config).save()
    return target


def _checked(name: str, hosts: Sequence[str], sites: Sequence[str], port: int, superlink_port: int) -> FederationConfig:
    table: dict[str, object] = {
        "name": name,
        "host": hosts[0] if hosts else "",
        "other_hosts": list(hosts[1:]),
        "sites": list(sites),
    }
    table |= {"port": port, "superlink_port": superlink_port}
    value = Code.CONFIG_VALUE
    return validated(FederationConfig, table, path=Path("What was asked for"), text="", unknown=value, value=value)


def _codebook(path: Path | None) -> bytes:
    """Return the codebook's content, once it is known to be one."""
    if path is None:
        return synthetic.codebook().to_toml().encode()
    if load_codebook(path).private:
        raise FedReasonError(
            Code.CODEBOOK_PRIVATE,
            f"{path} was drafted from records (private = true), and kits go to every site.",
            "Have a person replace what came from the data by what is publicly known, then remove that line.",
        )
    return path.read_bytes()


def _write_kit(federation: Federation, site: str, folder: Path) -> None:
    private_folder(folder)
    config = federation.config
    rule = "=" * len(f"Kit of {site} for the federation {config.name}")
    values = {"site": site, "federation": config.name, "coordinator": config.address, "rule": rule}
    values["column"] = _column(federation.codebook)
    content = {name: _template(name, values) for name in EDITABLE}
    content[CA] = federation.ca_certificate.read_bytes()
    content[CODEBOOK] = federation.codebook.read_bytes()
    content[COORDINATOR_KEY] = federation.signing_key.with_name("signing.pub").read_bytes()
    content[MANIFEST] = sign_kit(config.name, site, content, load_signing_key(federation.signing_key)).encode()
    for name, written in content.items():
        write_private(folder / name, written)


def _column(codebook: Path) -> str:
    """Return the line of policy.toml that names the patient's column; the site has to where the codebook does not."""
    patient = load_codebook(codebook).patient
    if patient == ROW:
        return '# column = "patient_id"    # to be filled in: the codebook names none, and no private run is accepted'
    return f"column = {json.dumps(patient, ensure_ascii=False)}"


def _template(name: str, values: dict[str, str]) -> bytes:
    text = (files("server") / "templates" / "kit" / name).read_text(encoding="utf-8")
    return Template(text).substitute(values).encode()
