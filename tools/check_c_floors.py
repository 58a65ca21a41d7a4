"""Checks the floors of the C core: an include may only lead to the same folder or below.

    base < wire < table < (port < forward | host < server | bfd | (bulk | policy) < bgp | spf) < core.c

Columns never include each other.  `abi` headers may include only `abi` headers.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

FASTPATH: Final = Path(__file__).resolve().parent.parent / "fastpath"
_GROUND: Final = frozenset({"abi", "base", "wire", "table"})
# Folder -> the folders that its files may include.
ALLOWED: Final[dict[str, frozenset[str]]] = {
    "abi": frozenset({"abi"}),
    "base": frozenset({"abi", "base"}),
    "wire": frozenset({"abi", "base", "wire"}),
    "table": _GROUND,
    "port": _GROUND | {"port"},
    "forward": _GROUND | {"port", "forward"},
    "host": _GROUND | {"host"},
    "server": _GROUND | {"host", "server"},
    "bulk": _GROUND | {"bulk"},
    "policy": _GROUND | {"policy"},
    "bgp": _GROUND | {"bulk", "policy", "bgp"},
    "spf": _GROUND | {"spf"},
    "bfd": _GROUND | {"bfd"},
    "glance": frozenset({"abi"}),  # a library of its own, for the manager
}
_INCLUDE: Final = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


def violations(fastpath: Path = FASTPATH) -> list[str]:
    """Name each include that climbs, or that is not written "folder/file.h"."""
    found = []
    # What fastpath/build.py writes into build/include belongs to no folder.
    generated = set(re.findall(r'"(\w+\.h)"', (FASTPATH / "build.py").read_text()))
    files = sorted([*(fastpath / "src").rglob("*.[ch]"), *(fastpath / "include").rglob("*.h")])
    for file in files:
        folder = file.parent.name
        if folder == "src":  # core.c alone sees all folders
            continue
        if folder not in ALLOWED:
            found.append(f"{file.relative_to(fastpath.parent)}: on which floor is the folder {folder!r}?")
            continue
        for target in _INCLUDE.findall(file.read_text()):
            place, _, name = target.rpartition("/")
            where = f"{file.relative_to(fastpath.parent)}: includes {target!r}"
            if not place and name in generated:
                continue
            if place not in ALLOWED:
                found.append(f'{where}: write "folder/file.h" with a folder of the core')
            elif place not in ALLOWED[folder]:
                found.append(f"{where}: {folder} may only use {', '.join(sorted(ALLOWED[folder]))}")
    return found


if __name__ == "__main__":
    problems = violations()
    print("\n".join(problems) or "C floors: kept")
    sys.exit(bool(problems))
