"""Devices of the kernel: taken into a VR's namespace, shared by VLAN, and given back as they were.

    take         source namespace --move--> VR's namespace; no master, no addresses, filter, up
    share        NIC stays; per VLAN:  NIC ingress --pop--> veth --> VR,  VR --> veth --push--> NIC
    give back    the reverse, from the journal's entry alone, from whatever state a crash left

Where it is asked for, a device's generic receive offload is on while it is coupled: a byte of a stream then costs a
ring a small part of what it does in single frames.  It is not by itself: a veth polls (NAPI) for it, behind a queue of
256 frames, and a kernel that sends single frames in larger bursts loses some there.

A device comes back with its name, MAC, MTU, master, flags, addresses, routes and that offload as they were.  Not
restored: queueing disciplines and per-device sysctls, which the kernel forgets with a move.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from manager import bpf, ethtool, namespaces, xdp
from manager.journal import Entry, Journal
from manager.kernel import inside
from manager.netlink import (
    ADDRESS_SIZE,
    IFF_ALLMULTI,
    IFF_LOOPBACK,
    IFF_PROMISC,
    IFF_UP,
    ROUTE_SIZE,
    RTA_GATEWAY,
    RTA_MULTIPATH,
    RTA_OIF,
    RTM_F_CLONED,
    RTPROT_KERNEL,
    Link,
    Netlink,
    attribute,
    attributes,
)

RTA_PREFSRC: Final = 7
IFA_ADDRESS: Final = 1
IFA_LOCAL: Final = 2
IFA_FLAGS: Final = 8
IFA_F_TEMPORARY: Final = 1
RTNH_F_ONLINK: Final = 4
# A veth's lower device is its peer: nothing stands upon it.
PAIRED: Final = {"veth", "netkit"}


class RefusedError(Exception):
    """The operator would lose the machine: only `force: true` takes this device."""


class GoneError(Exception):
    """The device, or the namespace it is in, is not there."""


@contextlib.contextmanager
def netlink_in(path: Path) -> Iterator[tuple[Netlink, int]]:
    """Open a namespace and a netlink socket in it; GoneError when it is not there."""
    try:
        fd = namespaces.open_path(path)
    except FileNotFoundError as error:
        raise GoneError(f"no network namespace {path}") from error
    try:
        with Netlink(fd) as netlink:
            yield netlink, fd
    finally:
        os.close(fd)


def find(path: Path, device: str) -> Link | None:
    """Look a device up in a namespace; None: either is missing."""
    try:
        with netlink_in(path) as (netlink, _fd):
            return netlink.link(device)
    except GoneError:
        return None


def why_refused(path: Path, device: str) -> str | None:
    """Tell why taking a device would cut somebody off; None: it would not."""
    with netlink_in(path) as (netlink, _fd):
        links = netlink.links()
        link = links.get(device)
        if link is None:
            return None
        if link.flags & IFF_LOOPBACK:
            return f"{device} is the loopback of its namespace"
        above = _above(link, list(links.values()))
        for body in netlink.routes():
            kind, length = body[7], body[1]
            if kind == 1 and length == 0 and above & _route_devices(body):
                return f"the default route of {path.name if path != namespaces.OWN else 'this host'} runs over {device}"
        if path == namespaces.OWN and (session := _operator_session()):
            peer, local = session
            carries = any(local == address for index, address in _all_addresses(netlink) if index in above)
            if carries or netlink.route_to(peer) in above:
                return f"your own session, from {peer}, runs over {device}"
    return None


def refuse(path: Path, device: str) -> None:
    """Raise RefusedError where taking a device would cut somebody off."""
    if reason := why_refused(path, device):
        raise RefusedError(reason)


def take(journal: Journal, key: str, router: str, path: Path, device: str, target: str) -> tuple[Entry, Link]:
    """Move a device into the VR's namespace, bare; give its entry and what it is there."""
    with netlink_in(path) as (source, source_fd), netlink_in(namespaces.path_of(target)) as (there, there_fd):
        link = source.link(device)
        if link is None:
            raise GoneError(f"no device {device}")
        taken = there.links()
        name = device if device not in taken else f"ab{link.index}"
        entry = replace(
            _describe(source, source_fd, link, key, router, path), target=target, target_name=name, kind="device"
        )
        journal.write(entry)
        try:
            if link.master:
                source.set_link(link.index, master=0)
            source.move_link(link.index, there_fd, name)
            moved = there.link(name)
            if moved is None:
                raise GoneError(f"{device} vanished on its way")
        except OSError:
            give_back(journal, entry)
            raise
        return entry, moved


def prepare(netns_fd: int, index: int, *, mac: str | None, mtu: int | None, gro: bool) -> Link:
    """Give a coupled device the filter that blinds the kernel's IP stack, its MAC, MTU and offload, and set it up."""
    with Netlink(netns_fd) as netlink:
        link = netlink.link_at(index)
        if link is None:
            raise GoneError("the device is gone")
        if mac is not None and mac != link.mac:
            netlink.set_link(index, up=False)  # many drivers change it only then
            netlink.set_link(index, mac=mac)
        if mtu is not None and mtu != link.mtu:
            netlink.set_link(index, mtu=mtu)
        bpf.add_clsact(netlink, index)
        bpf.attach(netlink, index, bpf.drop_program())
        if gro:
            with contextlib.suppress(OSError):  # some devices cannot, and are only slower
                ethtool.set_gro(netns_fd, link.name, on=True)
        netlink.set_link(index, up=True)
        return netlink.link_at(index) or link


def veth_name(run_dir: Path, router: str, device: str, vlan: int) -> str:
    """Name our end of a veth; 15 characters at most, the same in each run."""
    digest = hashlib.sha256(f"{run_dir.resolve()}/{router}/{device}/{vlan}".encode()).hexdigest()
    return f"ab{digest[:12]}"


def share(
    journal: Journal,
    key: str,
    router: str,
    path: Path,
    device: str,
    vlan: int,
    veth: str,
    target: str,
    inner: str,
    mac: str | None,
) -> tuple[Entry, Link]:
    """Give a VR one VLAN of a NIC, as a veth called `inner` in its namespace; give that end."""  # fmt: skip
    with netlink_in(path) as (source, source_fd), netlink_in(namespaces.path_of(target)) as (there, there_fd):
        nic = source.link(device)
        if nic is None:
            raise GoneError(f"no device {device}")
        # What was there before the first of several VLANs, not before this one.
        mine = ("share", nic.index, _source(path))
        others = [other for other in journal.entries() if (other.kind, other.ifindex, other.source) == mine]
        entry = replace(
            _describe(source, source_fd, nic, key, router, path),
            kind="share", target=target, target_name=inner, veth=veth, vlan=vlan, addresses=(), routes=(),
            clsact=others[0].clsact if others else source.has_clsact(nic.index),
            flags=others[0].flags if others else nic.flags,
        )  # fmt: skip
        journal.write(entry)
        try:
            if stale := source.link(veth):
                source.delete_link(stale.index)
            source.add_veth(veth, inner, there_fd, mac or nic.mac, nic.mtu)
            outer, end = source.link(veth), there.link(inner)
            if outer is None or end is None:
                raise GoneError(f"the veth of {device} vanished")
            _silence(source_fd, veth)
            bpf.add_clsact(source, outer.index)
            bpf.attach(source, outer.index, bpf.from_router_program(vlan, nic.index))
            # Promiscuous: a NIC that filters VLANs or MACs in hardware would keep the VRs' frames.
            source.set_link(nic.index, up=True, flags=(IFF_PROMISC | IFF_ALLMULTI, IFF_PROMISC | IFF_ALLMULTI))
            source.set_link(outer.index, up=True)
            bpf.add_clsact(source, nic.index)
            bpf.attach(source, nic.index, bpf.to_router_program(vlan, outer.index), vlan + 1)
        except OSError:
            give_back(journal, entry)
            raise
        return entry, end


def _silence(netns_fd: int, device: str) -> None:
    """Keep the kernel's own IPv6 (MLD, router solicitations) from talking into a VR."""
    with inside(netns_fd), contextlib.suppress(FileNotFoundError):
        Path(f"/proc/sys/net/ipv6/conf/{device}/disable_ipv6").write_text("1")


def give_back(journal: Journal, entry: Entry) -> list[str]:
    """Undo a coupling, from whatever state it is in; give what could not be undone."""
    source = _source_path(entry)
    if source is None:
        journal.remove(entry.key)
        return [f"the namespace that {entry.device} came from is gone"]
    if entry.kind == "share":
        problems = _give_back_share(journal, entry, source)
    else:
        others = {other.target_name for other in journal.entries() if other.target == entry.target and other != entry}
        problems = _give_back_device(entry, source, others)
    journal.remove(entry.key)
    return problems


def _give_back_device(entry: Entry, source: Path, others: set[str]) -> list[str]:
    with netlink_in(source) as (home, home_fd):
        try:
            with netlink_in(namespaces.path_of(entry.target)) as (there, _fd):
                # By name: the kernel gives a device another index where the old one is taken.  By index
                # only where it was renamed, and never one that belongs to another entry.
                link = there.link(entry.target_name) or there.link_at(entry.ifindex)
                if link is not None and link.name != "lo" and link.name not in others:
                    _undress(there, link, entry)
                    # A stranger may have the name by now: then any other, rather than losing the device.
                    free = home.link(entry.device) is None
                    there.move_link(link.index, home_fd, entry.device if free else f"ab{link.index}")
                    if not free:
                        return [f"another device is called {entry.device} by now: yours is ab{link.index}"]
        except GoneError:
            pass
        link = home.link(entry.device)
        if link is None:
            return [f"{entry.device} is gone"]
        if link.index != entry.ifindex and link.mac != entry.mac:
            return [f"{entry.device} is another device by now: left as it is"]
        return _dress(home, home_fd, link, entry)


def _give_back_share(journal: Journal, entry: Entry, source: Path) -> list[str]:
    with netlink_in(source) as (home, _fd):
        if veth := home.link(entry.veth):
            home.delete_link(veth.index)
        nic = home.link_at(entry.ifindex)
        if nic is None:
            return []
        bpf.detach(home, nic.index, entry.vlan + 1)
        last = not any(
            other.kind == "share" and other.key != entry.key
            and (other.ifindex, other.source) == (entry.ifindex, entry.source)
            for other in journal.entries()
        )  # fmt: skip
        if last:
            if not entry.clsact:
                with contextlib.suppress(OSError):
                    home.delete_clsact(nic.index)
            wanted = IFF_PROMISC | IFF_ALLMULTI | IFF_UP
            home.set_link(nic.index, flags=(entry.flags & wanted, wanted))
    return []


def _undress(there: Netlink, link: Link, entry: Entry) -> None:
    """Take off what we put on, while the device is still with the VR."""
    with contextlib.suppress(OSError):
        there.delete_clsact(link.index)
    with contextlib.suppress(OSError):
        xdp.detach(there, link.index)
    there.set_link(link.index, up=False)
    if link.mac != entry.mac:
        there.set_link(link.index, mac=entry.mac)
    if link.mtu != entry.mtu:
        there.set_link(link.index, mtu=entry.mtu)


def _dress(home: Netlink, home_fd: int, link: Link, entry: Entry) -> list[str]:
    """Give a device that is home again all that it had."""
    problems = []

    def attempt(what: str, action: object, *arguments: object, **keywords: object) -> None:
        try:
            action(*arguments, **keywords)  # type: ignore[operator]
        except OSError as error:
            if error.errno != errno.EEXIST:
                problems.append(f"{entry.device}: {what} not restored: {error.strerror}")

    if link.mtu != entry.mtu:
        attempt("MTU", home.set_link, link.index, mtu=entry.mtu)
    if link.mac != entry.mac:
        attempt("MAC", home.set_link, link.index, mac=entry.mac)
    if entry.master:
        master = home.link(entry.master)
        attempt("master", home.set_link, link.index, master=master.index if master else 0)
    attempt("receive offload", ethtool.set_gro, home_fd, link.name, on=entry.gro)
    wanted = IFF_UP | IFF_PROMISC | IFF_ALLMULTI
    attempt("flags", home.set_link, link.index, flags=(entry.flags & wanted, wanted))
    for address in entry.addresses:
        attempt("address", home.add_address, _with_index(bytes.fromhex(address), link.index))
    for route in sorted(map(bytes.fromhex, entry.routes), key=_needs_others):
        attempt("route", home.add_route, restorable_route(route, entry.ifindex, link.index))
    return problems


def _describe(netlink: Netlink, netns_fd: int, link: Link, key: str, router: str, path: Path) -> Entry:
    addresses = netlink.addresses(link.index)
    own = {_local(body) for body in addresses}
    master = netlink.link_at(link.master) if link.master else None
    return Entry(
        key=key, kind="device", router=router, device=link.name, ifindex=link.index, source=_source(path),
        source_inode=os.fstat(netns_fd).st_ino, target="", target_name="", mtu=link.mtu, mac=link.mac,
        master=master.name if master else "", flags=link.flags, gro=ethtool.gro(netns_fd, link.name),
        addresses=tuple(body.hex() for body in addresses if not _is_temporary(body)),
        routes=tuple(body.hex() for body in netlink.routes() if _goes_with(body, link.index, own)),
    )  # fmt: skip


def _local(body: bytes) -> bytes:
    """Give the address itself: for a point-to-point one IFA_ADDRESS is the peer's."""
    found = attributes(body[ADDRESS_SIZE:])
    return found.get(IFA_LOCAL, found.get(IFA_ADDRESS, b""))


def _source(path: Path) -> str:
    return "" if path == namespaces.OWN else str(path)


def _source_path(entry: Entry) -> Path | None:
    """Find the namespace that a device came from, by its inode, not by its name alone."""
    first = Path(entry.source) if entry.source else namespaces.OWN
    named = namespaces.DIRECTORY.iterdir() if namespaces.DIRECTORY.exists() else iter(())
    return next((path for path in (first, *named) if namespaces.identity(path) == entry.source_inode), None)


def _is_temporary(body: bytes) -> bool:
    """Tell privacy addresses (RFC 8981), which the kernel makes anew by itself."""
    flags = struct.unpack("=I", attributes(body[ADDRESS_SIZE:]).get(IFA_FLAGS, bytes(4)))[0]
    return body[0] == socket.AF_INET6 and bool(flags & IFA_F_TEMPORARY)


def _with_index(body: bytes, index: int) -> bytes:
    return body[:4] + struct.pack("=I", index) + body[8:]


def _hops(multipath: bytes) -> Iterator[tuple[int, bytes]]:
    """Walk a multipath attribute: (ifindex, struct rtnexthop with its attributes)."""
    offset = 0
    while offset + 8 <= len(multipath):
        length, _flags, _weight, index = struct.unpack_from("=HBBi", multipath, offset)
        if length < 8:
            return
        yield index, multipath[offset : offset + length]
        offset += (length + 3) & ~3


def _route_devices(body: bytes) -> set[int]:
    found = attributes(body[ROUTE_SIZE:])
    devices = {index for index, _hop in _hops(found.get(RTA_MULTIPATH, b""))}
    if RTA_OIF in found:
        devices.add(struct.unpack("=I", found[RTA_OIF])[0])
    return devices


def _goes_with(body: bytes, index: int, own: set[bytes]) -> bool:
    """Tell a route that the kernel drops with the device and does not make again by itself."""
    (flags,) = struct.unpack_from("=I", body, 8)
    if flags & RTM_F_CLONED or body[5] == RTPROT_KERNEL:
        return False
    return index in _route_devices(body) or attributes(body[ROUTE_SIZE:]).get(RTA_PREFSRC) in own


def _needs_others(body: bytes) -> bool:
    """Tell a route whose gateway must be reachable by another one first."""
    found = attributes(body[ROUTE_SIZE:])
    return RTA_GATEWAY in found or RTA_MULTIPATH in found


def restorable_route(body: bytes, old: int, new: int) -> bytes:
    """Make a dumped route fit for adding: without what describes its state, with the device's present index."""
    (flags,) = struct.unpack_from("=I", body, 8)
    result = body[:8] + struct.pack("=I", flags & RTNH_F_ONLINK)
    for kind, value in attributes(body[ROUTE_SIZE:]).items():
        kept = value
        if kind == RTA_OIF and struct.unpack("=I", value)[0] == old:
            kept = struct.pack("=I", new)
        elif kind == RTA_MULTIPATH:
            kept = b""
            for index, hop in _hops(value):
                head = struct.pack("=HBBi", len(hop), hop[2] & RTNH_F_ONLINK, hop[3], new if index == old else index)
                kept += head + hop[8:] + bytes(-len(hop) % 4)
        elif kind == 12:  # RTA_CACHEINFO: ages and counters
            continue
        result += attribute(kind, kept)
    return result


def _above(link: Link, links: list[Link]) -> set[int]:
    """Give a device and all that stand upon it: its master, and VLANs and the like over it."""
    found = {link.index}
    while True:
        more = {other.index for other in links if other.lower in found and other.kind and other.kind not in PAIRED}
        more |= {other.master for other in links if other.index in found and other.master}
        if more <= found:
            return found
        found |= more


def _all_addresses(netlink: Netlink) -> Iterator[tuple[int, str]]:
    for body in netlink.all_addresses():
        raw = _local(body)
        if len(raw) in {4, 16}:
            family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
            yield struct.unpack_from("=I", body, 4)[0], socket.inet_ntop(family, raw)


def _operator_session() -> tuple[str, str] | None:
    """Find the SSH connection we were started in: (peer, local).  sudo hides it, our ancestors show it."""
    for process in (os.getpid(), *namespaces.ancestors()):
        try:
            environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        for variable in environment:
            words = variable.removeprefix(b"SSH_CONNECTION=").decode(errors="replace").split()
            if variable.startswith(b"SSH_CONNECTION=") and len(words) == 4:
                return words[0].removeprefix("::ffff:"), words[2].removeprefix("::ffff:")
    return None
