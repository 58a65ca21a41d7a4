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

    def take(self, prefix: Prefix) -> tuple[int | None, Prefix | None]:
        """Give a prefix its id; and the prefix, if there is one, that had it and has another one now.

        The most specific prefix has the address of the network, shorter ones that with all host bits set, or, where
        a host has that one, the last before it that is free.  Where all are taken a prefix has none.
        """
        held = self._ids.get(prefix)
        if held is not None:
            return held, None
        other = self._taken.get(prefix.value)
        if other is None:
            self._set(prefix, prefix.value)
            return prefix.value, None
        if other.length > prefix.length:
            self._set(prefix, self._spare(prefix))
            return self._ids.get(prefix), None
        self._set(prefix, prefix.value)
        self._set(other, self._spare(other))
        return prefix.value, other

    def release(self, prefix: Prefix) -> int | None:
        """Take the id from a prefix; give it."""
        held = self._ids.pop(prefix, None)
        if held is not None and self._taken.get(held) == prefix:
            del self._taken[held]
        return held

    def _spare(self, prefix: Prefix) -> int | None:
        identifier = _last(prefix)
        while identifier in self._taken and identifier > prefix.value:
            identifier -= 1
        return identifier if identifier not in self._taken else None

    def _set(self, prefix: Prefix, identifier: int | None) -> None:
        if identifier is None:
            self._ids.pop(prefix, None)
            return
        self._ids[prefix] = identifier
        self._taken[identifier] = prefix


def _last(prefix: Prefix) -> int:
    return prefix.value | (~mask(4, prefix.length) & 0xFFFFFFFF)
