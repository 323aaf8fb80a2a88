"""Questions of a registry as one page of HTML that fetches nothing, for the eyes of whoever owns the site folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from string import Template

from client.preview.questions import Preview
from client.preview.text import NOTICE, title, visible
from common.config import PAPER
from common.errors import Code, FedReasonError
from common.identity.keys import private_folder, write_private
from common.questions.question import Consultation

PAGE = "preview.html"

_DOCUMENT = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>Questions of this site</title>
<style>
:root { --ink: #1b1f24; --soft: #57606a; --paper: #fff; --panel: #f4f6f8; --right: #00664a; --warn: #a33c00; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e9ed; --soft: #a3acb6; --paper: #15181c; --panel: #1e2329; --right: #4fd1a5; --warn: #ff9b62; }
}
body { margin: 0 auto; max-width: 48rem; padding: 1.5rem 1rem; background: var(--paper); color: var(--ink);
  font: 16px/1.45 system-ui, sans-serif; overflow-wrap: anywhere; }
article { background: var(--panel); border-radius: .5rem; padding: .75rem 1rem; margin: 1.25rem 0; }
h1 { font-size: 1.5rem; } h2 { font-size: 1rem; margin: 0 0 .5rem; color: var(--soft); }
p { margin: .1rem 0; white-space: pre-wrap; } ol { list-style: upper-alpha; margin: .25rem 0; padding-left: 1.75rem; }
.notice { color: var(--warn); font-weight: 600; } .hidden { color: var(--soft); font-style: italic; }
.asked { font-weight: 600; margin-top: .75rem; } .right { color: var(--right); font-weight: 600; }
@media print { article { break-inside: avoid; border: 1px solid #888; } }
</style>
</head>
<body>
<h1>Questions of this site</h1>
<p class="notice">$notice</p>
<p>What is dimmed is hidden from the model. Every prompt begins with:</p>
<p><q>$system</q></p>
$questions
</body>
</html>
""")


def page(found: Sequence[Preview]) -> str:
    """Return the whole document."""
    questions = "\n".join(
        f"<article>\n<h2>{number} of {len(found)}: {_safe(title(preview))}</h2>\n{''.join(_parts(preview))}</article>"
        for number, preview in enumerate(found, start=1)
    )
    return _DOCUMENT.substitute(notice=_safe(NOTICE), system=_safe(PAPER.system), questions=questions)


def write_page(folder: Path, found: Sequence[Preview], out: Path | None) -> Path:
    """Write the page for its owner alone, into the state of a site folder where `out` is not given; return where.

    Raises
    ------
    FedReasonError
        DISK_FULL where it cannot be written; a page that was there before stays as it was.
    """
    path = out or folder / "state" / PAGE
    try:
        if out is None:
            private_folder(path.parent)
        write_private(path, page(found).encode())
    except OSError as error:
        raise FedReasonError(
            Code.DISK_FULL,
            f"{path} cannot be written ({type(error).__name__}).",
            "Free some space, correct the permissions, or name another file: --out.",
        ) from None
    return path


def _parts(preview: Preview) -> Iterator[str]:
    for line in preview.lines:
        kind = ' class="hidden"' if line.hidden else ""
        yield f"<p{kind}>{_safe(line.text)}</p>\n"
    asked = preview.asked
    yield f'<p class="asked">{_safe(asked.text)}</p>\n'
    if isinstance(asked, Consultation):
        yield f'<p class="right">Reference: {_safe(asked.reference)}</p>\n'
        return
    yield "<ol>\n"
    for place, choice in enumerate(asked.choices):
        yield _choice(choice, right=place == asked.answer)
    yield "</ol>\n"


def _choice(text: str, *, right: bool) -> str:
    return f'<li class="right">{_safe(text)} (the truth)</li>\n' if right else f"<li>{_safe(text)}</li>\n"


def _safe(text: str) -> str:
    return escape(visible(text))
