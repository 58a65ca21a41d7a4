"""Archives of other projects' test data."""

from __future__ import annotations

import tarfile
from collections.abc import Iterable
from pathlib import Path


def unpack(archive: tarfile.TarFile, place: Path, members: Iterable[tarfile.TarInfo] | None = None) -> None:
    """Unpack an archive, or these members: plain files only, none of them outside the place.

    Python has a filter for that since 3.11.4, which is later than Debian 12's.
    """
    inside = place.resolve()
    chosen = [
        member for member in members or archive.getmembers()
        if (member.isfile() or member.isdir()) and (inside / member.name).resolve().is_relative_to(inside)
    ]  # fmt: skip
    archive.extractall(place, chosen)
