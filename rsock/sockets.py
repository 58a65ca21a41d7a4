"""Sockets in a virtual router, or in the kernel, behind one class.

socket(..., vr="red")     a RouterSocket: an AF_UNIX fd whose other end the VR's forwarder holds
socket(..., vr="kernel")  an ordinary socket

base --> datagrams (SOCK_DGRAM, SOCK_RAW)
     --> streams (SOCK_STREAM)
"""

from __future__ import annotations

from rsock.base import KERNEL, RouterSocket, default_vr, socket
from rsock.datagrams import DatagramSocket
from rsock.streams import StreamSocket, create_connection, create_server

__all__ = [
    "KERNEL", "DatagramSocket", "RouterSocket", "StreamSocket", "create_connection", "create_server", "default_vr",
    "socket",
]  # fmt: skip
