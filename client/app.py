"""Flower ClientApp, for simulated nodes: thin handlers around what a site does. A hospital runs client/node/node.py."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from common.errors import Code, FedReasonError
from common.logs import quiet_libraries
from common.messages.kinds import Refusal, Reply, Request, Task
from common.messages.records import read_task, reply_record
from common.processes import loading

with loading():
    from client.node.handlers import HANDLERS, answer, refusal
    from client.training.states import Silent
    from client.training.workplace import Workplace

app = ClientApp()
quiet_libraries()


@app.query()
def layout(message: Message, context: Context) -> Message:
    """Say which parameters this site would train."""
    return Message(content=answered(message.content, context, HANDLERS[Request.LAYOUT]), reply_to=message)


@app.query("ask")
def estimate(message: Message, context: Context) -> Message:
    """Say whether this site would take part."""
    return Message(content=answered(message.content, context, HANDLERS[Request.ESTIMATE]), reply_to=message)


@app.train()
def contribute(message: Message, context: Context) -> Message:
    """Contribute to a round."""
    return Message(content=answered(message.content, context, HANDLERS[Request.CONTRIBUTION]), reply_to=message)


@app.train("secure")
def take_part(message: Message, context: Context) -> Message:
    """Answer a message of a secure sum."""
    return Message(content=answered(message.content, context, HANDLERS[Request.SECURE]), reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Answer the held-out questions."""
    return Message(content=answered(message.content, context, HANDLERS[Request.EVALUATION]), reply_to=message)


def answered(content: RecordDict, context: Context, handle: Callable[[Workplace, Task], Reply]) -> RecordDict:
    """Let the node's site handle a packed task."""
    try:
        folder, task = site_folder(context), read_task(content)
    except FedReasonError as error:
        return reply_record(refusal("unknown site", error))
    try:
        return reply_record(answer(folder, handle, task))
    except Silent:  # on one machine nobody learns from it that need not know
        return reply_record(Refusal(folder.name, int(Code.SITE_SILENT)))


def site_folder(context: Context) -> Path:
    """Folder of this node's site.

    A node may name it (`site-folder`); a simulated node takes its place among the folders below `sites`.
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
