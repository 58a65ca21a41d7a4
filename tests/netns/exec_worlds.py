"""Two routers with the same addresses, a host behind each, and programs run by `rsock exec`.

    with exec_worlds() as lab:
        done = lab.execute("curl", "http://10.0.0.2/x", where=("--vr", "red"), mode="seccomp")

Each host says its router's name, over HTTP and as a UDP echo, and its name server knows it under every name.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, Final

from lab import Lab, Namespace, lan_router, project_environment, wait_until

WORLDS: Final = ("red", "blue")
APP_UID, OTHER_UID = 12345, 12346
WEB, ECHO, DNS = 80, 7007, 53
HOST4, HOST6, OWN4 = "10.0.0.2", "2001:db8::2", "10.0.0.1"
SERVER: Final = """
import http.server, socket, struct, sys, threading
NAME = sys.argv[1]

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"{NAME} {self.path} {self.client_address[0]}\\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass

class Web(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6

def serve(port, answer):
    s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    s.bind(("::", port))
    def run():
        while True:
            data, peer = s.recvfrom(65536)
            s.sendto(answer(data), peer)
    threading.Thread(target=run, daemon=True).start()

def resolve(query):
    end = 12
    while query[end]:
        end += query[end] + 1
    wanted = query[end + 1:end + 3] == b"\\0\\1"
    answer = b"\\xc0\\x0c\\0\\1\\0\\1\\0\\0\\0\\x3c\\0\\4" + bytes([10, 0, 0, 2]) if wanted else b""
    return query[:2] + struct.pack(">HHHHH", 0x8180, 1, int(wanted), 0, 0) + query[12:end + 5] + answer

serve(7007, lambda data: NAME.encode() + b":" + data)
serve(53, resolve)
web = Web(("::", 80), Page)
print("ready", flush=True)
web.serve_forever()
"""


class World(Lab):
    """Red and blue, a host behind each, and what runs programs in them."""

    def command(self, *words: str, where: tuple[str, ...] = ("--vr", "red"), mode: str = "auto") -> list[str]:
        """Give the command that runs a program by `rsock exec`."""
        launcher = (sys.executable, "-P", "-m", "rsock.exec.main", "exec", "--run-dir", str(self.run_dir))
        return self.box.command(*launcher, "--mode", mode, *where, "--", *words)

    def execute(self, *words: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run a program to its end."""
        return execute(self.command(*words, **options))


def execute(command: list[str], timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a command with its output captured."""
    environment = project_environment()
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=environment)


def start_server(lab: Lab, host: Namespace, name: str) -> None:
    """Start what answers for a world."""
    lab.started(host.command(sys.executable, "-c", SERVER, name))


def answers(lab: Lab, name: str) -> bool:
    """Tell whether a router reaches its host by IPv6."""
    return lab.vr_run("ping", name, HOST6, "-c", "1").returncode == 0


@contextlib.contextmanager
def exec_worlds() -> Iterator[World]:
    """Make them, and remove them."""
    with World() as lab:
        for name in WORLDS:
            host = lab.host(name, f"{name}-lan", f"{HOST4}/24")
            host.address("eth0", f"{HOST6}/64")
            start_server(lab, host, name)
        addresses = [f"{OWN4}/24", "2001:db8::1/64"]
        rule = {"app": f"uid:{APP_UID}", "allow": "all"}
        lab.configure({name: lan_router(name, rule, addresses=addresses) for name in WORLDS})
        lab.start()
        for name in WORLDS:  # duplicate address detection
            wait_until(partial(answers, lab, name), "IPv6 is usable")
        yield lab


def supervisors(lab: Lab) -> list[int]:
    """Give the supervisors that run in the daemon's namespace."""
    found = []
    for pid in lab.box.processes():
        with contextlib.suppress(OSError):
            if "rsock-supervise" in os.readlink(f"/proc/{pid}/exe"):
                found.append(pid)
    return found


def no_sockets(lab: Lab, name: str) -> bool:
    """Tell whether no program holds a socket in a router; what still says good-bye is nobody's."""
    held = [row for row in lab.vr("show", "sockets", name) if row["state"] != "time-wait" and not row["orphaned"]]
    if held:
        print(name, held)
    return not held


def check_nothing_left(lab: Lab) -> None:
    """Sockets and supervisors have gone with their programs."""
    wait_until(lambda: not supervisors(lab), "all supervisors have ended")
    for name in WORLDS:
        wait_until(partial(no_sockets, lab, name), f"no socket is left in {name}")
