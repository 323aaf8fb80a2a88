"""No sentinel leaves a hospital: the checks with their mutations, the search itself, and a whole deployment."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import sqlite3
import struct
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from bench.deployment import NGINX, started
from bench.round import written
from common.config import RunConfig
from common.errors import Code
from server.reports.report import write_run_report
from tests.checked import mutated, passing
from tests.deployment.overheard import (
    Overheard,
    broken_registry,
    registries_of,
    require_all_was_captured,
    with_failures,
)
from tests.privacy_checks.leakage import CHECKS, PRIVACY, STRICT, UNPRIVATE, run_of
from tests.sentinels import DATE, MARKER, NUMBERS, OUTSIDE, REGISTRY, codebook, found_below, hashes, hits, rows

MUTATIONS = mutated(CHECKS)


@pytest.mark.federation
@pytest.mark.parametrize("passes", passing(CHECKS))
def test_the_check_passes(passes: Callable[[], bool]) -> None:
    assert passes()


@pytest.mark.federation
@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_check_catches_the_mutation(mutation: Callable[[], bool]) -> None:
    assert not mutation()


# --- The search finds what is there ---


def test_every_field_of_every_record_holds_a_sentinel_but_for_the_listed_category() -> None:
    for row in rows("north", 20):
        assert [name for name, cell in row.items() if not hits(cell.encode())] == ["colour"]


@pytest.mark.long
def test_the_codebook_and_a_run_hold_none() -> None:
    assert not hits(codebook().to_toml().encode())
    assert not hits(run_of(3, PRIVACY).model_dump_json().encode())


NUMBER = NUMBERS["beta"]
TEXTS = [MARKER.encode(), DATE.encode(), f"{NUMBER:.6f}".encode()]


@pytest.mark.parametrize(
    "content",
    [
        *TEXTS,
        MARKER.encode("utf-16-le"),
        json.dumps({"name": f"{MARKER} Jané"}).encode(),
        repr(NUMBER).encode(),
        f"{NUMBER:.14e}".encode(),
        f"{NUMBER * 1e6:.0f}".encode(),
        struct.pack("<d", NUMBER),
        np.array([1.0, OUTSIDE, 2.0]).tobytes(),
        np.array(list(NUMBERS.values()), dtype=np.float32).tobytes(),
        *(text.hex().encode() for text in TEXTS),
        *(text.hex().upper().encode() for text in TEXTS),
        *(base64.b64encode(bytes(before) + text + b"more") for text in TEXTS for before in range(4)),
    ],
)
def test_a_sentinel_is_found_in_every_form(content: bytes) -> None:
    assert hits(b"before" + content + b"after")


def test_the_hash_of_an_identifier_is_found() -> None:
    digest = hashlib.sha256(rows("north", 3)[2]["case"].encode())
    for content in (digest.digest(), digest.hexdigest().encode()):
        assert hits(content, hashes({"north": 3})) and not hits(content)


def test_a_sentinel_is_found_in_every_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "log.gz").write_bytes(gzip.compress(MARKER.encode()))
    np.savez_compressed(tmp_path / "arrays.npz", values=np.array([NUMBER] * 9))
    with zipfile.ZipFile(tmp_path / "bundle.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("deep/file.txt", DATE)
    with sqlite3.connect(tmp_path / "state.db") as database:
        database.execute("create table parts (content blob)")
        database.execute("insert into parts values (?)", (bytes(4090) + MARKER.encode() + bytes(9000),))
    (tmp_path / f"{MARKER}.txt").write_text("")
    (tmp_path / REGISTRY).write_text(MARKER)
    (tmp_path / "clean.txt").write_text("nothing")
    assert set(found_below(tmp_path)) == {"log.gz", "arrays.npz", "bundle.zip", "state.db", f"{MARKER}.txt"}


# --- A whole deployment ---

SITES = {"north": 12, "south": 12, "west": 12}


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return registries_of(tmp_path_factory.mktemp("registries"), SITES)


@pytest.fixture
def deployment(registries: dict[str, Path], tmp_path: Path) -> Iterator[Overheard]:
    with started(Overheard(tmp_path / "d", registries, STRICT)) as running:
        yield running


def run_named(name: str, privacy: Mapping[str, object] | None, rounds: int) -> RunConfig:
    config = run_of(3, privacy, quorum=1, rounds=rounds, deadline=60.0)
    questions = config.questions.model_copy(update={"codebook": "codebook.toml"})
    return config.model_copy(update={"name": name, "questions": questions})


@pytest.mark.deploy
@pytest.mark.skipif(not Path(NGINX).exists(), reason="nginx is not installed")
def test_no_sentinel_is_in_anything_that_a_deployment_sent_logged_told_or_wrote_down(
    deployment: Overheard, registries: dict[str, Path]
) -> None:
    """A refused run, a private one with failures, and one without privacy; then what is broken at a site is told."""
    folder = deployment.folder
    private, plain = run_named("private", PRIVACY, 3), run_named("plain", None, 2)
    ask = deployment.command("server", "ask", written(plain, folder), "--json")
    assert ask.returncode != 0 and ask.stdout.count(str(int(Code.POLICY_REFUSED))) == 3, ask.stdout + ask.stderr

    run = with_failures(deployment, private, registries["north"])
    assert run["north"] == {int(Code.SITE_CLOSED)}, run
    assert f"south (E{int(Code.RUN_FAILED)}" not in deployment.log("run"), "a patient that fails counts as zero"
    deployment.allow(UNPRIVATE)
    deployment.must("server", "run", written(plain, folder))

    broken_registry(deployment, registries["west"])
    for command in ("status", "outbox", "ledger"):
        deployment.must("client", command, "--site", "north")
    deployment.must("server", "status")
    deployment.must("server", "export", "private", "--out", folder / "adapter")
    write_run_report(deployment.federation / "runs" / "private")
    for site in ("north", "south"):
        deployment.end(site)
    deployment.must("server", "stop")

    require_all_was_captured(deployment, {"layout", "contribution", "evaluation", "refusal"})
    more = hashes(SITES)
    assert found_below(folder, more) == {}
    assert [text.splitlines()[0] for text in deployment.told if hits(text.encode(), more)] == []
    assert all(hits(registry.read_bytes(), more) for registry in registries.values())
