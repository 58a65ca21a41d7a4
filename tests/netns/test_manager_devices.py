"""Devices come back as they were: after release, after a stop, after a crash of everything."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from lab import Lab, Namespace, run, wait_until

pytestmark = [pytest.mark.root]


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab() as made:
        yield made


def router(device: str, address: str = "10.0.0.1/24", **more: Any) -> dict[str, Any]:
    return {"interfaces": {"lan": {"device": device, "addresses": [address], **more}}}


def snapshot(namespace: Namespace, device: str) -> dict[str, Any]:
    """What an operator would miss: name, MAC, MTU, master, flags, addresses, routes, disciplines, offloads."""
    link = json.loads(namespace.ip("-j", "-d", "link", "show", "dev", device).stdout)[0]
    kept = {key: link.get(key) for key in ("ifname", "address", "mtu", "master", "promiscuity")}
    kept["flags"] = sorted(set(link["flags"]) & {"UP", "PROMISC", "ALLMULTI"})
    addresses = json.loads(namespace.ip("-j", "address", "show", "dev", device).stdout)[0]["addr_info"]
    kept["addresses"] = sorted(
        (entry["local"], entry["prefixlen"], entry["scope"], entry.get("label"), entry.get("broadcast"))
        for entry in addresses
    )
    kept["routes"] = sorted(
        json.dumps(route, sort_keys=True)
        for family in ("-4", "-6")
        for route in json.loads(namespace.ip("-j", family, "route", "show", "table", "all").stdout)
        if route.get("dev") == device or any(hop.get("dev") == device for hop in route.get("nexthops", ()))
    )
    kept["qdiscs"] = namespace.run("tc", "qdisc", "show", "dev", device).stdout
    kept["offloads"] = namespace.run("ethtool", "-k", device).stdout
    return kept


def dress(lab: Lab) -> dict[str, Any]:
    """Give the device `port` of the box all that can be restored."""
    box = lab.box
    for command in (
        "link set port down",
        "link set port address 02:11:22:33:44:55 mtu 1430",
        "link set port promisc on up",
        "address add 172.16.0.1/24 brd + dev port",
        "address add 172.16.0.7/24 dev port label port:7",
        "address add 172.17.0.1/32 peer 172.17.0.2 dev port",
        "address add 2001:db8::1/64 dev port nodad",
        "route add 172.20.0.0/16 via 172.16.0.9 metric 77",
        "route add 172.21.0.0/16 dev port scope link src 172.16.0.7",
        "route add 172.22.0.0/16 via 192.0.2.9 dev port onlink",
        "route add 172.23.0.0/16 table 100 via 172.16.0.9",
        "route add 172.24.0.0/16 nexthop via 172.16.0.9 weight 2 nexthop via 172.16.0.10",
        "-6 route add 2001:db8:1::/48 via 2001:db8::9 metric 300",
    ):
        box.ip(*command.split())
    # The link-local address is there once the carrier has been noticed.
    wait_until(lambda: settled(box), "the device is dressed")
    return snapshot(box, "port")


def settled(box: Namespace) -> bool:
    text = box.ip("address", "show", "dev", "port").stdout
    return "fe80" in text and "tentative" not in text


def prepare(lab: Lab) -> dict[str, Any]:
    lab.host("host", "port", "10.0.0.2/24")
    return dress(lab)


def receives_joined(netns: str, device: str) -> bool:
    """Tell whether generic receive offload is on."""
    return "\ngeneric-receive-offload: on\n" in run("ip", "netns", "exec", netns, "ethtool", "-k", device).stdout


def same_again(lab: Lab, before: dict[str, Any]) -> None:
    wait_until(lambda: settled(lab.box), "the link-local address is usable")
    assert snapshot(lab.box, "port") == before


def test_release_restores_exactly(lab: Lab) -> None:
    before = prepare(lab)
    lab.configure({"red": router("port", mac="02:aa:bb:cc:dd:ee", mtu=1400, gro=True), "blue": router("other")})
    lab.start()
    assert "port" not in {link["ifname"] for link in lab.box.links()}
    assert lab.namespaces["host"].ping("10.0.0.1")
    assert receives_joined(lab.router("red")["netns"], "port")
    lab.configure({"blue": router("other")})
    lab.vr("apply")
    same_again(lab, before)


def test_stop_restores_exactly(lab: Lab) -> None:
    prepare(lab)
    lab.box.run("ethtool", "-K", "port", "gro", "on")
    before = snapshot(lab.box, "port")
    lab.configure({"red": router("port")})
    lab.start()
    lab.stop()
    same_again(lab, before)
    assert not lab.run_dir.exists()


def test_a_master_is_joined_again(lab: Lab) -> None:
    lab.host("host", "port", "10.0.0.2/24")
    made = lab.box.ip("link", "add", "bridge", "type", "bridge", check=False)
    if made.returncode:
        pytest.skip("this kernel has no bridges")
    lab.box.ip("link", "set", "bridge", "up")
    lab.box.ip("link", "set", "port", "master", "bridge")
    lab.configure({"red": router("port")})
    lab.start()
    lab.stop()
    link = json.loads(lab.box.ip("-j", "link", "show", "dev", "port").stdout)[0]
    assert link["master"] == "bridge"


def test_restart_after_a_crash_of_everything_restores(lab: Lab) -> None:
    before = prepare(lab)
    lab.configure({"red": router("port")})
    lab.start()
    pids = [pid for pid in lab.router("red")["pids"].values() if pid]
    lab.kill()
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    lab.configure({"blue": router("other")})
    lab.start()
    same_again(lab, before)


def test_the_default_route_is_not_taken(lab: Lab) -> None:
    lab.host("host", "port", "10.0.0.2/24")
    lab.box.address("port", "172.16.0.1/24")
    lab.box.ip("route", "add", "default", "via", "172.16.0.9")
    lab.configure({"blue": router("other")})
    lab.start()
    lab.configure({"blue": router("other"), "red": router("port")})
    done = lab.vr_run("apply")
    assert done.returncode == 2
    assert "default route" in json.loads(done.stdout or done.stderr)["error"]["message"]
    assert [entry["name"] for entry in lab.vr("show", "routers")] == ["blue"]
    assert lab.box.ip("route", "show", "default").stdout
    lab.configure({"blue": router("other"), "red": router("port", force=True)})
    lab.vr("apply")
    assert lab.namespaces["host"].ping("10.0.0.1")


def test_the_default_route_is_not_taken_at_start(lab: Lab) -> None:
    lab.host("host", "port", "10.0.0.2/24")
    lab.box.address("port", "172.16.0.1/24")
    lab.box.ip("route", "add", "default", "via", "172.16.0.9")
    lab.configure({"red": router("port")})
    lab.start()
    assert "default route" in lab.log()
    assert lab.box.ip("route", "show", "default").stdout


def test_a_device_that_is_made_again_is_coupled_again(lab: Lab) -> None:
    host = lab.host("host", "port", "10.0.0.2/24")
    lab.configure({"red": router("port")})
    lab.start()
    assert host.ping("10.0.0.1")
    pids = lab.router("red")["pids"]
    host.ip("link", "delete", "eth0")
    wait_until(lambda: lab.interface("red", "lan")["state"] != "up", "the interface is down")
    lab.veth("port", None, host, "eth0", far_address="10.0.0.2/24")
    wait_until(lambda: host.ping("10.0.0.1", wait=0.2), "the new device works")
    assert lab.router("red")["pids"] == pids


def test_link_state_follows_the_carrier(lab: Lab) -> None:
    host = lab.host("host", "port", "10.0.0.2/24")
    lab.configure({"red": router("port")})
    lab.start()
    assert lab.interface("red", "lan")["state"] == "up"
    host.ip("link", "set", "eth0", "down")
    wait_until(lambda: lab.interface("red", "lan")["state"] == "down", "the interface is down")
    host.ip("link", "set", "eth0", "up")
    wait_until(lambda: lab.interface("red", "lan")["state"] == "up", "the interface is up")
    wait_until(lambda: host.ping("10.0.0.1", wait=0.2), "it works again")


def test_two_devices_of_one_name_from_two_namespaces(lab: Lab) -> None:
    far, host = lab.namespace("far"), lab.namespace("host")
    lab.veth("port", None, host, "near0", far_address="10.0.0.2/24")
    lab.veth("port", far, host, "far0", far_address="10.0.1.2/24")
    lab.configure(
        {
            "red": {
                "interfaces": {
                    "near": {"device": "port", "addresses": ["10.0.0.1/24"]},
                    "far": {"device": "port", "netns": far.name, "addresses": ["10.0.1.1/24"]},
                }
            }
        }
    )
    lab.start()
    assert host.ping("10.0.0.1")
    assert host.ping("10.0.1.1")
    lab.stop()
    assert {"port"} <= {link["ifname"] for link in lab.box.links()}
    assert {"port"} <= {link["ifname"] for link in far.links()}


@contextlib.contextmanager
def frames_of(namespace: Namespace, device: str) -> Iterator[socket.socket]:
    with namespace.entered():
        tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        tap.bind((device, 3))
    tap.settimeout(10)
    with tap:
        yield tap


def arp_request(source_mac: bytes, source: str, target: str, vlan: int | None) -> bytes:
    tag = struct.pack("!HH", 0x8100, vlan) if vlan is not None else b""
    body = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    body += source_mac + socket.inet_aton(source) + bytes(6) + socket.inet_aton(target)
    return b"\xff" * 6 + source_mac + tag + struct.pack("!H", 0x0806) + body


def tagged_answer(tap: socket.socket, vlan: int) -> bool:
    """Tell whether an ARP reply with this VLAN, and none with another, comes within the time."""
    tap.setsockopt(263, 8, 1)  # PACKET_AUXDATA
    with contextlib.suppress(TimeoutError):
        while True:
            frame, ancillary, _flags, address = tap.recvmsg(2048, 64)
            if address[2] == socket.PACKET_OUTGOING or frame[12:14] != b"\x08\x06" or frame[21] != 2:
                continue
            tci = next((struct.unpack("IIIHHHH", data)[5] for _l, kind, data in ancillary if kind == 8), 0)
            assert tci & 0xFFF == vlan
            return True
    return False


def test_vlans_of_a_shared_nic_are_apart(lab: Lab) -> None:
    host = lab.namespace("host")
    lab.veth("trunk", None, host, "eth0")
    lab.box.address("trunk", "172.16.0.1/24")
    # The kernel adds routes to its link-local address when that is no longer tentative.
    wait_until(lambda: "tentative" not in lab.box.ip("address", "show", "dev", "trunk").stdout, "addresses")
    lab.configure(
        {
            "red": router("trunk", "10.0.0.1/24", vlan=100),
            "blue": router("trunk", "10.0.0.1/24", vlan=200),
            "green": {"interfaces": {"lo": {"addresses": ["10.9.9.9/32"]}}},
        }
    )
    before = snapshot(lab.box, "trunk")
    lab.start()
    mac = bytes.fromhex(host.run("cat", "/sys/class/net/eth0/address").stdout.strip().replace(":", ""))
    with frames_of(host, "eth0") as tap:
        for vlan in (100, 200):
            tap.send(arp_request(mac, "10.0.0.2", "10.0.0.1", vlan))
            assert tagged_answer(tap, vlan)
        counted = {name: lab.interface(name, "lan")["counters"]["rx_packets"] for name in ("red", "blue")}
        for other in (300, 100 | 0x1000 << 1, None):  # another VLAN, a priority that changes nothing, untagged
            tap.send(arp_request(mac, "10.0.0.3", "10.0.0.1", other))
        assert tagged_answer(tap, 100)
        after = {name: lab.interface(name, "lan")["counters"]["rx_packets"] for name in ("red", "blue")}
    assert after == {"red": counted["red"] + 1, "blue": counted["blue"]}
    # The kernel goes on with what is untagged.
    host.address("eth0", "172.16.0.2/24")
    assert host.ping("172.16.0.1")
    lab.stop()
    assert snapshot(lab.box, "trunk") == before
    assert {link["ifname"] for link in lab.box.links()} == {"lo", "trunk"}


def test_a_router_cannot_hop_to_another_vlan(lab: Lab) -> None:
    """A tagged frame from the VR's end of the veth is dropped, not tagged again nor passed on."""
    host = lab.namespace("host")
    lab.veth("trunk", None, host, "eth0")
    lab.configure({"red": router("trunk", vlan=100), "blue": router("trunk", vlan=200)})
    lab.start()
    netns = lab.router("red")["netns"]
    inside = Namespace.__new__(Namespace)
    inside.name, inside.path = netns, lab.box.path.parent / netns
    device = next(link["ifname"] for link in inside.links() if link["ifname"] != "lo")
    with frames_of(host, "eth0") as tap, frames_of(inside, device) as hostile:
        mac = b"\x02\0\0\0\0\x09"
        hostile.send(arp_request(mac, "10.0.0.66", "10.0.0.1", 200))
        hostile.send(arp_request(mac, "10.0.0.77", "10.0.0.1", None))
        seen = []
        # The tagged one was sent first: what comes of both has come with the other.
        with contextlib.suppress(TimeoutError):
            while "10.0.0.77" not in seen:
                frame = tap.recv(2048)
                if frame[6:12] == mac:
                    seen.append(socket.inet_ntoa(frame[28:32]))
    assert seen == ["10.0.0.77"]
