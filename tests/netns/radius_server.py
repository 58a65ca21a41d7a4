"""A RADIUS server of the tests, written from RFC 2865 and 2866 alone: it shares no code with what it tests.

    python radius_server.py NAME SECRET USER PASSWORD PORT

Accepts USER with PASSWORD (PAP or CHAP), rejects others, acknowledges accounting.  Its answers carry NAME as
Reply-Message, a hidden Tunnel-Password, and each Proxy-State of the request.
"""

from __future__ import annotations

import hashlib
import hmac
import socket
import struct
import sys


def md5(*parts: bytes) -> bytes:
    return hashlib.md5(b"".join(parts)).digest()


def xor(first: bytes, second: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(first, second, strict=True))


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 20
    while at < len(data):
        found.append((data[at], data[at + 2 : at + data[at + 1]]))
        at += data[at + 1]
    return found


def is_signed(data: bytes, secret: bytes) -> bool:
    at = 20
    while at < len(data):
        if data[at] == 80:
            blank = data[: at + 2] + bytes(16) + data[at + 18 :]
            return hmac.digest(secret, blank, "md5") == data[at + 2 : at + 18]
        at += data[at + 1]
    return False


def knows(about: dict[int, bytes], authenticator: bytes, secret: bytes, password: bytes) -> bool:
    if 2 in about:
        clear, previous = b"", authenticator
        for at in range(0, len(about[2]), 16):
            block = about[2][at : at + 16]
            clear += xor(block, md5(secret, previous))
            previous = block
        return clear.rstrip(b"\0") == password
    if 3 in about:
        return about[3][1:] == md5(about[3][:1], password, about.get(60, authenticator))
    return False


def tunnel_password(authenticator: bytes, secret: bytes) -> bytes:
    clear = b"\x06tunnel".ljust(16, b"\0")
    return b"\x01" + b"\x91\x92" + xor(clear, md5(secret, authenticator, b"\x91\x92"))


def main() -> None:
    name, secret, user, password, port = (word.encode() for word in sys.argv[1:])
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", int(port)))
    print("ready", flush=True)
    while True:
        data, peer = sock.recvfrom(4096)
        code, identifier, length = struct.unpack_from("!BBH", data)
        assert length == len(data)
        authenticator, given = data[4:20], attributes(data)
        about = dict(given)
        if code == 1:
            assert is_signed(data, secret)
            assert given[0][0] == 80  # nothing stands before the signature
            good = about.get(1) == user and knows(about, authenticator, secret, password)
            answer, body = 2 if good else 3, [(18, name), (69, tunnel_password(authenticator, secret))]
        else:
            assert md5(data[:4], bytes(16), data[20:], secret) == authenticator
            answer, body = 5, []
        body += [(kind, value) for kind, value in given if kind == 33]
        raw = b"".join(bytes([kind, len(value) + 2]) + value for kind, value in body)
        head = struct.pack("!BBH", answer, identifier, 20 + len(raw))
        sock.sendto(head + md5(head, authenticator, raw, secret) + raw, peer)


main()
