"""Flower ClientApp: thin handlers. An error travels as its code, its text stays in the site's log."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import torch
from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from client.contribution import Site
from common.errors import Code, FedReasonError
from common.logs import logger, place_of, quiet_libraries
from common.messages import Refusal, Reply, Task
from common.records import read_task, reply_record

_log = logger("site")
_sites: dict[Path, Site] = {}
app = ClientApp()
quiet_libraries()


@app.query()
def layout(message: Message, context: Context) -> Message:
    """Say which parameters this site would train."""
    return Message(content=answered(message.content, context, Site.layout), reply_to=message)


@app.train()
def contribute(message: Message, context: Context) -> Message:
    """Contribute to a round."""
    return Message(content=answered(message.content, context, Site.contribute), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer the held-out questions."""
    return Message(content=answered(message.content, context, Site.evaluate), reply_to=message)


def answered(content: RecordDict, context: Context, handle: Callable[[Site, Task], Reply]) -> RecordDict:
    """Let the site handle a task; whatever goes wrong becomes a refusal with a number."""
    name = "unknown site"
    reply: Reply
    try:
        folder = site_folder(context)
        name = folder.name
        reply = handle(resident_site(folder), read_task(content))
    except FedReasonError as error:
        _log.error("%s: %s", name, error)
        reply = Refusal(name, int(error.code))
    except Exception as error:
        _log.error("%s: unexpected %s", name, place_of(error))
        reply = Refusal(name, int(Code.RUN_FAILED))
    return reply_record(reply)


def resident_site(folder: Path) -> Site:
    """Return the site of a folder, opened once per process."""
    if folder not in _sites:
        site = Site.open(folder)
        if site.config.threads:
            torch.set_num_threads(site.config.threads)
        _sites[folder] = site
    return _sites[folder]


def site_folder(context: Context) -> Path:
    """Folder of this node's site.

    A hospital's node names it (`site-folder`); a simulated node takes its place among the folders below `sites`.
    """
    if named := context.node_config.get("site-folder"):
        return Path(str(named))
    root = Path(str(context.run_config.get("sites") or os.environ.get("FEDREASON_SITES", ""))).expanduser().resolve()
    folders = sorted(path.parent for path in root.glob("*/site.toml"))
    number = int(context.node_config["partition-id"])
    if number >= len(folders):
        raise FedReasonError(
            Code.CONFIG_MISSING,
            f"{root} has {len(folders)} site folders, node {number} needs one more.",
            "Run `python -m simulation prepare CONFIG`, and start as many nodes as there are sites.",
        )
    return folders[number]
