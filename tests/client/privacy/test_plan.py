"""A plan is told with its costs, and ends in the number by which the site would refuse the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from typer.testing import CliRunner

from client.__main__ import app
from client.privacy.chain import ledger_folder
from common.errors import FedReasonError
from tests.federations import command
from tests.whole_site import made, run_of

PLAIN: dict[str, Any] = {}
SHARED: dict[str, Any] = {"noise": "distributed", "colluders": 1, "dropouts": 1}
REFUSED = {
    "secure sums": ("secure_aggregation = true", PLAIN, "E832", "privacy.secure_aggregation of policy.toml demands"),
    "the floor": ("min_sites = 5", PLAIN, "E832", "federation.quorum 4 < 5 (privacy.min_sites)"),
    "shared noise": ("", SHARED, "E832", "privacy.shared_noise of policy.toml does not allow it"),
    "colluders": ("shared_noise = true\nmin_colluders = 2", SHARED, "E832", "privacy.colluders 1 < 2"),
    "dropouts": ("shared_noise = true\nmin_dropouts = 2", SHARED, "E832", "privacy.dropouts 1 < 2"),
    "no colluder": ("shared_noise = true", SHARED | {"colluders": 0}, "E841", "allows for 1 to 2"),
    "too many colluders": ("shared_noise = true", SHARED | {"colluders": 3}, "E841", "allows for 1 to 2"),
    "nothing": ("shared_noise = true\nsecure_aggregation = true", SHARED, None, "distributed, as this run: epsilon"),
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made(tmp_path_factory.mktemp("site"))


def planned(site: Path, name: str, out: Path) -> list[str]:
    """Write the policy and the run of a case; return the words of the command."""
    limits, privacy, _, _ = REFUSED[name]
    policy = f'metrics = "none"\nbase_models = ["*"]\n[patient]\ncolumn = "patient_id"\n[privacy]\n{limits}\n'
    (site / "policy.toml").write_text(policy)
    federation = {"sites": 5, "quorum": 4, "population": 1000, "rounds": 30}
    federation |= {"aggregation": "secure"} if privacy else {}
    config = run_of(federation=federation, privacy={"answer_every": 10.0, "metrics_noise_multiplier": None, **privacy})
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = out / "run.toml"
    path.write_text(tomli_w.dumps(table))
    return ["ledger", "--site", str(site), "--plan", str(path)]


@pytest.mark.parametrize("name", REFUSED)
def test_a_plan_ends_in_the_number_that_the_run_would_be_refused_by(site: Path, tmp_path: Path, name: str) -> None:
    _, _, code, told = REFUSED[name]
    done = CliRunner().invoke(app, planned(site, name, tmp_path))
    assert isinstance(done.exception, FedReasonError) is (code is not None) and done.exit_code == (code is not None)
    output = done.output + str(done.exception or "")
    assert told in output and (code is None or f"{code}: " in output), output
    assert "together   epsilon" in output and not ledger_folder(site).exists()


@pytest.mark.long
def test_as_a_process_it_ends_with_1_after_the_costs_and_the_number(site: Path, tmp_path: Path) -> None:
    done = command("client", *planned(site, "the floor", tmp_path))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "together   epsilon" in done.stderr and "E832: " in done.stderr and REFUSED["the floor"][3] in done.stderr
