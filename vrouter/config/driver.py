"""How frames are exchanged with a device: the words of `driver`.

auto          whatever suits the device best; the manager says which, and why
af-packet     packet socket with a receive ring of version 2
af-packet-v3  the same of version 3: whole blocks, a millisecond late, for bulk TCP
af-xdp        AF_XDP socket behind a program of ours at the driver
tap           a device that the manager makes, with the router behind it
pcap          files of captured frames, in and out
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from vrouter.config.constraints import File
from vrouter.config.option import Impact, option

# Of devices that are there without us: what a router can have as its default.
DeviceDriver = Literal["auto", "af-packet", "af-packet-v3", "af-xdp"]
# Where plain transit packets are forwarded: docs/offload.md.
Offload = Literal["none", "xdp", "tc"]
Driver = Literal["auto", "af-packet", "af-packet-v3", "af-xdp", "tap", "pcap"]


@dataclass(frozen=True, kw_only=True)
class Pcap:
    """An interface that is two files: what it receives, and what it sends."""

    in_: Annotated[str, File()] | None = option(
        "Capture file (pcap or pcapng) whose frames the router receives; at its end the link goes down.",
        Impact.LINK,
        None,
        "/var/lib/anabranch/in.pcapng",
    )
    out: Annotated[str, File()] | None = option(
        "File that gets what the router sends, as pcap, from its beginning; without it that is thrown away.",
        Impact.LINK,
        None,
        "/var/lib/anabranch/out.pcap",
    )
    speed: Literal["max", "real"] = option(
        "`max`: frames come as fast as they are taken; `real`: at the distances of their timestamps.",
        Impact.LINK,
        "max",
    )
