"""Records that hold sentinels in every field, and what finds them in bytes and files.

They stand in the identifier, numbers that questions show, numbers outside the bounds, text where a number should be,
categories that are not listed, columns that are ignored or not described. None stands anywhere by chance. Text is found
by a marker of 16 random letters and digits, one of 5e28; a number by 15 digits or more, so that 1e5 random numbers hit
one of the four with probability 4e-10; 8 bytes of binary with 5e-20, the eleven of them in a gigabyte with 6e-10. The 4
bytes of a float32 are in any 10 MB: two that are neighbours in a record are searched for. Not searched for is what was
rounded, encrypted or cut to a few letters.
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import hashlib
import io
import itertools
import sqlite3
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tomli_w

from client.site.exclusions import EXCLUSIONS_FILE
from common.codebook import Codebook
from common.feature import Feature
from common.stream import Stream
from simulation.prepare import write_site

Row = dict[str, str]

MARKER = "qZ7vKx0Wj9TmB4hL"
NUMBERS = {"alpha": 731826450.509173, "beta": 284917365.830641, "gamma": 519384726.274918}
OUTSIDE = 6473829105.861734
DATE = "2231-07-19T04:17:53"
REGISTRY = "registry.csv"
HOLD_THEM = frozenset({REGISTRY, EXCLUSIONS_FILE})
"""Files of a site that hold the sentinels by right."""


@cache
def codebook() -> Codebook:
    """Return the public description of the registries: it holds no sentinel."""
    colours = {"r": "red", "g": "green", "b": "blue", "y": "yellow"}
    numeric: dict[str, Any] = {
        "section": "Values",
        "kind": "numeric",
        "low": 1e8,
        "high": 1e9,
        "step": 1e6,
        "decimals": 6,
    }
    listed: dict[str, Any] = {"section": "Kinds", "kind": "categorical", "categories": colours}
    tables = [{"name": name, "label": f"Value {name}"} | numeric for name in (*NUMBERS, "outside", "unreadable")]
    tables += [{"name": name, "label": f"Kind {name}"} | listed for name in ("colour", "unlisted")]
    features = tuple(map(Feature.model_validate, tables))
    return Codebook(title="Sentinels", patient="case", ignored=("name", "admitted"), features=features)


def rows(site: str, count: int) -> list[Row]:
    """Return the records of a site, each with an identifier of its own."""
    return [
        {
            "case": f"{MARKER}{hashlib.sha256(f'{site} {number}'.encode()).hexdigest()[:12]}",
            **{name: f"{value:.6f}" for name, value in NUMBERS.items()},
            "outside": f"{OUTSIDE:.6f}",
            "unreadable": f"{MARKER} mmol",
            "colour": "rgby"[Stream.named(site, number).below(4)],
            "unlisted": f"{MARKER} purple",
            "name": f"{MARKER} Jané",
            "admitted": DATE,
            "undescribed": f"{MARKER} note",
        }
        for number in range(count)
    ]


def site_of(folder: Path, records: Sequence[Row], policy: Mapping[str, object]) -> Path:
    """Write a site folder whose registry holds these records, the first of whom opted out."""
    write_site(folder, folder.name, list(records[0]), records, codebook())
    with (folder / "site.toml").open("a") as file:
        file.write('ignored = ["undescribed"]\n')
    (folder / "policy.toml").write_text(tomli_w.dumps(policy))
    (folder / EXCLUSIONS_FILE).write_text(records[0]["case"] + "\n")
    return folder


@cache
def needles() -> dict[str, bytes]:
    """Return what is searched for, by name: text, numbers and dates in the forms that a program may give them."""
    found: dict[str, bytes] = {}
    texts = {"marker": MARKER, "date": DATE, **{name: f"{value:.6f}" for name, value in NUMBERS.items()}}
    texts["outside"] = f"{OUTSIDE:.6f}"
    for name, text in texts.items():
        plain = text.encode()
        found[f"{name}, text"] = plain
        found[f"{name}, UTF-16"] = text.encode("utf-16-le")
        found[f"{name}, hex"] = plain.hex().encode()
        found[f"{name}, HEX"] = plain.hex().upper().encode()
        found |= {f"{name}, base64 at {shift}": _base64(plain, shift) for shift in range(3)}
    for name, value in {**NUMBERS, "outside": OUTSIDE}.items():
        digits = f"{value:.6f}".replace(".", "")
        found[f"{name}, digits"] = digits.encode()
        found[f"{name}, exponent"] = f"{digits[0]}.{digits[1:]}".encode()
        found[f"{name}, float64"] = struct.pack("<d", value)
        found[f"{name}, float64, big end first"] = struct.pack(">d", value)
    for first, second in itertools.pairwise(NUMBERS):
        found[f"{first} and {second}, float32"] = struct.pack("<2f", NUMBERS[first], NUMBERS[second])
    return found


def _base64(plain: bytes, shift: int) -> bytes:
    """Return the middle of what text becomes in base64, `shift` bytes after the start of a group of three."""
    whole = base64.b64encode(bytes(shift) + plain)
    return whole[(0, 2, 3)[shift] :].rstrip(b"=")[:-1]


def hashes(sites: Mapping[str, int]) -> dict[str, bytes]:
    """Return the SHA-256 of every identifier, as bytes and in hex: a pseudonym that anybody can look up."""
    digests = [hashlib.sha256(row["case"].encode()) for site, count in sites.items() for row in rows(site, count)]
    return {f"identifier {i}, SHA-256": each.digest() for i, each in enumerate(digests)} | {
        f"identifier {i}, SHA-256 in hex": each.hexdigest().encode() for i, each in enumerate(digests)
    }


def hits(content: bytes, more: Mapping[str, bytes] | None = None) -> list[str]:
    """Return which sentinels are in these bytes, or in what they are when unpacked."""
    wanted = {**needles(), **(more or {})}
    return [name for piece in _unpacked(content) for name, needle in wanted.items() if needle in piece]


def _unpacked(content: bytes) -> Iterator[bytes]:
    yield content
    if content.startswith(b"\x1f\x8b"):
        with contextlib.suppress(OSError, EOFError):
            yield from _unpacked(gzip.decompress(content))
    if content.startswith(b"PK"):
        with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(content)) as archive:
            for name in archive.namelist():
                yield from _unpacked(archive.read(name))
    if content.startswith(b"SQLite format 3"):
        yield from _cells(content)


def _cells(content: bytes) -> Iterator[bytes]:
    """Yield every cell of a database: a long one lies in pieces in the file."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "copy.db"
        path.write_bytes(content)
        with contextlib.closing(sqlite3.connect(path)) as database, contextlib.suppress(sqlite3.DatabaseError):
            tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
            for table in tables:
                for cells in database.execute(f'select * from "{table}"'):
                    yield from (cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)


def found_below(folder: Path, more: Mapping[str, bytes] | None = None) -> dict[str, list[str]]:
    """Return the files below a folder that hold a sentinel, in their content or name, but for those that may."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        content = path.read_bytes() if path.is_file() and path.name not in HOLD_THEM else b""
        if told := hits(name.encode(), more) + hits(content, more):
            found[name] = told
    return found
