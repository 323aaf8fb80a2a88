"""What nobody foresaw ends a program with one line that says where, and nothing of a record."""

from __future__ import annotations

import socket
import subprocess
import sys
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from client.node import resident
from tests.small_disk import needs_small_disk, on_small_disk

SECRET = "the record of patient 4711"
PROGRAM = """
import sys
from common.cli import application, run_application

app = application("Try.")

@app.callback()
def every() -> None:
    pass

@app.command()
def fail() -> None:
    raise {error}

run_application(app)
"""


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (f"ValueError({SECRET!r})", "E506: Unexpected ValueError at <string>:13."),
        (f"OSError(5, {SECRET!r})", "E506: Unexpected OSError at <string>:13."),
        ("OSError(28, 'full', 'file')", "E821: There is no space left to write file."),
        (f"PermissionError(13, {SECRET!r}, '/their/file')", "E822: /their/file may not be reached by"),
        (f"PermissionError(1, {SECRET!r})", "E506: Unexpected PermissionError at <string>:13."),
    ],
)
def test_an_unexpected_error_is_one_line_without_its_text(error: str, told: str) -> None:
    words = [sys.executable, "-c", PROGRAM.format(error=error), "fail"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith(told) and SECRET not in done.stderr


def test_so_does_one_of_the_process_that_holds_the_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(SECRET)

    monkeypatch.setattr(resident, "_serve", fail)
    monkeypatch.setattr(resident, "_open", lambda folder: {})
    ours, theirs = socket.socketpair()
    with Connection(ours.detach()), pytest.raises(SystemExit) as end:
        resident.main(tmp_path, theirs.detach())
    assert end.value.code == 1
    told = capsys.readouterr().err
    assert "E506: Unexpected ValueError" in told and SECRET not in told


@pytest.mark.long
@needs_small_disk
def test_a_full_disk_is_told_by_its_number_whichever_library_writes() -> None:
    on_small_disk(
        """
        from pathlib import Path
        from types import SimpleNamespace
        import torch
        from safetensors.torch import save_file
        from tokenizers import Tokenizer, models
        from common.cli import unexpected
        from common.errors import Code
        from server.models.teaching import Teaching

        part = torch.nn.Linear(200, 200)
        words = {f"w{number}": number for number in range(20_000)}
        ways = {
            "torch": lambda: Teaching.save(
                SimpleNamespace(step=1, looks=[], model=part, _optimizer=part, _averaged=part), Path("/mnt/state.pt")
            ),
            "safetensors": lambda: save_file({"a": torch.zeros(40_000)}, "/mnt/model.safetensors"),
            "tokenizers": lambda: Tokenizer(models.WordLevel(words, unk_token="w0")).save("/mnt/tokenizer.json"),
        }
        ballast = fill()
        for name, write in ways.items():
            try:
                write()
            except Exception as error:
                assert unexpected(error).code == Code.DISK_FULL, (name, repr(error))
            else:
                raise AssertionError(name)
        """
    )


def test_a_line_that_nobody_reads_any_more_stops_nothing() -> None:
    program = "import sys; from common.cli import tell; tell('1'); sys.stdin.read(); tell('2'); tell('3'); sys.exit(7)"
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdin and process.stderr
    assert process.stderr.readline().endswith(" 1\n")
    process.stderr.close()
    process.stdin.close()
    assert process.wait() == 7
