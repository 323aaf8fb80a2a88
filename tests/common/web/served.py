"""Pages served from a thread of the test, at a port that was free."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from bench.waiting import PATIENCE
from common.web.app import Pages
from common.web.serve import Server


@contextmanager
def served(pages: Pages) -> Iterator[str]:
    """Serve on loopback until the block is left; yields the link by which one comes in."""
    server = Server(pages, "127.0.0.1", 0)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        base = server.link.partition("/enter")[0]
        while True:
            try:
                httpx.get(f"{base}/style.css", verify=False)  # no certificates are read for a plain link
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield server.link
    finally:
        server.stop()
        thread.join(PATIENCE)


def visitor(link: str) -> httpx.Client:
    """Return somebody who has come in by the link."""
    client = httpx.Client(base_url=link.partition("/enter")[0], follow_redirects=True, verify=False)
    client.get(link).raise_for_status()
    return client
