"""The api process: what it serves is well-formed to the letter and agrees with `vr show`, and it has no privilege."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest
from exposition import Samples, parse, value
from lab import Lab, run, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.root

PORT: Final = 9101  # in the lab's own namespace


def ask(lab: Lab, path: str, *options: str) -> tuple[int, str]:
    """Ask over TCP, with curl; give the status and the body."""
    done = lab.box.run("curl", "-s", "-m", "10", "-w", "\n%{http_code}", *options, f"http://127.0.0.1:{PORT}{path}")
    body, _, status = done.stdout.rpartition("\n")
    return int(status), body


def scrape(lab: Lab) -> Samples:
    """Give all metrics."""
    status, body = ask(lab, "/metrics", "-H", "Accept: application/openmetrics-text; version=1.0.0")
    assert status == 200, body
    return parse(body)


def config(**api: Any) -> dict[str, Any]:
    """Two routers, and the api."""
    red = {
        "interfaces": {"lan": {"device": "lan", "addresses": ["10.0.0.1/24", "2001:db8::1/64"]}},
        "static": {"198.51.100.0/24": {"via": "10.0.0.2"}},
        "bgp": {"asn": 65001, "router-id": "10.0.0.1", "neighbors": {"10.0.0.2": {"remote-as": 65002}}},
        "ospf": {"router-id": "10.0.0.1", "areas": {"0.0.0.0": {"interfaces": {"lan": {}}}}},
    }
    blue = {"interfaces": {"lo": {"addresses": ["10.0.0.1/32"]}}}
    return {"routers": {"red": red, "blue": blue}, "api": api}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.host("host", "lan", "10.0.0.2/24")
        made.configure(**config(listen=f"127.0.0.1:{PORT}"))
        made.start()
        wait_until(lambda: ask_quietly(made) == 200, "the api serves")
        yield made


def ask_quietly(lab: Lab) -> int:
    """Give the status of /healthz; 0: nobody listens yet."""
    done = lab.box.run(
        "curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", f"http://127.0.0.1:{PORT}/healthz", check=False
    )
    return int(done.stdout or 0)


def api_pid(lab: Lab) -> int:
    """Give the pid of the api process; 0: there is none."""
    for pid in lab.box.processes():
        if Path(f"/proc/{pid}/cmdline").read_bytes().strip(b"\0 ") == b"anabranch: api":
            return pid
    return 0


def test_values_agree_with_show(lab: Lab) -> None:
    """Interfaces, routes and processes are those of `vr show`; counters grow with the traffic."""
    before = scrape(lab)
    assert lab.namespaces["host"].ping("10.0.0.1", count=20)
    after = scrape(lab)
    assert value(after, "vr_up", vr="red") == value(after, "vr_up", vr="blue") == 1
    assert value(after, "vr_restarts_total", vr="red") == 0
    name = "vr_interface_receive_packets_total"
    grown = value(after, name, vr="red", interface="lan") - value(before, name, vr="red", interface="lan")
    assert grown >= 20
    assert value(after, name, vr="red", interface="lan") <= lab.interface("red", "lan")["counters"]["rx_packets"]
    assert value(after, "vr_interface_up", vr="red", interface="lan") == 1

    def entries(samples: Samples, routes: list[dict[str, Any]], afi: str) -> bool:
        mine = [route for route in routes if (":" in route["prefix"]) is (afi == "ipv6")]
        return value(samples, "vr_fib_entries", vr="red", afi=afi) == len(mine)

    def same() -> bool:
        """Addresses are still being detected, and a table grows, so the two are asked again."""
        samples, routes = scrape(lab), lab.vr("show", "routes", "red")
        static = value(samples, "vr_routes", vr="red", protocol="static", afi="ipv4", state="installed")
        return static == 1 and all(entries(samples, routes, afi) for afi in ("ipv4", "ipv6"))

    wait_until(same, "both tell of the same routes")
    for router in lab.vr("show", "routers"):
        for process, pid in router["pids"].items():
            resident = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            told = value(after, "vr_process_resident_memory_bytes", vr=router["name"], process=process)
            assert abs(told - resident) < 16 << 20


# Of reference/operator.md; VRRP is not there, and what became of a request is in `vr_rsock_denied_total`.
NAMES: Final = (
    "up", "restarts_total", "config_load_error", "config_hash_info", "config_applied_timestamp_seconds",
    "config_apply_seconds_count", "interface_receive_packets_total", "interface_receive_bytes_total",
    "interface_transmit_packets_total", "interface_transmit_bytes_total", "forwarded_packets_total", "routes",
    "fib_entries", "fib_memory_bytes", "bgp_peer_state", "bgp_messages_total", "bgp_update_seconds_count",
    "ospf_spf_seconds_count", "rsock_calls_total", "rsock_call_seconds_count", "loop_lag_seconds_count",
    "control_input_seconds_count", "socket_count", "process_cpu_seconds_total", "process_resident_memory_bytes",
)  # fmt: skip


def test_every_name_of_the_list_is_there(lab: Lab) -> None:
    """Those that need no neighbor."""

    def missing() -> list[str]:
        present = {name for name, _ in scrape(lab)}
        return [f"vr_{name}" for name in NAMES if f"vr_{name}" not in present]

    wait_until(lambda: not missing(), "each name is there, of what comes with the first event too")


def test_histograms_count(lab: Lab) -> None:
    """Each turn of a loop, and each input of a control."""
    first = scrape(lab)

    def counted() -> bool:
        now, name = scrape(lab), "vr_loop_lag_seconds_count"
        assert value(now, "vr_control_input_seconds_count", vr="red", input="configure") >= 1
        listen = {("vr", "red"), ("op", "listen")}
        counts = [v for (own, of), v in now.items() if own == "vr_rsock_call_seconds_count" and listen <= set(of)]
        return counts >= [1] and all(value(now, name, vr=vr) > value(first, name, vr=vr) for vr in ("", "red", "blue"))

    wait_until(counted, "turns of all loops, and BGP's listen()")


def test_what_became_of_the_configuration(lab: Lab) -> None:
    """A bad one is told of, and the one that runs stays; a good one has another digest, and its time is counted."""
    before = scrape(lab)
    assert value(before, "vr_config_load_error") == 0
    running = value(before, "vr_config_applied_timestamp_seconds")
    assert 0 <= time.time() - running < 3600
    digest = next(labels for name, labels in before if name == "vr_config_hash_info")
    lab.configure(routers={"red": {"interfaces": {"lan": {"devices": "lan"}}}}, api={"listen": f"127.0.0.1:{PORT}"})
    assert lab.vr_run("apply").returncode == 2
    bad = scrape(lab)
    assert value(bad, "vr_config_load_error") == 1
    assert value(bad, "vr_config_applied_timestamp_seconds") == running
    assert ("vr_config_hash_info", digest) in bad
    lab.configure(**config(listen=f"127.0.0.1:{PORT}"))
    lab.vr("apply")
    after = scrape(lab)
    assert value(after, "vr_config_load_error") == 0
    assert ("vr_config_hash_info", digest) in after
    assert value(after, "vr_config_apply_seconds_count") == value(before, "vr_config_apply_seconds_count") + 1


def test_no_counter_falls(lab: Lab) -> None:
    """A counter's sample never goes down between two scrapes, nor vanishes."""
    first, second = scrape(lab), scrape(lab)
    for key, number in first.items():
        if key[0].endswith("_total") and "process" not in dict(key[1]):
            assert second[key] >= number, key


def test_both_formats(lab: Lab) -> None:
    """Who does not ask for OpenMetrics gets the older text, where TYPE names the sample itself."""
    status, text = ask(lab, "/metrics")
    assert status == 200
    assert "# EOF" not in text
    assert "# TYPE vr_restarts_total counter\nvr_restarts_total{" in text
    new = ask(lab, "/metrics", "-H", "Accept: application/openmetrics-text")[1].split("\n")
    names = {line.partition("{")[0] for line in text.split("\n") if line and not line.startswith("#")}
    assert names == {line.partition("{")[0] for line in new if line and not line.startswith("#")}


def test_health(lab: Lab) -> None:
    """/readyz names the routers that are not up; one that is stopped on purpose is none of them."""
    assert ask(lab, "/healthz") == (200, "ok\n")
    assert ask(lab, "/readyz") == (200, "ok\n")
    lab.vr("router", "stop", "blue")
    assert ask(lab, "/readyz")[0] == 200
    assert value(scrape(lab), "vr_up", vr="blue") == 0
    lab.vr("router", "start", "blue")
    assert ask(lab, "/readyz") == (200, "ok\n")


def test_unix_socket(lab: Lab) -> None:
    """The same over api.sock, which is for root and the group alone."""
    path = lab.run_dir / "api.sock"
    assert path.stat().st_mode & 0o777 == 0o660
    done = run("curl", "-s", "--unix-socket", str(path), "http://x/readyz")
    assert done.stdout == "ok\n"


def raw(lab: Lab, request: bytes) -> bytes:
    """Send bytes over TCP, and give all that comes back."""
    with lab.box.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect(("127.0.0.1", PORT))
        client.sendall(request)
        answer = b""
        while piece := client.recv(65536):
            answer += piece
        return answer


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        (b"POST /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /nothing HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /healthz?x=1 HTTP/1.0\r\nHost: x\r\n\r\n", b"200"),
        (b"GET /healthz\r\n\r\n", b""),
        (b"\0\xff\r\n\r\n", b""),
        (b"GET / FTP/1.1\r\n\r\n", b""),
        (b"GET /healthz HTTP/1.1\r\nX: " + b"a" * 9000 + b"\r\n\r\n", b""),
    ],
)
def test_odd_requests(lab: Lab, request_line: bytes, status: bytes) -> None:
    """What is no request is closed, what is not offered is refused, and the next one is served."""
    try:
        answer = raw(lab, request_line)
    except ConnectionResetError:
        answer = b""
    assert answer.partition(b"\r\n")[0].split(b" ")[1:2] == ([status] if status else [])
    assert ask(lab, "/healthz")[0] == 200


def test_head_has_no_body(lab: Lab) -> None:
    """HEAD gives the length alone."""
    head, _, body = raw(lab, b"HEAD /metrics HTTP/1.1\r\n\r\n").partition(b"\r\n\r\n")
    assert b"Content-Length: " in head
    assert body == b""


def test_it_has_no_privilege(lab: Lab) -> None:
    """Its uid is its own, it has no capability, and cannot gain any."""
    lines = Path(f"/proc/{api_pid(lab)}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    uid = int(status["Uid"].split()[0])
    others = [router["pids"]["control"] for router in lab.vr("show", "routers")]
    assert uid not in {0, *(os.stat(f"/proc/{pid}").st_uid for pid in others)}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_it_comes_back(lab: Lab, number: signal.Signals) -> None:
    """When it dies or hangs another one takes its place; clients of the Unix socket wait a moment at most."""
    before = api_pid(lab)
    os.kill(before, number)
    path = str(lab.run_dir / "api.sock")
    done = run(
        "curl", "-s", "-m", "10", "--retry", "5", "--retry-all-errors", "--unix-socket", path, "http://x/healthz"
    )
    assert done.stdout == "ok\n"
    wait_until(lambda: api_pid(lab) not in {0, before}, "another process")
    wait_until(lambda: ask_quietly(lab) == 200, "it serves")
    scrape(lab)


def test_it_goes_and_comes_with_the_configuration(lab: Lab) -> None:
    """Without `api` nothing serves; the address moves live; an address that others can reach is refused."""
    with_api = json.loads((lab.conf_dir / "routers.yaml").read_text())
    pids = [router["pids"] for router in lab.vr("show", "routers")]
    lab.configure(with_api["routers"])
    lab.vr("apply")
    wait_until(lambda: not (lab.run_dir / "api.sock").exists() and not api_pid(lab), "it is gone")
    lab.configure(**(with_api | {"api": {"listen": "0.0.0.0:9101"}}))
    refused = lab.vr_run("apply", json_output=False)
    assert refused.returncode == 2
    assert "can be reached by others" in refused.stdout + refused.stderr
    lab.configure(**with_api)
    lab.vr("apply")
    wait_until(lambda: ask_quietly(lab) == 200, "it is back")
    assert pids == [router["pids"] for router in lab.vr("show", "routers")]
