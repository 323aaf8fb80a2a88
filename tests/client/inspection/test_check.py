"""`check` looks at everything a site needs, tells each thing on a line of its own, and no value of a record."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import tomli_w
from pyarrow import csv, parquet

from client.inspection.check import Checked, Line, check_site
from client.inspection.prompt_lengths import LONGEST, SAMPLE, sampled_questions
from client.site.config import RegistryConfig, load_site
from client.site.opened import open_registry
from client.site.split import held_out
from client.training.workplace import Workplace
from common.codebook import Codebook
from common.config import load_config
from common.errors import FedReasonError
from common.questions.question import Patient, QuestionMaker
from simulation.prepare import write_site
from tests import sentinels
from tests.client.inspection.counted import CODEBOOK
from tests.paths import ROOT
from tests.small import small_config
from tests.tls import Listener


def run_toml(place: Path, model: Path | str, codebook: Codebook = CODEBOOK, **changes: Any) -> Path:
    (place / "federation.toml").write_text(codebook.to_toml())
    config = small_config(Path(model), questions={"view": "full", "codebook": "federation.toml"}, **changes)
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    (place / "run.toml").write_text(tomli_w.dumps(table))
    return place / "run.toml"


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A site of 60 patients, one of whom opted out."""
    rows = [
        {"id": f"p{i}", "age": str(30 + i), "crea": "1.1", "sex": "12"[i % 2], "note": "word " * i, "ward": "w"}
        for i in range(60)
    ]
    place = write_site(tmp_path / "amc", "amc", list(rows[0]), rows, CODEBOOK)
    (place / "excluded.txt").write_text("p0\n")
    return place


def checked(site: Path, run: Path | None = None) -> Checked:
    return check_site(site, load_site(site), run, tell=lambda _: None)


def texts_of(found: Checked) -> dict[str, str]:
    return {line.name: line.text for line in found.lines}


def test_every_check_is_made_whatever_the_others_say(site: Path) -> None:
    (site / "policy.toml").unlink()
    found = checked(site)
    refused = {line.name for line in found.lines if line.code is not None}
    assert {"keys", "roster", "policy", "coordinator"} <= refused and not found.well
    told = texts_of(found)
    assert told["records"].startswith("60 patients, 60 records, 1 opted out")
    assert told["run"] == told["prompts"] == told["memory"] == "no run given"
    assert found.inspection is not None and found.inspection.patients == 60


def test_what_rests_on_something_refused_is_not_looked_at(site: Path, small_model: Path) -> None:
    (site / "registry.csv").unlink()
    found = checked(site, run_toml(site, small_model))
    told = texts_of(found)
    assert told["registry"].startswith("E301") and told["records"] == "not looked at: see registry"
    assert told["features"] == "not looked at: see records" and found.inspection is None
    assert "'small'" in told["run"] and "estimate" in told["memory"]


@pytest.mark.federation
def test_several_devices_are_told_and_one_that_is_not_there_or_of_another_kind_is_refused(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told(devices: list[str]) -> str:
        config = load_site(site).model_copy(update={"devices": tuple(devices)})
        return texts_of(check_site(site, config, None, tell=lambda _: None)).get("devices", "")

    assert told([]) == "" and told(["cpu", "cpu"]) == "2 x cpu"
    assert told(["cpu", "cuda:5"]).startswith("E861: devices in site.toml: cuda:5 is not there; this machine has cpu")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda number: "small" if number == 2 else "large")
    assert told(["cuda:0", "cuda:1"]) == "2 x large"
    assert told(["cuda:1", "cuda:2"]).startswith("E862: devices in site.toml: large, small are not of one kind")


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('device = "cuda"\ndevices = ["cpu"]', "say device or devices, not both"),
        ('devices = ["cuda:0", "cuda:1", "cuda:0"]', "cuda:0 stands there twice"),
        ('devices = ["cuda"]', "devices"),
        ('devices = ["cpu", "cpu"]\nrollouts = "vllm"', "samples on one device"),
    ],
)
def test_devices_that_make_no_sense_are_refused_by_number(lines: str, told: str, site: Path) -> None:
    path = site / "site.toml"
    kept = [line for line in path.read_text().splitlines() if not line.startswith("device")]
    path.write_text("\n".join([lines, *kept]))
    with pytest.raises(FedReasonError, match=r"E104: .*site\.toml") as refusal:
        load_site(site)
    assert told in str(refusal.value)


def test_a_run_is_held_against_policy_records_and_machine(
    site: Path, small_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = run_toml(site, small_model)
    told = texts_of(checked(site, path))
    config, codebook = load_config(path)
    patients = open_registry(site).registry.patients[1:]
    kept = sum(held_out(patient, config, None) for patient in patients)
    assert 0 < kept < 59 and f"{59 - kept} for training, {kept} held out" in told["records"]
    assert len(Workplace(site).training(config)) == 59 - kept
    assert told["allowed"].endswith("plain")
    assert told["prompts"].startswith("the longest of 59 has ") and "too long" not in told["prompts"]
    assert told["memory"].startswith("an estimate: about ") and "no GPU" in told["memory"]

    assert told["privacy"].startswith("sums plain: the coordinator sees the sum of each site")
    assert "noise none, as this run" in told["privacy"]

    noise = {"privacy": {"clip_norm": 1.0, "noise_multiplier": 1.0, "delta": 1e-8}}
    for population, drowned in ((60, True), (10**6, False)):
        private = run_toml(site, small_model, federation={"population": population}, **noise)
        lines = {each.name: each for each in checked(site, private).lines}
        line = lines["privacy"]
        assert line.warning is drowned and ("teach nothing" in line.text) is drowned

    few = texts_of(checked(site, run_toml(site, small_model, grpo={"max_prompt_tokens": 90})))
    assert "are too long and would not be asked" in few["prompts"]
    packed = run_toml(site, small_model)
    packed.write_text(packed.read_text().replace('"float32"', '"bfloat16"').replace('ion = "none"', 'ion = "nf4"'))
    with monkeypatch.context() as patched:
        patched.setattr("transformers.utils.import_utils.is_bitsandbytes_available", lambda: False)
        assert texts_of(checked(site, packed))["memory"].startswith("E405")
    other = codebook.model_copy(update={"title": "other"})
    assert texts_of(checked(site, run_toml(site, small_model, other)))["run"].startswith("E206")
    absent = {line.name: line for line in checked(site, run_toml(site, site / "nowhere")).lines}
    for name in ("prompts", "memory"):
        assert absent[name].text == f"model {site / 'nowhere'} not on this machine, and a site downloads none"
        assert absent[name].warning
    (site / "policy.toml").write_text('metrics = "plain"\nmax_prompt_tokens = 100\n')
    assert "grpo.max_prompt_tokens 600 > 100" in texts_of(checked(site, path))["allowed"]


def test_what_hardly_is_missed_is_told_without_a_warning_and_a_doubt_with_one(site: Path) -> None:
    def records(name: str) -> Line:
        registry = RegistryConfig(path=site / name)
        config = load_site(site).model_copy(update={"registry": registry})
        return next(
            line for line in check_site(site, config, None, tell=lambda _: None).lines if line.name == "records"
        )

    table = csv.read_csv(site / "registry.csv")
    parquet.write_table(table.append_column("lists", pa.array([["x"]] * 60)), site / "registry.parquet")
    line = records("registry.parquet")
    assert line.text.endswith("1 columns of lists, structures, bytes or durations were not read") and not line.warning
    with (site / "registry.csv").open("a") as rows:
        rows.write("Total,40,1.1,1,,w\n")
    line = records("registry.csv")
    assert "line 62 may be no patient" in line.text and line.warning


def test_the_records_with_the_most_text_are_among_those_sampled() -> None:
    patients = [Patient(str(i), {"sex": "male", "age": "50", "note": "x" * (i == 17) * 900}) for i in range(2000)]
    for seed in range(3):
        asked = sampled_questions(QuestionMaker(CODEBOOK, "full"), patients, seed)
        assert len(asked) <= SAMPLE + LONGEST and "17" in {question.patient for question in asked}
    first, second = (
        {question.patient for question in sampled_questions(QuestionMaker(CODEBOOK, "full"), patients, seed)}
        for seed in (0, 1)
    )
    assert len(first) >= SAMPLE and first != second


def client(*words: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "client", *words]
    return subprocess.run(command, capture_output=True, check=False, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.federation
def test_no_value_of_a_record_is_in_what_check_prints(tmp_path: Path) -> None:
    rows = sentinels.rows("amc", 30)
    place = sentinels.site_of(tmp_path / "amc", rows, {"metrics": "plain"})
    done, machine = client("check", "--site", str(place)), client("check", "--site", str(place), "--json")
    for each in (done, machine):
        assert each.returncode == 1
        assert sentinels.hits(each.stdout + each.stderr, sentinels.hashes({"amc": 30})) == []
    assert b"30 patients" in done.stdout and b"E310: unreadable: 30 of 30 filled cells" in done.stdout
    assert b"E310: unlisted: 30 of 30" in done.stdout and b"Traceback" not in done.stderr
    told = json.loads(machine.stdout)
    assert not told["ok"] and {each["code"] for each in told["findings"]} >= {310}
    assert "marker, text" in sentinels.hits((place / "registry.csv").read_bytes())


@pytest.mark.federation
def test_a_site_in_order_is_well_and_exits_with_0(folder: Path, server: Listener) -> None:
    site = {"name": "amc", "federation": "sepsis", "coordinator": server.address, "registry": {"path": "registry.csv"}}
    (folder / "site.toml").write_text(tomli_w.dumps(site))
    (folder / "codebook.toml").write_text(CODEBOOK.to_toml())
    lines = "".join(f"p{i},{30 + i},{1 + i % 10 / 2},{1 + i % 2},,\n" for i in range(30))
    (folder / "registry.csv").write_text("id,age,crea,sex,note,ward\n" + lines)
    done = client("check", "--site", str(folder))
    assert done.returncode == 0, done.stdout
    assert b"30 patients" in done.stdout and b"[Labs]" in done.stdout
    (folder / "codebook.toml").write_text("title = 1")
    broken = client("check", "--site", str(folder))
    assert broken.returncode == 1 and b"E203" in broken.stdout and server.address.encode() in broken.stdout
