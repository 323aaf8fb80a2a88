"""The coordinator's pages over a deployment, as a person has them: opened by their link, read, and sent forms."""

from __future__ import annotations

import re
import sys

import httpx

from bench.deployment import Deployment
from bench.waiting import PATIENCE, until
from tests.common.web.served import visitor
from tests.federations import free_port


def opened(deployment: Deployment) -> httpx.Client:
    """Start the dashboard as people do, and come in by its link."""
    before = len(deployment.log("dashboard"))
    port = free_port()
    deployment.start("dashboard", sys.executable, "-m", "server", "dashboard", "--port", port)
    until(lambda: "Open " in deployment.log("dashboard")[before:], lambda: deployment.log("dashboard"))
    link = re.findall(r"Open (\S+)", deployment.log("dashboard"))[-1]
    until(lambda: answers(port), "the dashboard answers")
    return visitor(link)


def answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/style.css").status_code == 200
    except httpx.TransportError:
        return False


def said(client: httpx.Client, path: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", client.get(path, timeout=PATIENCE).text))


def sends(client: httpx.Client, path: str, fields: dict[str, str]) -> str:
    """Send a form of the first page; returns the address of what came of it."""
    found = re.search(r'name="token" value="([^"]+)"', client.get("/").text)
    assert found
    return client.post(path, data=fields | {"token": found[1]}, timeout=PATIENCE).url.path
