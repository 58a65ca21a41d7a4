"""Which path is the best: RFC 4271 section 9.1.2.2, with the steps that all implementations add.

Each step takes those candidates away that another one beats, until one is left.  What a MED beats depends on who else
is left (only paths of the same neighboring AS are compared), hence the set, not a comparison of two.  Missing MED: 0
(RFC 4271 section 9.1.2.2 c); a set counts as one AS; RFC 4456 section 9.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vrouter.rib.bgp_reference.paths import Path
from vrouter.rib.bgp_table import Identity, PeerKind

_Step = tuple[str, Callable[[Path, Identity], int]]  # the smaller wins

BEFORE_MED: tuple[_Step, ...] = (
    ("weight", lambda path, _: -path.weight),
    ("local-pref", lambda path, _: -path.local_pref),
    ("local", lambda path, _: path.kind is not None),
    ("as-path", lambda path, _: path.attributes.path_length()),
    ("origin", lambda path, _: path.attributes.origin),
)
AFTER_MED: tuple[_Step, ...] = (
    ("external", lambda path, _: path.kind is not PeerKind.EXTERNAL),
    ("metric", lambda path, _: path.metric),
)
TIE: tuple[_Step, ...] = (
    ("router-id", lambda path, _: _first(path.attributes.originator_id, path.router_id)),
    ("cluster-list", lambda path, _: len(path.attributes.cluster_list)),
    ("address", lambda path, _: path.address.family << 128 | path.address.value),
    ("path-id", lambda path, _: path.path_id),
)


def _first(number: int | None, otherwise: int) -> int:
    return otherwise if number is None else number


def rank(paths: Sequence[Path], identity: Identity) -> list[Path]:
    """Give the candidates, the best first."""
    rest = sorted((path for path in paths if path.usable), key=lambda path: (path.peer, path.path_id))
    ranked = []
    while rest:
        best = _eliminate(rest, identity, {})
        ranked.append(best)
        rest.remove(best)
    return ranked


def _eliminate(paths: list[Path], identity: Identity, lost: dict[int, str]) -> Path:
    """Give the best one; `lost` takes for each other, by its id(), the step at which it lost."""
    left = list(paths)

    def keep(reason: str, stay: list[Path]) -> list[Path]:
        for path in left:
            if path not in stay:
                lost[id(path)] = reason
        return stay

    for name, key in BEFORE_MED:
        lowest = min(key(path, identity) for path in left)
        left = keep(name, [path for path in left if key(path, identity) == lowest])
    left = keep("med", [path for path in left if not _beaten_by_med(path, left, identity)])
    for name, key in AFTER_MED:
        lowest = min(key(path, identity) for path in left)
        left = keep(name, [path for path in left if key(path, identity) == lowest])
    if not identity.compare_router_id and left[0].kind is PeerKind.EXTERNAL:
        oldest = min(path.serial for path in left)
        left = keep("age", [path for path in left if path.serial == oldest])
    for name, key in TIE:
        lowest = min(key(path, identity) for path in left)
        left = keep(name, [path for path in left if key(path, identity) == lowest])
    return left[0]


def _beaten_by_med(path: Path, others: list[Path], identity: Identity) -> bool:
    """Tell whether one that is left has a lower MED from the same AS."""
    return any(
        (other.attributes.med or 0) < (path.attributes.med or 0)
        and (identity.always_compare_med or other.attributes.neighbor_as() == path.attributes.neighbor_as())
        for other in others
    )


def multipath(ranked: list[Path], identity: Identity) -> list[Path]:
    """Give the best path and those used beside it, as many next hops as allowed."""
    if not ranked:
        return []
    best = ranked[0]
    limit = identity.multipath if best.kind is PeerKind.EXTERNAL else identity.multipath_internal
    used = [best]
    for path in ranked[1:]:
        if len(used) >= limit or best.tracked is None:
            break
        if _equal(best, path, identity) and all(path.tracked is not other.tracked for other in used):
            used.append(path)
    return used


def _equal(best: Path, path: Path, identity: Identity) -> bool:
    """Tell whether nothing that says how good a path is tells them apart."""
    if path.tracked is None or any(key(best, identity) != key(path, identity) for _, key in BEFORE_MED + AFTER_MED):
        return False
    same_as = best.attributes.neighbor_as() == path.attributes.neighbor_as()
    if not same_as and not identity.multipath_relax:
        return False
    return (best.attributes.med or 0) == (path.attributes.med or 0) or not (same_as or identity.always_compare_med)


def reasons(paths: Sequence[Path], used: list[Path], identity: Identity) -> dict[int, str]:
    """Give for each path, by its id(), what it is or the step at which it lost against the best."""
    lost: dict[int, str] = {}
    candidates = [path for path in paths if path.usable]
    if candidates:
        _eliminate(candidates, identity, lost)
    for path in paths:
        if path.refused:
            lost[id(path)] = "refused"
        elif not path.reachable:
            lost[id(path)] = "unreachable"
    for position, path in enumerate(used):
        lost[id(path)] = "multipath" if position else "best"
    return lost
