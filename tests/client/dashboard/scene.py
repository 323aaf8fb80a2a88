"""A hospital's site folder as it stands after some rounds: ledger, outbox, status, log of training, a policy signed."""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path

import tomli_w

from client.grpo.entry import Entry
from client.node.outbox import Outbox
from client.node.status import Status
from client.policy.policy import policy_bytes
from client.policy.signature import new_officer_key, pin_officer, sign_policy
from client.privacy.ledger import Ledger
from client.training.log import log_folder
from client.training.states import Attempt, Attempts, State
from common.identity.keys import load_signing_key
from tests.hospitals import POLICY, federation_of, private_run
from tests.privacy_checks.ledger import release

HOSTILE = "<script>alert(1)</script>"
CAP = 100.0


def hospital(folder: Path, *, rounds: int = 6, cap: float = CAP) -> Path:
    """Return the folder of a site that took part in so many rounds of a run; folder is empty before."""
    site, _ = federation_of(folder, "amc", "snubh")
    limits = {**POLICY, "privacy": {"epsilon": cap, "min_sites": 2, "max_steps": 1000}}
    (site / "policy.toml").write_text(tomli_w.dumps(limits))
    with (site / "registry.csv").open() as registry:
        gone = [row["patient_id"] for row in csv.DictReader(registry)][:2]
    (site / "excluded.txt").write_text("\n".join(gone))
    new_officer_key(folder / "officer")
    pin_officer(site, folder / "officer.pub")
    path = site / "policy.toml"
    sign_policy(path, policy_bytes(path), load_signing_key(folder / "officer"))
    ledger, attempts = Ledger.opened(site), Attempts(site)
    outbox = Outbox(site / "state" / "outbox", keep=3)
    for number in range(1, rounds + 1):
        ledger.charge(release(number), cap=cap)
        attempt = Attempt("trial", number, 0, "fedsgd-local")
        for state in (State.ALLOWED, State.CHARGED, State.COMPUTING, State.SENT):
            attempts.enter(attempt, state)
        outbox.sent(outbox.record("contribution", "trial", number, b"\x07" * (100 + number)))
    outbox.record("refusal", "trial", rounds + 1, b"no", code=842)
    (site / "state" / "outbox").chmod(0o700)
    steps = [
        Entry(
            "c" * 64, number, 0, 0, 9, 9, 0, 36, reward=0.2 + 0.05 * number, zero_variance=0.3, unboxed=0.1, seconds=2.0
        )
        for number in range(1, rounds + 1)
    ]
    log_folder(site).mkdir(parents=True)
    (log_folder(site) / "trial.jsonl").write_text("".join(json.dumps(asdict(step)) + "\n" for step in steps))
    return site


def at_work(site: Path, text: str = "round 3", number: int = 3) -> Status:
    """Have this process be the node of a site, as far as its status goes."""
    status = Status(site)
    status.contact()
    status.sent(7, 700)
    status.tell("working", text, run="trial", round=number)
    return status


def plan_file(folder: Path, name: str = "planned") -> Path:
    """Write the configuration of a run that is to come, for the site above."""
    config = private_run(Path("/none"), name)
    table = config.model_dump(mode="json", exclude_none=True)
    table["questions"].pop("codebook_sha256")
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(table))
    return path
