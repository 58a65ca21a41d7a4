"""The examples do what their README says: unprivileged, in two routers with the same addresses and in the kernel."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import urllib.request
from typing import TYPE_CHECKING, Final

import pytest
from lab import ROOT, Lab, Namespace, lan_router

from tests.conftest import require_program

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

UID: Final = 12347
RULE: Final = {"app": f"uid:{UID}", "allow": ["connect", "listen", "udp"]}
PROBER_PORT: Final = 9115
HTTP: Final = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[1].encode()
        self.send_response(200 if self.path == "/" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("", 80), Handler)
print("ready", flush=True)
server.serve_forever()
"""


# Gives up all rights once everything is loaded: the interpreter may lie where others cannot read.
UNPRIVILEGED: Final = """
import importlib.util, os, sys
user, script = int(sys.argv[1]), sys.argv[2]
sys.argv = sys.argv[2:]
sys.path.insert(0, os.path.dirname(script))
import encodings.idna, locale, shutil, rsock.sockets, zmq.backend
spec = importlib.util.spec_from_file_location("program", script)
program = sys.modules["program"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(program)
os.setgroups([])
os.setresgid(user, user, user)
os.setresuid(user, user, user)
program.main()
"""


@pytest.fixture(scope="module")
def worlds() -> Iterator[Lab]:
    """Red, blue and the kernel with a host each, the same addresses everywhere."""
    with Lab() as lab:
        for name in ("red", "blue", "kernel"):
            host = lab.host(name, f"{name}-lan", "10.0.0.2/24")
            start(lab, host, "-c", HTTP, f"page of {name}")
        lab.box.address("kernel-lan", "10.0.0.1/24")
        lab.configure({name: lan_router(name, RULE) for name in ("red", "blue")})
        lab.start()
        yield lab


def start(lab: Lab, place: Namespace, *words: str) -> subprocess.Popen[str]:
    """Start a program that says when it is ready."""
    environment = ["env", f"ANABRANCH_RUN_DIR={lab.run_dir}", f"PYTHONPATH={ROOT}", "PYTHONDONTWRITEBYTECODE=1"]
    return lab.started(place.command(*environment, sys.executable, *words), says="")


def example(lab: Lab, path: str, *words: str) -> None:
    """Start an example as a user without any right."""
    start(lab, lab.box, "-c", UNPRIVILEGED, str(UID), str(ROOT / "examples" / path), *words)


@pytest.fixture(scope="module")
def prober(worlds: Lab) -> Lab:
    example(worlds, "blackbox/prober.py")
    return worlds


def probe(lab: Lab, module: str, target: str) -> dict[str, float]:
    """Have a probe made; give its figures."""
    with lab.box.entered():
        url = f"http://127.0.0.1:{PROBER_PORT}/probe?module={module}&target={target}"
        with urllib.request.urlopen(url, timeout=10) as page:
            text = page.read().decode()
    lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _space, value in lines}


@pytest.mark.parametrize("where", ["red", "blue", "kernel"])
def test_the_prober_sees_each_world(prober: Lab, where: str) -> None:
    tcp = probe(prober, "tcp_connect", f"{where}/10.0.0.2:80")
    assert tcp["probe_success"] == 1
    assert tcp["probe_ip_protocol"] == 4
    page = probe(prober, "http_2xx", f"{where}/http://10.0.0.2/")
    assert (page["probe_success"], page["probe_http_status_code"]) == (1, 200)
    assert page["probe_http_content_length"] == len(f"page of {where}")
    assert probe(prober, "http_2xx", f"{where}/http://10.0.0.2/missing")["probe_success"] == 0
    echo = probe(prober, "icmp", f"{where}/10.0.0.2")
    assert echo["probe_success"] == 1 or where == "kernel"  # whose ping_group_range may not hold this user
    refused = probe(prober, "tcp_connect", f"{where}/10.0.0.2:81")
    assert refused["probe_success"] == 0
    assert refused["probe_duration_seconds"] < 5  # it waits for nothing
    banner = probe(prober, "ssh_banner", f"{where}/10.0.0.2:80")
    assert banner["probe_success"] == 0


def test_a_router_that_is_not_there_fails_the_probe_only(prober: Lab) -> None:
    assert probe(prober, "icmp", "purple/10.0.0.2")["probe_success"] == 0
    with pytest.raises(urllib.error.HTTPError) as raised:
        probe(prober, "tcp_connect", "10.0.0.2:80")
    assert raised.value.code == 400
    assert "ROUTER/ADDRESS" in raised.value.read().decode()
    raised.value.close()


# --- RADIUS ---

SECRETS: Final = {"red": "red's secret", "blue": "the secret of blue, which is longer than a block"}


@pytest.fixture(scope="module")
def proxy(worlds: Lab) -> Lab:
    """A home server for each router, both behind the kernel; the proxy in between."""
    require_program("radclient")
    text = ""
    for port, name in ((11812, "red"), (12812, "blue")):
        home = str(ROOT / "tests/netns/radius_server.py")
        password = f"{name} password, longer than one block"
        for offset in (0, 1):
            start(worlds, worlds.namespaces["kernel"], home, name, f"home {name}", "alice", password,
                  str(port + offset))  # fmt: skip
        text += f"""
[routers.{name}]
clients = {{ "10.0.0.0/24" = "wrong", "10.0.0.2/32" = "{SECRETS[name]}" }}
require-message-authenticator = {"true" if name == "red" else "false"}
[[routers.{name}.servers]]
router = "kernel"
address = "10.0.0.2"
secret = "home {name}"
auth = {port}
acct = {port + 1}
"""
    file = worlds.directory / "routers.toml"
    file.write_text(text)
    file.chmod(0o644)
    example(worlds, "radius_proxy/proxy.py", str(file))
    return worlds


def ask(lab: Lab, name: str, lines: str, kind: str = "auth", secret: str | None = None, patience: int = 20) -> str:
    """Ask the router's address by radclient, which checks the answer's signatures."""
    port = 1812 if kind == "auth" else 1813
    words = lab.namespaces[name].command("radclient", "-x", "-r", "1", "-t", str(patience), f"10.0.0.1:{port}", kind)
    done = subprocess.run(
        [*words, secret or SECRETS[name]], input=lines, capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", ["red", "blue"])
def test_each_router_has_its_own_servers(proxy: Lab, name: str) -> None:
    good = f'User-Name = "alice", User-Password = "{name} password, longer than one block", Message-Authenticator = 0'
    out = ask(proxy, name, good)
    assert "Received Access-Accept" in out, out
    assert f'Reply-Message = "{name}"' in out
    assert re.search(r'Tunnel-Password:1 = "tunnel"', out), out
    other = "blue" if name == "red" else "red"
    bad = good.replace(f'"{name} password', f'"{other} password')
    assert "Received Access-Reject" in ask(proxy, name, bad)
    chap = f'User-Name = "alice", CHAP-Password = "{name} password, longer than one block", Message-Authenticator = 0'
    assert "Received Access-Accept" in ask(proxy, name, chap)
    assert "Received Accounting-Response" in ask(proxy, name, "Acct-Status-Type = Start, Acct-Session-Id = 1", "acct")


def test_what_is_not_signed_is_refused_where_the_file_says_so(proxy: Lab) -> None:
    unsigned = 'User-Name = "alice", User-Password = "x"'
    assert "Received Access-Reject" in ask(proxy, "blue", unsigned)
    assert "No reply" in ask(proxy, "red", unsigned, patience=2)
    assert "No reply" in ask(proxy, "blue", unsigned + ", Message-Authenticator = 0", secret="guessed", patience=2)


def test_junk_harms_nobody(proxy: Lab) -> None:
    with proxy.namespaces["red"].entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for junk in (b"", b"\x01", bytes(20), b"\x01\x01\x00\x16" + bytes(16) + b"\x02\x01", os.urandom(4096)):
            sock.sendto(junk, ("10.0.0.1", 1812))
    good = 'User-Name = "alice", User-Password = "red password, longer than one block", Message-Authenticator = 0'
    assert "Received Access-Accept" in ask(proxy, "red", good)
