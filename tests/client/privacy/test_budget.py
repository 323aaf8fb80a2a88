"""Which ledger a site charges: its own or a named one, known by the registry, and begun for sites that had none."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from client.privacy.budget import ledger_home, marks_of, open_ledger, require_ledger
from client.privacy.chain import ledger_folder, site_keys
from client.privacy.claims import machine_folder
from client.privacy.ledger import Ledger
from client.privacy.spending import ledger_lines
from client.site.anchor import ANCHOR, read_anchor
from client.site.config import RegistryConfig, SiteConfig, load_site
from common.errors import Code
from common.identity.keys import new_signing_key, save_key
from tests.hospitals import federation_of, machine, settle
from tests.paths import ROOT
from tests.privacy_checks.ledger import CAP, path_of, refused, release


@pytest.fixture
def world() -> Iterator[Path]:
    with machine() as folder:
        yield folder


@pytest.fixture
def amc(world: Path) -> Path:
    return federation_of(world, "amc", "snubh")[0]


def opened(site: Path) -> Ledger:
    return open_ledger(site, load_site(site))


def test_a_ledger_begins_at_init_outside_state_and_its_anchor_goes_with_it(amc: Path) -> None:
    begun = read_anchor(amc / ANCHOR, site_keys(amc))
    assert begun is not None and begun.head.sequence == 0 and not (amc / "state" / "ledger").exists()
    ledger = opened(amc)
    head = ledger.charge(release(1), cap=CAP).head
    for path in (amc / ANCHOR, machine_folder() / "ledgers" / f"{begun.ledger}.json"):
        now = read_anchor(path, site_keys(amc))
        assert now is not None and (now.ledger, now.begun, now.head) == (begun.ledger, begun.begun, head)
        assert path.stat().st_mode & 0o077 == 0
    assert require_ledger(amc, load_site(amc)) == "1 lines"


def test_a_site_of_the_version_before_goes_on_from_the_lines_that_it_has(
    amc: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Ledger.opened(amc).charge(release(1), cap=CAP)
    (amc / ANCHOR).unlink()
    assert require_ledger(amc, load_site(amc)) == "1 lines"
    with caplog.at_level("WARNING"):
        head = opened(amc).head
    found = read_anchor(amc / ANCHOR, site_keys(amc))
    assert found is not None and found.first == found.head == head and head.sequence == 1
    assert f"{ANCHOR} is begun for a ledger of 1 lines" in caplog.text
    shutil.rmtree(ledger_folder(amc))
    refused(lambda: opened(amc), Code.LEDGER_ROLLED_BACK)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"\xff" * 40),
        lambda path: path.write_text(path.read_text().replace('"sequence"', '"sequel"').replace("[\n   1", "[\n   0")),
        lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"by": "nobody"})),
        lambda path: (path.unlink(), path.mkdir()),
    ],
    ids=["empty", "no text", "changed", "of nobody", "a folder"],
)
def test_an_anchor_that_was_spoilt_is_an_error_and_not_a_new_ledger(amc: Path, spoil: object) -> None:
    opened(amc).charge(release(1), cap=CAP)
    assert callable(spoil)
    spoil(amc / ANCHOR)
    for look in (lambda: opened(amc), lambda: require_ledger(amc, load_site(amc)), lambda: ledger_lines(amc)):
        assert ANCHOR in refused(look, Code.LEDGER_DAMAGED)


def test_an_anchor_that_another_site_signed_is_an_error(amc: Path) -> None:
    other = amc.parent / "snubh"
    shutil.copy(other / ANCHOR, amc / ANCHOR)
    refused(lambda: opened(amc), Code.LEDGER_DAMAGED)


def test_a_ledger_written_anew_with_as_many_lines_is_found_out(amc: Path) -> None:
    ledger, other = opened(amc), amc.parent / "forged"
    shutil.copytree(amc / "keys", other / "keys")
    forged = Ledger.opened(other)
    for number in (1, 2):
        ledger.charge(release(number), cap=CAP)
        forged.charge(release(number, sigma_units=440_000), cap=CAP)
    shutil.rmtree(ledger_folder(amc))
    shutil.copytree(ledger_folder(other), ledger_folder(amc))
    for look in (ledger.entries, lambda: opened(amc), lambda: ledger.charge(release(3), cap=CAP)):
        assert "another line 2" in refused(look, Code.LEDGER_ROLLED_BACK)
    assert "another line 2" in refused(lambda: ledger_lines(amc), Code.LEDGER_ROLLED_BACK)


def test_new_keys_go_on_with_the_anchor_that_the_old_ones_signed(amc: Path) -> None:
    opened(amc).charge(release(1), cap=CAP)
    aside = amc / "keys" / "old-20260101T000000"
    aside.mkdir(mode=0o700)
    for name in ("signing", "signing.pub"):
        (amc / "keys" / name).rename(aside / name)
    save_key(amc / "keys" / "signing", new_signing_key())
    assert opened(amc).charge(release(2), cap=CAP).sequence == 2


def test_a_ledger_that_is_named_is_charged_and_must_be_one(world: Path, amc: Path) -> None:
    berlin = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
    settle(berlin, ledger=str(amc))
    opened(berlin).charge(release(1), cap=CAP)
    assert opened(amc).head.sequence == 1 and not path_of(berlin).exists()
    assert require_ledger(berlin, load_site(berlin)) == f"1 lines, of {amc}"
    lyon = world / "two" / "sites" / "lyon"
    for named in (berlin, world / "nowhere", world):
        settle(lyon, ledger=str(named))
        assert "ledger" in refused(lambda: ledger_home(lyon, load_site(lyon)), Code.CONFIG_VALUE)
    settle(lyon, ledger=".")
    assert ledger_home(lyon, load_site(lyon)) == lyon


def two_ledgers(world: Path, amc: Path) -> Path:
    """Have amc spend twice, and another folder three times in a ledger of its own before it uses amc's."""
    for number in (1, 2):
        opened(amc).charge(release(number), cap=CAP)
    berlin = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
    own = Ledger.opened(berlin)
    for number in (1, 2, 3):
        own.charge(release(number), cap=CAP)
    settle(berlin, ledger=str(amc))
    return berlin


def test_what_a_folder_spent_before_it_used_another_s_ledger_is_charged_there_once(world: Path, amc: Path) -> None:
    berlin = two_ledgers(world, amc)
    assert "what" in require_ledger(berlin, load_site(berlin)) and Ledger.opened(amc).head.sequence == 2
    for _ in range(2):
        ledger = opened(berlin)
        assert ledger.head.sequence == 5 and len({entry.release.run for entry in ledger.entries()}) == 2
    alone = Ledger.opened(federation_of(world / "three", "rome", "oslo", federation="third")[0])
    for number in (1, 2, 3, 4, 5):
        alone.charge(release(number), cap=CAP)
    assert ledger.epsilon >= alone.epsilon * (1 - 1e-9)
    ledger.verify(costs=True)


def test_a_takeover_that_was_cut_short_goes_on_where_it_was(
    world: Path, amc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    berlin, charge, charged = two_ledgers(world, amc), Ledger.charge, []

    def killed(ledger: Ledger, *args: Any, **more: Any) -> Any:
        if charged:
            raise KeyboardInterrupt
        charged.append(charge(ledger, *args, **more))
        return charged[0]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "charge", killed)
        opened(berlin)
    assert Ledger.opened(amc).head.sequence == 3
    assert opened(berlin).head.sequence == 5


def test_a_folder_whose_own_ledger_is_lost_does_not_get_another_s_budget_afresh(world: Path, amc: Path) -> None:
    berlin = two_ledgers(world, amc)
    path_of(berlin).unlink()
    for look in (lambda: require_ledger(berlin, load_site(berlin)), lambda: opened(berlin)):
        refused(look, Code.LEDGER_ROLLED_BACK)


@pytest.mark.parametrize("place", ["machine", "./machine", "~nobody-of-that-name/machine"])
def test_a_place_of_the_machine_s_record_that_is_no_one_place_is_refused(
    amc: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setenv("FEDREASON_STATE", place)
    monkeypatch.chdir(amc)
    for look in (lambda: require_ledger(amc, load_site(amc)), lambda: opened(amc)):
        assert "FEDREASON_STATE" in refused(look, Code.CONFIG_VALUE)
    assert not (amc / "machine").exists()


def test_a_site_with_a_ledger_of_its_own_cannot_change_to_an_emptier_one(world: Path, amc: Path) -> None:
    opened(amc).charge(release(1), cap=CAP)
    empty = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
    settle(amc, ledger=str(empty))
    refused(lambda: opened(amc), Code.LEDGER_OTHER)


def test_what_the_guide_has_a_site_keep_that_leaves_goes_on_counting(world: Path, amc: Path) -> None:
    opened(amc).charge(release(1), cap=CAP)
    guide = (ROOT / "docs" / "hospital.md").read_text()
    told = re.search(r"Of the site folder keep (.*?), and beside it", guide, re.DOTALL)
    assert told is not None
    kept = [amc / name for name in re.findall(r"`(.*?)`", told[1])]
    registry = (amc / "registry.csv").read_bytes()
    for path in sorted(amc.rglob("*"), reverse=True):
        if not any(path == one or one in path.parents or path in one.parents for one in kept):
            path.unlink() if path.is_file() else path.rmdir()
    assert all(path.exists() for path in kept) and not (amc / "policy.toml").exists()
    berlin = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
    (berlin / "registry.csv").write_bytes(registry)
    assert f'ledger = "{amc}"' in refused(lambda: opened(berlin), Code.LEDGER_OTHER)
    settle(berlin, ledger=str(amc))
    assert require_ledger(berlin, load_site(berlin)) == f"1 lines, of {amc}"
    assert opened(berlin).charge(release(2), cap=CAP).sequence == 2


def test_a_copy_of_a_later_export_is_recognised_once_it_was_read(world: Path, amc: Path) -> None:
    from client.training.workplace import Workplace

    site = Workplace(amc)
    site.ledger.charge(release(1), cap=CAP)
    path = amc / "registry.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    site.look_again()
    berlin = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
    shutil.copy(path, berlin / "registry.csv")
    refused(lambda: opened(berlin), Code.LEDGER_OTHER)


def test_a_registry_that_another_ledger_counts_is_refused_as_often_as_it_is_looked_at(
    world: Path, amc: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Refused once and then taken, its patients would pay twice; as where the claim failed for a moment."""
    from client.training.workplace import Workplace

    lyon = federation_of(world / "two", "berlin", "lyon", federation="other")[1]
    opened(lyon)
    site, own = Workplace(amc), (amc / "registry.csv").read_bytes()
    assert site.ledger.head.sequence == 0
    shutil.copy(lyon / "registry.csv", amc / "registry.csv")
    for _ in range(2):
        refused(site.look_again, Code.LEDGER_OTHER)
    (amc / "registry.csv").write_bytes(b"".join(own.splitlines(keepends=True)[:-1]))
    with monkeypatch.context() as patch:
        patch.setenv("FEDREASON_STATE", str(amc / "machine"))
        (amc / "machine").mkdir()
        (amc / "machine" / "registries").symlink_to("/proc/nowhere")
        refused(site.look_again, Code.DISK_FULL)
    site.look_again()
    copied = federation_of(world / "three", "rome", "oslo", federation="third")[0]
    shutil.copy(amc / "registry.csv", copied / "registry.csv")
    refused(lambda: opened(copied), Code.LEDGER_OTHER)


def test_a_folder_that_was_moved_is_named_where_it_is_now(world: Path, amc: Path) -> None:
    opened(amc)
    moved = amc.rename(amc.with_name("moved"))
    opened(moved)
    berlin = federation_of(world / "two", "berlin", "lyon", federation="other")[0]
    shutil.copy(moved / "registry.csv", berlin / "registry.csv")
    assert f'ledger = "{moved}"' in refused(lambda: opened(berlin), Code.LEDGER_OTHER)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"ledger": 1, "site": "x"}'])
def test_a_record_that_cannot_be_read_is_no_free_registry(amc: Path, content: bytes) -> None:
    opened(amc)
    for path in (machine_folder() / "registries").glob("*.json"):
        path.write_bytes(content)
    told = refused(lambda: opened(amc), Code.LEDGER_OTHER)
    assert "cannot be read" in told


def test_a_record_that_cannot_be_written_refuses(amc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("registries", "ledgers")):
        place = amc / f"machine{number}"
        place.mkdir()
        monkeypatch.setenv("FEDREASON_STATE", str(place))
        (place / name).symlink_to("/proc/nowhere")
        told = refused(lambda: opened(amc), Code.DISK_FULL)
        assert str(place / name) in told and "FEDREASON_STATE" in told
    assert opened_after(amc, monkeypatch).head.sequence == 0


def opened_after(site: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    monkeypatch.setenv("FEDREASON_STATE", str(site / "machine"))
    return opened(site)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("postgresql+psycopg://a:b@db.example/icu", "postgresql://c@DB.example:5432/icu?sslmode=require", True),
        ("postgresql://localhost/icu", "postgresql://127.0.0.1/icu", True),
        ("postgresql://db/icu", "postgresql://db/er", False),
        ("sqlite:////data/icu.db", "sqlite:////data/../data/icu.db", True),
        ("sqlite:////data/icu.db", "sqlite:////data/er.db", False),
        ("sqlite:////data/icu.db", "sqlite:///file:/data/icu.db?mode=ro&uri=true", True),
        ("sqlite:///icu.db", "sqlite:///icu.db", False),
        ("postgresql+psycopg://a:b@/icu", "postgresql:///icu", True),
        ("postgresql:///icu", "postgresql:///er", False),
        ("postgresql:///icu?host=db1", "postgresql:///icu?host=db1", True),
        ("postgresql:///icu?host=db1", "postgresql:///icu?host=db2", False),
        ("postgresql:///icu?host=db1", "postgresql://DB1:5432/icu", True),
        ("postgresql:///icu?host=db1:5433", "postgresql://db1/icu?port=5433", True),
        ("postgresql:///icu?port=5433", "postgresql:///icu", False),
        ("postgresql:///icu?host=/run/postgresql", "postgresql://localhost/icu", True),
        ("postgresql:///icu", "postgresql://[::1]/icu", True),
        ("postgresql://db?dbname=icu", "postgresql://db/icu", True),
        ("mysql+pymysql:///icu?unix_socket=/run/mysqld.sock", "mysql://127.0.0.1/icu", True),
    ],
)
def test_a_database_is_known_by_host_and_name_whoever_logs_in_and_whatever_is_asked_from_wherever(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, one: str, other: str, same: bool
) -> None:
    first, second = marks(monkeypatch, one, "select 1"), marks(monkeypatch, other, "select  2", tmp_path)
    assert (first[0] == second[0]) is same and bool(set(first) & set(second)) is same
    assert "b@" not in first[0] and "select" not in first[0]


def marks(
    monkeypatch: pytest.MonkeyPatch, url: str, query: str = "select 1", folder: Path = Path("/"), **environment: str
) -> list[str]:
    """Return what a database is known by to a program that is started in a folder."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        for name, value in {"REGISTRY_URL": url, **environment}.items():
            patch.setenv(name, value)
        registry = RegistryConfig(url_variable="REGISTRY_URL", query=query)
        return list(marks_of(SiteConfig(name="amc", registry=registry)))


def test_a_database_of_which_the_environment_tells_the_host_is_that_one(monkeypatch: pytest.MonkeyPatch) -> None:
    told = marks(monkeypatch, "postgresql:///icu", PGHOST="db1", PGPORT="5433")
    assert told == marks(monkeypatch, "postgresql://db1:5433/icu") != marks(monkeypatch, "postgresql:///icu")
    assert marks(monkeypatch, "mysql:///icu", PGHOST="db1")[0] == "database:mysql:127.0.0.1:3306:icu"


def test_what_databases_were_known_by_before_still_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else a second folder, which was refused, would begin anew where it comes before the first."""
    assert marks(monkeypatch, "postgresql://db.example/icu") == ["database:postgresql:db.example:5432:icu"]
    assert marks(monkeypatch, "sqlite:////data/icu.db") == ["database:sqlite:/data/icu.db"]
    own = f"database:postgresql:{tmp_path / 'icu'}"
    assert own in marks(monkeypatch, "postgresql://a@/icu", folder=tmp_path)
    for url in ("postgresql:///icu?host=db1", "postgresql:///icu?port=5433"):
        assert own not in marks(monkeypatch, url, folder=tmp_path), "two servers' were one"


def test_a_simulated_site_claims_nothing(amc: Path) -> None:
    config = load_site(amc).model_copy(update={"federation": None})
    open_ledger(amc, config).charge(release(1), cap=CAP)
    assert not machine_folder().exists()


def test_a_folder_that_was_moved_away_for_a_new_one_is_not_named_as_if_it_were_still_there(
    world: Path, amc: Path
) -> None:
    """Joined anew under the same name: the folder that the record names is the new one, whose ledger is empty."""
    opened(amc).charge(release(1), cap=CAP)
    old = amc.rename(amc.with_name("amc-old"))
    new = federation_of(world / "two", amc.name, "lyon", federation="other")[0].rename(amc)
    shutil.copy(old / "registry.csv", new / "registry.csv")
    settle(new)
    told = refused(lambda: opened(new), Code.LEDGER_OTHER)
    assert f"no longer in {amc}" in told and f'ledger = "{amc}"' not in told
    kept = read_anchor(old / ANCHOR, site_keys(old))
    assert kept is not None and f"ledger {kept.ledger[:12]}" in told
    settle(new, ledger=str(old))
    assert opened(new).charge(release(2), cap=CAP).sequence == 2
