"""What `python -m client units` writes: a site in a container of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from client.privacy.budget import marks_of
from client.privacy.claims import Claim, claim
from client.site.config import SiteConfig
from common.errors import Code
from tests.federations import refused
from tests.paths import ROOT

TEMPLATES = ROOT / "client" / "templates"
SITES = "/var/lib/fedreason/sites"


def filled_in(site: str, registry: str) -> dict[str, Any]:
    """Return the compose file with the settings of a site put in, as compose does."""
    settings = {
        "SITE": site,
        "SITES_FOLDER": SITES,
        "REGISTRY_FOLDER": registry,
        "RECORD_FOLDER": "/var/lib/fedreason/record",
        "SITE_UID": "998",
        "SITE_GID": "998",
    }
    text = (TEMPLATES / "compose.yaml").read_text()
    filled = re.sub(r"\$\{(\w+)(?::\?[^}]*)?\}", lambda found: settings[found[1]], text)
    return yaml.safe_load(filled)  # type: ignore[no-any-return]


def charge(site: str, registry: str, ledger: str) -> None:
    """Write into the machine's record, as the site in a container does, that its ledger counts for its registry."""
    service = filled_in(site, registry)["services"]["site"]
    record, home, records = (volume.split(":")[1] for volume in service["volumes"])
    assert service["environment"]["FEDREASON_STATE"].startswith(record)
    assert f"{service['environment']['FEDREASON_HOME']}/{service['command'][-1]}" == home
    config = SiteConfig.model_validate({"name": site, "registry": {"path": f"{records}/registry.csv"}})
    claim(marks_of(config), Claim(ledger=ledger, site=Path(home)))


def test_two_sites_in_containers_of_one_machine_are_two_and_those_of_one_registry_are_told_where_the_other_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FEDREASON_STATE", str(tmp_path / "record"))
    assert filled_in("amc", "/data/amc")["name"] != filled_in("snubh", "/data/snubh")["name"], "one would end the other"
    charge("amc", "/data/amc", "1")
    charge("snubh", "/data/snubh", "2")
    told = refused(Code.LEDGER_OTHER, lambda: charge("amc-of-another-federation", "/data/amc", "3"))
    assert f'ledger = "{SITES}/amc"' in told.fix


def test_a_site_in_a_container_is_given_the_variables_of_its_own_file() -> None:
    assert filled_in("amc", "/data")["services"]["site"]["env_file"] == "/etc/fedreason/amc.env"
