"""A site with a blinded review: two exported adapters over the small model, and ready cases without any model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from client.review.cli import accounts_of
from client.review.pages import Desk
from client.review.store import CaseRow, ReviewRow, ReviewStore
from common import synthetic
from common.config import RunConfig
from common.model.adapter import read_adapter, trainable
from common.model.base import add_lora, load_base
from common.web.app import Pages
from server.reports.export import export_adapter
from server.rounds.store import Checkpoint, RunStore
from simulation.prepare import write_site
from tests.common.web.served import served
from tests.small import small_config

PASSWORD = "four plain random words"
RATERS = ("kim", "lee")
SECRET = "0123456789abcdef"
HOSTILE = "<script>alert(1)</script><b>bold</b>"


def site_of(folder: Path, patients: int = 60) -> Path:
    """Make the folder of a simulated site."""
    book = synthetic.codebook()
    return write_site(folder, folder.name, book.columns, synthetic.registry("north", patients, seed=4), book)


def exported(folder: Path, model: Path, number: int, **changes: object) -> Path:
    """Export an adapter of its own over the small model, as a coordinator does."""
    config: RunConfig = small_config(model, name=f"run{number}", **changes)
    base, _ = load_base(config.model)
    adapted = add_lora(base, config.adapter, config.seed)
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for parameter in trainable(adapted):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    with RunStore.opened(folder / f"run{number}", config) as store:
        store.save(Checkpoint(3, read_adapter(adapted), {}))
    return export_adapter(folder / f"run{number}", folder / f"adapter{number}")


def ready(site: Path, count: int, *, name: str = "review", swapped: bool = False, text: str = "Because.") -> None:
    """Write a review whose answers name their model; `swapped` exchanges the two models and changes nothing else."""
    names = ("ZEPHYR", "MISTRAL")
    first, second = names[::-1] if swapped else names
    kinds = ("numeric", "categorical")
    cases = [
        CaseRow(
            number=number,
            patient=f"P{number}",
            kind=kinds[number % 2],
            item=f"item{number % 4}",
            record=["[Vital signs]", f"Pulse: {60 + number}", HOSTILE],
            text="What would be the masked value?",
            choices=["low", "high"],
            truth="low",
            withdrawn=False,
        )
        for number in range(1, count + 1)
    ]
    with ReviewStore.made(site, name) as store:
        store.begin(ReviewRow(id=1, claim={}, first=first, second=second, secret=SECRET), cases)
        for side, said in (("first", first), ("second", second)):
            store.answered(side, {case.number: f"{text} {case.number} by answer {said[:1]}" for case in cases})


@contextmanager
def open_desk(site: Path, name: str = "review", raters: Sequence[str] = RATERS) -> Iterator[tuple[str, ReviewStore]]:
    """Serve a review; yields the link of whoever started it, and the store."""
    accounts = accounts_of(site)
    for rater in set(raters) - set(accounts.names()):
        accounts.add(rater, PASSWORD)
    with ReviewStore.opened(site, name, required=False) as store:
        pages = Pages("Review", Desk(store, accounts).places, menu=[("Cases", "/")], accounts=accounts)
        with served(pages) as link:
            yield link, store
