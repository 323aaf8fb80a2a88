"""Nothing of a record leaves a hospital in secure sums either: a whole deployment, and each masked sum that it sent."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from bench.deployment import NGINX, started
from bench.round import written
from client.node.outbox import contents, read_entries
from client.node.worker import Parcel
from common.config import RunConfig
from common.errors import Code
from common.messages.kinds import Step
from common.messages.records import read_reply
from common.secagg.masks import Residues
from server.reports.report import write_run_report
from server.rounds.store import RunStore
from tests.deployment.overheard import (
    Overheard,
    broken_registry,
    registries_of,
    require_all_was_captured,
    with_failures,
)
from tests.privacy_checks.leakage import PRIVACY, STRICT, UNPRIVATE, run_of
from tests.sentinels import found_below, hashes, hits
from tests.uniform import looks_uniform

SITES = {"east": 12, "north": 12, "south": 12, "west": 12}
SECURE = {"min_sites": 3, "min_answer_every": 0.0, "secure_aggregation": True, "shared_noise": True, "epsilon": 50.0}
SHARED = PRIVACY | {"noise": "distributed", "colluders": 1, "dropouts": 1}
KINDS = {"layout", "advertisement", "shares", "masked", "consent", "revealed", "evaluation", "refusal"}


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return registries_of(tmp_path_factory.mktemp("registries"), SITES)


@pytest.fixture
def deployment(registries: dict[str, Path], tmp_path: Path) -> Iterator[Overheard]:
    with started(Overheard(tmp_path / "d", registries, STRICT | {"privacy": SECURE})) as running:
        yield running


def run_named(name: str, privacy: Mapping[str, object] | None, rounds: int) -> RunConfig:
    lattice = {} if privacy else {"bits": 20, "clip_norm": 0.5}
    config = run_of(4, privacy, quorum=3, rounds=rounds, deadline=60.0, aggregation="secure", lattice=lattice)
    questions = config.questions.model_copy(update={"codebook": "codebook.toml"})
    return config.model_copy(update={"name": name, "questions": questions})


def uploads(deployment: Overheard, site: str) -> list[Residues]:
    """The masked sums that a site sent, each once; no count is beside them."""
    folder, found = deployment.hospitals / site / "state" / "outbox", {}
    for entry in read_entries(folder):
        if entry.kind == "masked":
            reply = read_reply(Parcel.of(contents(folder, entry.number) or b"").message.content)
            assert isinstance(reply, Step) and reply.words is not None and reply.counts is None
            found[reply.words.tobytes()] = reply.words
    return list(found.values())


@pytest.mark.deploy
@pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed")
def test_no_sentinel_is_in_what_a_deployment_of_secure_sums_sent_or_logged_and_a_masked_sum_is_chance(
    deployment: Overheard, registries: dict[str, Path]
) -> None:
    """A refused run, a private one with failures, one without privacy: as in plain sums, with every sum masked."""
    folder = deployment.folder
    private, exact = run_named("private", SHARED, 3), run_named("exact", None, 2)
    ask = deployment.command("server", "ask", written(exact, folder), "--json")
    assert ask.returncode != 0 and ask.stdout.count(str(int(Code.POLICY_REFUSED))) == 4, ask.stdout + ask.stderr

    run = with_failures(deployment, private, registries["north"])
    assert run["north"] == {int(Code.SITE_CLOSED)}, run
    assert f"south (E{int(Code.RUN_FAILED)}" not in deployment.log("run"), "a patient that fails counts as zero"
    deployment.allow(UNPRIVATE | {"privacy": {"min_sites": 3, "required": False, "secure_aggregation": True}})
    deployment.must("server", "run", written(exact, folder))
    for config, least in ((private, 3), (exact, 3)):
        with RunStore.opened(deployment.federation / "runs" / config.name, config) as store:
            assert all(len(row.sites) >= least for row in store.rounds())

    broken_registry(deployment, registries["west"])
    for command in ("status", "outbox", "ledger"):
        deployment.must("client", command, "--site", "south")
    deployment.must("server", "status")
    deployment.must("server", "export", "private", "--out", folder / "adapter")
    write_run_report(deployment.federation / "runs" / "private")
    for site in ("east", "north", "south"):
        deployment.end(site)
    deployment.must("server", "stop")

    require_all_was_captured(deployment, KINDS)
    more = hashes(SITES)
    assert found_below(folder, more) == {}
    assert [text.splitlines()[0] for text in deployment.told if hits(text.encode(), more)] == []
    assert all(hits(registry.read_bytes(), more) for registry in registries.values())

    for site in SITES:
        sent = uploads(deployment, site)
        assert len(sent) >= 2 and all(looks_uniform(words) for words in sent), site
        assert looks_uniform(sent[1] - sent[0]), site
        short, open_part = sent[0] & np.uint32(0xFFFFFF), sent[0].copy()
        open_part[: len(open_part) // 8] &= np.uint32(0xFF)
        assert not looks_uniform(short) and not looks_uniform(open_part), "at this size it would be seen"
