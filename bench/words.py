"""The words of a command line: several values may follow one option."""

from __future__ import annotations

from collections.abc import Sequence


def spread(arguments: Sequence[str], option: str) -> list[str]:
    """Give every value that follows an option a copy of its own: `--prompt 80 500` as `--prompt 80 --prompt 500`."""
    result: list[str] = []
    following = False
    for argument in arguments:
        if argument == option:
            following = True
            continue
        following = following and not argument.startswith("-")
        result += [option, argument] if following else [argument]
    return result
