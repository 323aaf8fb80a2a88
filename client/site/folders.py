"""Where a site's own files lie: `FEDREASON_HOME/<site>`, or any folder that holds a site.toml."""

from __future__ import annotations

import os
from pathlib import Path

from common.access import is_there
from common.errors import Code, FedReasonError

_VARIABLE = "FEDREASON_HOME"


def sites_home() -> Path:
    """Folder that holds the site folders: FEDREASON_HOME, else ~/.fedreason/sites."""
    return Path(os.environ.get(_VARIABLE) or "~/.fedreason/sites").expanduser()


def find_site_folder(name_or_path: str | Path) -> Path:
    """Return the folder of a site given by its name or by its path; `./amc` is a path, `amc` a name first.

    Raises
    ------
    FedReasonError
        CONFIG_MISSING where there is no such site on this machine, FILE_FORBIDDEN where it is another user's.
    """
    named = Path(name_or_path).expanduser()
    is_path = isinstance(name_or_path, Path) or "/" in name_or_path or name_or_path.startswith(("~", "."))
    candidates = [named] if is_path else [sites_home() / named, named]
    for folder in candidates:
        if is_there(folder / "site.toml"):
            return folder.resolve()
    known = sorted(path.parent.name for path in sites_home().glob("*/site.toml"))
    raise FedReasonError(
        Code.CONFIG_MISSING,
        f"{' and '.join(str(folder) for folder in candidates)}: no site.toml there.",
        f"The sites in {sites_home()} are: {', '.join(known)}."
        if known
        else f"Make the site by `python -m client init --kit KIT`, or set {_VARIABLE} to where its folder is.",
    )
