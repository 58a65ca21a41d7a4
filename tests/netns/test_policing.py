"""Policers and control-plane policing of a whole router: from the configuration to what passes, live."""

from __future__ import annotations

import contextlib
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import pytest
from hosts import check_laws, drops
from lab import Lab, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

PORT: Final = 7300
PAYLOAD: Final = bytes(972)  # with its headers 1000 bytes


def configuration(police: dict[str, Any], control: dict[str, Any]) -> dict[str, Any]:
    return {
        "red": {
            "interfaces": {
                "in": {"device": "in", "addresses": ["10.0.0.1/24"], "police": police},
                "out": {"device": "out", "addresses": ["10.0.1.1/24"]},
            },
            "control-plane": control,
        }
    }


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        for name, device, net in (("alice", "in", "10.0.0"), ("bob", "out", "10.0.1")):
            host = made.host(name, device, f"{net}.2/24", gateway=f"{net}.1")
            # Its solicitations and multicast reports would be policed, and counted, like all else.
            host.run("sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
        made.configure(configuration({}, {}))
        made.start()
        wait_until(partial(made.namespaces["alice"].ping, "10.0.1.2", wait=0.2), "the path is there")
        yield made


def send(lab: Lab, source: str, target: str, count: int) -> tuple[int, float]:
    """Send datagrams at once from one host to another; give how many arrive, and within how many seconds."""
    kind = (socket.AF_INET, socket.SOCK_DGRAM)
    with lab.namespaces[source].socket(*kind) as sender, lab.namespaces[target].socket(*kind) as receiver:
        address = {"alice": "10.0.0.2", "bob": "10.0.1.2"}[target]
        receiver.bind((address, PORT))
        receiver.settimeout(2)
        arrived, begin = 0, time.monotonic()
        last = begin
        for _ in range(count):
            sender.sendto(PAYLOAD, (address, PORT))
        sent = time.monotonic()
        with contextlib.suppress(TimeoutError):
            while arrived < count:
                receiver.recv(2048)
                arrived += 1
                last = time.monotonic()
        return arrived, max(last, sent) - begin


def test_policers_follow_the_configuration(lab: Lab) -> None:
    assert send(lab, "alice", "bob", 60)[0] == 60
    lab.configure(configuration({"in": {"rate": "80kbps", "burst": "20000"}, "out": "10/s"}, {}))
    lab.vr("apply")
    time.sleep(0.1)
    passed, seconds = send(lab, "alice", "bob", 60)
    assert 20 <= passed <= 21 + 10 * seconds
    shown = {it["direction"]: it for it in lab.vr("show", "policers", "red")}
    assert (shown["in"]["rate"], shown["in"]["burst"], shown["in"]["unit"]) == (80_000, 20_000, "bits")
    assert shown["in"]["dropped_packets"] == 60 - passed
    assert shown["in"]["passed_packets"] == passed
    assert shown["in"]["dropped_bytes"] == 1000 * (60 - passed)
    assert (shown["out"]["interface"], shown["out"]["burst"], shown["out"]["unit"]) == ("in", 64, "packets")
    back, seconds = send(lab, "bob", "alice", 100)
    assert 64 <= back <= 65 + 10 * seconds
    counted = drops(lab, "red")
    assert counted["police_in"] == 60 - passed
    assert counted["police_out"] == 100 - back
    lab.configure(configuration({}, {}))
    lab.vr("apply")
    assert lab.vr("show", "policers", "red") == []
    assert send(lab, "alice", "bob", 60)[0] == 60
    check_laws(lab, "red")


def test_classes_follow_the_configuration(lab: Lab) -> None:
    lab.configure(configuration({}, {"echo": {"rate": "1/s", "burst": "3"}, "app": "none"}))
    lab.vr("apply")
    time.sleep(0.1)
    begin = time.monotonic()
    told = (
        lab.namespaces["alice"]
        .run("ping", "-n", "-q", "-c", "20", "-i", "0.01", "-W", "2", "10.0.0.1", check=False)
        .stdout
    )
    received = int(told.partition(" received")[0].rpartition(" ")[2])
    assert 3 <= received <= 4 + time.monotonic() - begin
    shown = {it["class"]: it for it in lab.vr("show", "control-plane", "red")}
    assert (shown["echo"]["rate"], shown["echo"]["burst"], shown["app"]["rate"]) == (1, 3, None)
    assert shown["echo"]["dropped"] == drops(lab, "red")["control_plane"] == 20 - received
    assert shown["neighbor"]["rate"] == 5000
    lines = lab.vr_run("show", "control-plane", "red", json_output=False).stdout.splitlines()
    assert lines[0].split() == ["CLASS", "RATE", "BURST", "PASSED", "DROPPED"]
    check_laws(lab, "red")
