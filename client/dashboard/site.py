"""The pages of a site, and who answers where."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from client.dashboard.asked import questions, shown
from client.dashboard.budget import Budget
from client.dashboard.left import content, outbox
from client.dashboard.limits import limits
from client.dashboard.overview import overview, pause, resume
from client.dashboard.signature import for_signature
from client.dashboard.training import training
from common.web.app import Pages
from common.web.serve import Server
from common.web.visit import Place

HOST = "127.0.0.1"
"""Nothing beyond this machine may reach the pages of a site: they show what its own people see."""
MENU = (
    ("Overview", "/"),
    ("What left", "/outbox"),
    ("Privacy budget", "/ledger"),
    ("Policy", "/policy"),
    ("Questions", "/questions"),
    ("Training", "/training"),
    ("For signature", "/signature"),
    ("Refusals", "/errors"),
)


def places(folder: Path, plans: Sequence[Path] = ()) -> list[Place]:
    """Return every page of a site folder; what shows patient data or changes anything is asked by a form alone."""
    budget = Budget(folder, plans)
    return [
        Place("/", partial(overview, folder)),
        Place("/pause", partial(pause, folder), action=True),
        Place("/resume", partial(resume, folder), action=True),
        Place("/outbox", partial(outbox, folder)),
        Place("/outbox/{number}", partial(content, folder)),
        Place("/ledger", budget.page),
        Place("/ledger/verify", budget.verify, action=True),
        Place("/ledger/plan", budget.plan, action=True),
        Place("/policy", partial(limits, folder)),
        Place("/questions", partial(questions, folder)),
        Place("/questions/shown", partial(shown, folder), action=True),
        Place("/training", partial(training, folder)),
        Place("/signature", partial(for_signature, folder, budget)),
    ]


def pages(folder: Path, plans: Sequence[Path] = ()) -> Pages:
    """Return the pages of a site folder behind the link that is printed."""
    return Pages(f"Site {folder.name}", places(folder, plans), menu=MENU)


def server(folder: Path, port: int, plans: Sequence[Path] = ()) -> Server:
    """Return what serves the pages of a site folder to this machine alone."""
    return Server(pages(folder, plans), HOST, port)
