"""A VR's TCP under a flood of SYNs, and on links that tell of congestion before they lose anything (RFC 3168)."""

from __future__ import annotations

import socket
import subprocess
import threading
import time
from pathlib import Path as File
from typing import TYPE_CHECKING, Final

import pytest
from compiled import TRAFFIC, program
from hosts import Capture, drops
from lab import Lab
from tcp_ends import (
    MIB,
    PATHS,
    Ends,
    Info,
    Path,
    closed,
    in_order,
    laws,  # noqa: F401 - a fixture
    reachable,
    transfer,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.quiet, pytest.mark.root]

ECN: Final = 8
FLOOD_RATE, FLOOD_SECONDS = 50_000, 2
SOURCE: Final = TRAFFIC / "synflood.c"


@pytest.fixture(scope="module")
def ends() -> Iterator[Ends]:
    """Give a VR with a host, and behind another interface the world that SYNs come from."""
    with Lab() as lab:
        host = lab.host("host", "lan", "10.0.0.2/24")
        host.address("eth0", "2001:db8::2/64")
        host.run("sysctl", "-q", "-w", "net.ipv4.tcp_ecn=1")
        flood = lab.host("flood", "wan", "10.0.1.2/24")
        in_order((lab.box, "lan"), (host, "eth0"))
        lab.configure(
            {
                "red": {
                    "interfaces": {
                        "lan": {"device": "lan", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]},
                        "wan": {"device": "wan", "addresses": ["10.0.1.1/24"]},
                    },
                    "static": {"198.18.0.0/15": {"via": "10.0.1.2"}},
                }
            }
        )
        lab.start()
        reachable(host, *(path.ours for path in PATHS))
        reachable(flood, "10.0.1.1")
        with Ends(lab, "red", host, *PATHS) as made:
            yield made


def serve(listener: socket.socket, over: threading.Event) -> None:
    """Accept, answer one byte, and close, until it is over."""
    while not over.is_set():
        try:
            taken, _peer = listener.accept()
        except TimeoutError:
            continue
        with taken:
            taken.settimeout(2)
            taken.sendall(taken.recv(1))


def test_a_flood_of_syns(ends: Ends) -> None:
    """RFC 4987: who comes meanwhile is served, and what is established goes on."""
    flood = ends.lab.namespaces["flood"]
    listener = ends.open()
    port = ends.listen(PATHS[0], listener, ours=True)
    listener.settimeout(0.2)
    over = threading.Event()
    server = threading.Thread(target=serve, args=(listener, over), daemon=True)
    ours, theirs = ends.connect(PATHS[0], by_us=False)
    mac = flood.ip("neigh", "show", "10.0.1.1").stdout.split()[4]
    server.start()
    words = ("eth0", mac, PATHS[0].ours, str(port), str(FLOOD_RATE), str(FLOOD_SECONDS))
    sender = ends.lab.helper(flood.command(program(SOURCE), *words), stdout=subprocess.PIPE, text=True)
    tried = served = exchanged = 0
    longest = 0.0
    while sender.poll() is None:
        tried += 1
        with ends.host.socket(socket.AF_INET, socket.SOCK_STREAM) as visitor:
            visitor.settimeout(3)
            try:
                visitor.connect((PATHS[0].ours, port))
                visitor.sendall(b"x")
                served += visitor.recv(1) == b"x"
            except OSError as error:
                print(f"visitor {tried}: {error}")
        begin = time.monotonic()
        for source, sink in ((ours, theirs), (theirs, ours)):
            source.sendall(b"y" * 1000)
            left = 1000
            while left:
                left -= len(sink.recv(left))
        longest = max(longest, time.monotonic() - begin)
        exchanged += 1
    over.set()
    server.join()
    assert sender.stdout is not None
    sent, took = sender.stdout.read().split()
    info = Info.of(ours)
    print(f"{sent} SYNs in {took} s; {served} of {tried} served, {exchanged} exchanges, the longest {longest:.3f} s")
    assert int(sent) / float(took) > 0.7 * FLOOD_RATE
    assert tried >= 50
    assert served >= 0.99 * tried
    assert longest < 1
    assert info.retransmits == 0
    transfer(ours, theirs, MIB)
    shown = ends.lab.vr("show", "sockets", "red")
    half_open = sum(entry.get("count", 0) for entry in shown if entry["state"] == "syn-received")
    assert half_open <= 4096
    assert drops(ends.lab, "red").get("tcp_no_memory", 0) == 0


def mark(ends: Ends, hook: str, address: str, every: int) -> None:
    """Let the host's link tell of congestion in each n-th packet of that destination that can take it."""
    family = "ip6" if ":" in address else "ip"
    rules = f"""
        table netdev marks {{
            chain marks {{
                type filter hook {hook} device "eth0" priority 0;
                {family} daddr {address} meta length > 500 numgen inc mod {every} == 0 {family} ecn set ce
            }}
        }}
    """
    ends.host.run("sh", "-c", f"nft -f - <<'EOF'\n{rules}\nEOF")


@pytest.fixture
def unmarked(ends: Ends) -> Iterator[None]:
    yield
    ends.host.run("nft", "delete", "table", "netdev", "marks", check=False)


@pytest.mark.usefixtures("unmarked")
@pytest.mark.parametrize("path", PATHS)
def test_the_kernel_hears_of_congestion_from_us(ends: Ends, path: Path, tmp_path: File) -> None:
    """Marks on what it sends: we echo each until it has reduced its window, and says so."""
    ours, theirs = ends.connect(path, by_us=False)
    assert Info.of(ours).options & ECN
    assert Info.of(theirs).options & ECN
    mark(ends, "egress", path.ours, 20)
    capture = Capture(ends.lab, ends.host, tmp_path / "ecn.pcap")
    transfer(theirs, ours, 2 * MIB, end=False)
    info = Info.of(theirs)
    assert info.total_retrans <= 2
    assert info.delivered_ce > 0
    sender = f"ip{'v6' if ':' in path.ours else ''}.src == "
    assert capture.fields("frame.number", where=f"{sender}{path.ours} && tcp.flags.ece == 1 && tcp.flags.syn == 0")
    assert capture.fields("frame.number", where=f"{sender}{path.theirs} && tcp.flags.cwr == 1 && tcp.flags.syn == 0")
    closed(ours, theirs)


@pytest.mark.usefixtures("unmarked")
@pytest.mark.parametrize("path", PATHS)
def test_we_hear_of_congestion(ends: Ends, path: Path, tmp_path: File) -> None:
    """Marks on what we send: once in a round trip we halve our window and say so, and nothing is sent twice."""
    ours, theirs = ends.connect(path, by_us=False)
    mark(ends, "ingress", path.theirs, 20)
    capture = Capture(ends.lab, ends.host, tmp_path / "ecn.pcap")
    transfer(ours, theirs, 2 * MIB, end=False)
    info = Info.of(ours)
    assert info.total_retrans <= 2
    assert info.snd_cwnd < 100, info
    sender = f"ip{'v6' if ':' in path.ours else ''}.src == "
    assert capture.fields("frame.number", where=f"{sender}{path.theirs} && tcp.flags.ece == 1 && tcp.flags.syn == 0")
    assert capture.fields("frame.number", where=f"{sender}{path.ours} && tcp.flags.cwr == 1 && tcp.flags.syn == 0")
    protocol = "ipv6.tclass.ecn" if ":" in path.ours else "ip.dsfield.ecn"
    data = capture.fields(protocol, where=f"{sender}{path.ours} && tcp.len > 0")
    assert {row[0] for row in data} <= {"2", "0x02"}, data[:5]  # ECT(0)
    bare = capture.fields(protocol, where=f"{sender}{path.ours} && tcp.len == 0")
    assert {row[0] for row in bare} <= {"0", "0x00"}
    closed(ours, theirs)


def test_who_does_not_ask_gets_no_ecn(ends: Ends) -> None:
    """By default we only answer; a connection of ours is without."""
    ours, theirs = ends.connect(PATHS[0], by_us=True)
    assert not Info.of(ours).options & ECN
    assert not Info.of(theirs).options & ECN
    closed(ours, theirs)
