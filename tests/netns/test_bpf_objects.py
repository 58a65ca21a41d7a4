"""BPF programs as they are built: loaded, attached, replaced and taken off, and what goes wrong is told."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from manager import bpf_objects, namespaces, xdp
from manager.netlink import Netlink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.root

XDP_PASS = 2
PAIR = ("bpf0", "bpf1")
NAMESPACE = f"abbpf{os.getpid()}"


@pytest.fixture
def device() -> Iterator[tuple[Netlink, int]]:
    """A veth in a namespace of its own: (netlink, index)."""
    subprocess.run(["ip", "netns", "add", NAMESPACE], check=True)
    try:
        subprocess.run(
            ["ip", "-n", NAMESPACE, "link", "add", PAIR[0], "type", "veth", "peer", "name", PAIR[1]], check=True
        )
        fd = namespaces.open_path(namespaces.path_of(NAMESPACE))
        try:
            with Netlink(fd) as netlink:
                link = netlink.link(PAIR[0])
                assert link is not None
                yield netlink, link.index
        finally:
            os.close(fd)
    finally:
        subprocess.run(["ip", "netns", "del", NAMESPACE], check=True)


def test_a_program_is_attached_replaced_and_taken_off(device: tuple[Netlink, int]) -> None:
    netlink, index = device
    with bpf_objects.load("redirect", entries={"sockets": 4}) as first:
        assert xdp.attach_best(netlink, index, first.fd) == "native"
        mode, number = xdp.attached(netlink, index)
        assert mode == "native"
        assert xdp.is_ours(number)
    # The device keeps it when all fds are closed.
    assert xdp.attached(netlink, index) == ("native", number)
    with bpf_objects.load("redirect", entries={"sockets": 4}) as second:
        xdp.attach(netlink, index, second.fd, "native")
        assert xdp.attached(netlink, index)[1] not in {0, number}
        xdp.attach(netlink, index, second.fd, "generic")
        assert xdp.attached(netlink, index)[0] == "generic"
    xdp.detach(netlink, index)
    xdp.detach(netlink, index)
    assert xdp.attached(netlink, index) == (None, 0)


def test_a_frame_passes_where_no_socket_is() -> None:
    with bpf_objects.load("redirect", entries={"sockets": 1}) as program:
        frame = bytes(range(64))
        assert bpf_objects.run_once(program.fd, frame) == (XDP_PASS, frame)


def test_the_verifiers_words_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    good = bpf_objects._object("redirect")
    exit_alone = base64.b64encode(bytes.fromhex("9500000000000000")).decode()
    bad = {**good, "instructions": exit_alone, "map uses": [], "maps": {}}
    monkeypatch.setattr(bpf_objects, "_object", lambda _name: bad)
    with pytest.raises(OSError, match="R0 !read_ok"):
        bpf_objects.load("redirect")


def test_maps_hold_what_is_stored() -> None:
    fd = bpf_objects.create_map(bpf_objects.MapKind(1, 4, 8, 4, 0), "test")
    try:
        assert bpf_objects.get_element(fd, 7, 8) is None
        bpf_objects.set_element(fd, 7, b"12345678")
        assert bpf_objects.get_element(fd, 7, 8) == b"12345678"
        bpf_objects.delete_element(fd, 7)
        bpf_objects.delete_element(fd, 7)
        assert bpf_objects.get_element(fd, 7, 8) is None
    finally:
        os.close(fd)


def test_a_strangers_program_stays(device: tuple[Netlink, int], monkeypatch: pytest.MonkeyPatch) -> None:
    netlink, index = device
    with bpf_objects.load("redirect", entries={"sockets": 1}) as program:
        xdp.attach(netlink, index, program.fd, "native")
        monkeypatch.setattr(bpf_objects, "NAME_PREFIX", "other_")
        with pytest.raises(xdp.ForeignProgramError):
            xdp.attach_best(netlink, index, program.fd)
        xdp.detach(netlink, index)
        assert xdp.attached(netlink, index)[0] == "native"


def test_without_clang_it_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(bpf_objects, "LIBRARY", tmp_path)
    bpf_objects._object.cache_clear()
    with contextlib.ExitStack() as stack:
        stack.callback(bpf_objects._object.cache_clear)
        assert not bpf_objects.available()
        with pytest.raises(bpf_objects.NotBuiltError, match="without clang"):
            bpf_objects.load("redirect")
