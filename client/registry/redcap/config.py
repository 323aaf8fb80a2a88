"""What site.toml says of a REDCap export: `[registry.redcap]`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from common.toml import Strict


class RedcapConfig(Strict):
    """The project's data dictionary, its path relative to the site folder, and this site's data access group.

    With `group` (its unique name, as in the column redcap_data_access_group) rows of other groups are left out unread.
    """

    dictionary: Path
    group: str | None = Field(default=None, min_length=1)
