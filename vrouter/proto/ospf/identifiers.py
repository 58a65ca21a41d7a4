"""Link state ids of prefixes: two of the same network with different masks need two (RFC 2328 appendix E)."""

from __future__ import annotations

from vrouter.net.address import Prefix, mask


class Identifiers:
    """The ids that one router uses for one type of LSA in one scope."""

    def __init__(self) -> None:
        self._ids: dict[Prefix, int] = {}
        self._taken: dict[int, Prefix] = {}

    def get(self, prefix: Prefix) -> int | None:
        """Give the id of a prefix that has one."""
        return self._ids.get(prefix)

    def take(self, prefix: Prefix) -> tuple[int, Prefix | None]:
        """Give a prefix its id; and the prefix, if there is one, that had it and has another one now.

        The most specific prefix has the address of the network, shorter ones that with all host bits set.
        """
        held = self._ids.get(prefix)
        if held is not None:
            return held, None
        other = self._taken.get(prefix.value)
        if other is None:
            self._set(prefix, prefix.value)
            return prefix.value, None
        if other.length > prefix.length:
            self._set(prefix, _last(prefix))
            return self._ids[prefix], None
        self._set(prefix, prefix.value)
        self._set(other, _last(other))
        return prefix.value, other

    def release(self, prefix: Prefix) -> int | None:
        """Take the id from a prefix; give it."""
        held = self._ids.pop(prefix, None)
        if held is not None and self._taken.get(held) == prefix:
            del self._taken[held]
        return held

    def _set(self, prefix: Prefix, identifier: int) -> None:
        self._ids[prefix] = identifier
        self._taken[identifier] = prefix


def _last(prefix: Prefix) -> int:
    return prefix.value | (~mask(4, prefix.length) & 0xFFFFFFFF)
