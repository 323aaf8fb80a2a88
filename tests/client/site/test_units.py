"""What `python -m client units` writes: a site as a service of an account of its own, or in a container of its own."""

from __future__ import annotations

import re
import shlex
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
UNIT = "client/templates/systemd/fedreason-site@.service"
SITES = "/var/lib/fedreason/sites"


def stated(key: str) -> list[str]:
    """Return what the unit states for a key, a word each."""
    lines = re.findall(rf"^{key}=(.*)$", (ROOT / UNIT).read_text(), re.MULTILINE)
    return [word for line in lines for word in line.split()]


def step(path: str, program: str) -> list[str]:
    """Return the words of the one line that has a program make the account or the site."""
    (line,) = re.findall(rf"^(?:#\s+)?({program} .*)$", (ROOT / path).read_text(), re.MULTILINE)
    return shlex.split(line, comments=True)


@pytest.mark.parametrize("path", [UNIT, "docs/hospital.md"])
def test_who_follows_the_steps_gets_the_account_and_the_folders_that_the_unit_works_with(path: str) -> None:
    account = step(path, "useradd")
    assert "--create-home" in account, "a system account gets no folder by itself, and the unit cannot start without"
    home = account[account.index("--home-dir") + 1]
    assert [home] == stated("WorkingDirectory") == stated("ReadWritePaths")
    init = step(path, "sudo")
    assert ["-u", account[-1]] == init[init.index("-u") :][:2] and [account[-1]] == stated("User")
    (sites,) = [word for word in init if word.startswith("FEDREASON_HOME=")]
    assert sites in stated("Environment") and "init" in init


def test_a_unit_takes_the_url_of_a_database_from_a_file_of_root_s_that_need_not_be_there() -> None:
    (file,) = stated("EnvironmentFile")
    assert file == "-/etc/fedreason/%i.env"
    assert "install -m 600 /dev/null /etc/fedreason/amc.env" in (ROOT / "docs" / "hospital.md").read_text()


def test_an_image_holds_the_extras_that_a_wheelhouse_holds() -> None:
    texts = [(ROOT / path).read_text() for path in ("Makefile", "server/templates/deploy/Dockerfile")]
    wheelhouse, image = (re.search(r"\[(postgres[\w,]*)\]['\"](?: && rm|\n\t@cd wheelhouse)", text) for text in texts)
    assert wheelhouse and image and wheelhouse[1] == image[1]


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
