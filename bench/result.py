"""How every bench command ends: its figures as one line of JSON, the last of stdout and the only one that is JSON.

What is told on the way goes to standard error, or to stdout as no JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def print_result(figures: Mapping[str, Any]) -> None:
    """Print the figures, null where one is no number; a command does nothing after it but set its exit status."""
    print(json.dumps(json.loads(json.dumps(figures), parse_constant=lambda _: None)), flush=True)
