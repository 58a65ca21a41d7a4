"""`vr` against a running router: what each command answers, in JSON and in text.

h1 10.0.0.2 --- lan red wan --- h2 192.0.2.2, forwarding in its kernel --- h3 198.51.100.2
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hosts import check_laws
from lab import VR, Lab, Namespace, program, project_environment, wait_until

from tests.conftest import require_program

pytestmark = pytest.mark.root

CONFIG: dict[str, Any] = {
    "red": {
        "interfaces": {
            "lo": {"addresses": ["10.255.0.1/32"]},
            "lan": {"device": "lan", "addresses": ["10.0.0.1/24", "2001:db8:a::1/64"]},
            "wan": {"device": "wan", "addresses": ["192.0.2.1/30"]},
        },
        "static": {
            "198.51.100.0/24": {"via": "192.0.2.2"},
            "203.0.113.0/24": {"discard": True},
        },
    },
}
COUNTERS = {
    "rx_packets",
    "tx_packets",
    "rx_bytes",
    "tx_bytes",
    "forwarded_packets",
    "punt_packets",
    "originated_packets",
    "fragments_created",
    "held_packets",
    "drops",
}


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    with Lab() as made:
        made.host("h1", "lan", "10.0.0.2/24", "10.0.0.1")
        h2 = made.host("h2", "wan", "192.0.2.2/30", "192.0.2.1")
        h3 = made.namespace("h3")
        made.veth("east", h2, h3, "eth0", far_address="198.51.100.2/24")
        h2.address("east", "198.51.100.1/24")
        h2.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        h3.ip("route", "add", "default", "via", "198.51.100.1")
        made.configure(CONFIG)
        made.start()
        yield made


@pytest.fixture
def h1(lab: Lab) -> Namespace:
    return lab.namespaces["h1"]


def test_show_routers(lab: Lab) -> None:
    (red,) = lab.vr("show", "routers")
    assert set(red) == {"name", "state", "id", "pids", "restarts", "netns"}
    assert (red["name"], red["state"]) == ("red", "up")
    assert red["restarts"] >= 0
    for role in ("forwarder", "control"):
        title = Path(f"/proc/{red['pids'][role]}/cmdline").read_bytes().split(b"\0")[0].decode()
        assert title == f"anabranch: red {role}"
    lab.box.run("true")
    assert subprocess.run(["ip", "netns", "exec", red["netns"], "true"], check=False).returncode == 0


def at_rest(interfaces: dict[str, Any]) -> dict[str, Any] | None:
    """Give them where the law of what came in holds on each: no frame was on its way while they were read."""
    for interface in interfaces.values():
        c = interface["counters"]
        taken = c["forwarded_packets"] + c["punt_packets"] + sum(c["drops"].values()) + c["held_packets"]
        if c["rx_packets"] != taken:
            return None
    return interfaces


def test_show_interfaces_and_their_laws(lab: Lab, h1: Namespace) -> None:
    assert h1.ping("198.51.100.2", count=3)
    h1.ping("203.0.113.1", wait=0.2)

    def shown() -> dict[str, Any]:
        return {interface["name"]: interface for interface in lab.vr("show", "interfaces", "red")}

    wait_until(lambda: shown()["lan"]["counters"]["drops"].get("blackhole"), "it was dropped")
    check_laws(lab, "red")
    interfaces = wait_until(lambda: at_rest(shown()), "the laws hold in one answer too")
    assert set(interfaces) == {"lo", "lan", "wan"}
    lan = interfaces["lan"]
    assert {"name", "device", "driver", "state", "mtu", "mac", "addresses", "counters"} <= set(lan)
    assert (lan["device"], lan["driver"], lan["state"], lan["mtu"]) == ("lan", "af_packet", "up", 1500)
    assert {"10.0.0.1/24", "2001:db8:a::1/64"} <= set(lan["addresses"])
    assert set(lan["counters"]) >= COUNTERS
    assert lan["counters"]["drops"]["blackhole"] >= 1
    drops = lab.vr("show", "drops", "red")
    assert any(drop["reason"] == "blackhole" and drop["interface"] == "lan" for drop in drops)


def test_show_routes_and_fib_agree(lab: Lab, h1: Namespace) -> None:
    assert h1.ping("198.51.100.2")
    routes = lab.vr("show", "routes", "red")
    fib = lab.vr("show", "fib", "red")
    assert {route["prefix"] for route in routes} == {entry["prefix"] for entry in fib}
    by_prefix = {route["prefix"]: route for route in fib}
    static = by_prefix["198.51.100.0/24"]
    assert static["protocol"] == "static"
    assert set(static) >= {"prefix", "protocol", "preference", "metric", "nexthops"}
    (hop,) = static["nexthops"]
    assert (hop["via"], hop["interface"], hop["weight"]) == ("192.0.2.2", "wan", 1)
    assert hop["mac"] == next(n["mac"] for n in lab.vr("show", "neighbors", "red") if n["address"] == "192.0.2.2")


def test_show_route_is_the_longest_match(lab: Lab) -> None:
    assert lab.vr("show", "route", "red", "198.51.100.77")["prefix"] == "198.51.100.0/24"
    assert lab.vr("show", "route", "red", "10.0.0.77")["prefix"] == "10.0.0.0/24"
    assert lab.vr("show", "route", "red", "10.0.0.1")["prefix"] == "10.0.0.1/32"
    missing = lab.vr_run("show", "route", "red", "8.8.8.8")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["error"]["kind"] == "no-route"
    assert lab.vr_run("show", "route", "red", "8.8.8").returncode == 2


def test_the_rib_and_why_a_route_is_used(lab: Lab) -> None:
    offered = {(route["prefix"], route["protocol"], route["state"]) for route in lab.vr("show", "rib", "red")}
    assert {("10.0.0.0/24", "connected", "used"), ("198.51.100.0/24", "static", "used")} <= offered
    static = lab.vr("show", "rib", "red", "static")
    assert {route["prefix"] for route in static} == {"198.51.100.0/24", "203.0.113.0/24"}
    assert lab.vr_run("show", "rib", "red", "nonsense").returncode == 1
    why = lab.vr("explain", "route", "red", "198.51.100.9")
    assert (why["prefix"], why["routes"][0]["state"]) == ("198.51.100.0/24", "used")
    assert why["routes"][0]["resolved"] == ["via 192.0.2.2 on wan"]
    assert lab.vr_run("explain", "route", "red", "8.8.8.8").returncode == 1
    (running,) = lab.vr("show", "protocols", "red")
    assert (running["name"], running["state"], running["routes"], running["failures"]) == ("static", "running", 2, 0)


def test_show_neighbors(lab: Lab, h1: Namespace) -> None:
    assert h1.ping("10.0.0.1")
    entry = next(n for n in lab.vr("show", "neighbors", "red") if n["address"] == "10.0.0.2")
    (link,) = (link for link in h1.links() if link["ifname"] == "eth0")
    assert (entry["mac"], entry["interface"]) == (link["address"], "lan")
    assert entry["state"] in {"reachable", "stale", "delay", "probe"}
    assert entry["age"] >= 0


def test_an_unknown_router_gets_the_nearest(lab: Lab) -> None:
    for command in (
        ["show", "interfaces", "rde"],
        ["ping", "rde", "10.0.0.1"],
        ["router", "stop", "rde"],
        ["trace", "rde"],
    ):
        done = lab.vr_run(*command)
        assert done.returncode == 2, command
        assert "did you mean 'red'" in json.loads(done.stdout)["error"]["message"]


def test_ping(lab: Lab) -> None:
    result = lab.vr("ping", "red", "10.0.0.2", "-c", "3", "-i", "0.05")
    assert (result["transmitted"], result["received"], result["loss_percent"]) == (3, 3, 0)
    assert [reply["sequence"] for reply in result["replies"]] == [1, 2, 3]
    assert {reply["source"] for reply in result["replies"]} == {"10.0.0.2"}
    assert result["replies"][0]["ttl"] == 64
    assert 0 < result["rtt_ms"]["min"] <= result["rtt_ms"]["avg"] <= result["rtt_ms"]["max"] < 1000


def test_ping_in_words(lab: Lab) -> None:
    done = lab.vr_run("ping", "red", "10.0.0.2", "-c", "1", json_output=False)
    assert done.returncode == 0
    assert "64 bytes from 10.0.0.2: icmp_seq=1 ttl=64 time=" in done.stdout
    assert "1 transmitted, 1 received, 0% loss" in done.stdout


def test_ping_without_an_answer_is_exit_1(lab: Lab) -> None:
    for address in ("10.0.0.99", "203.0.113.1"):
        done = lab.vr_run("ping", "red", address, "-c", "1", "-W", "0.3")
        assert done.returncode == 1, address
        assert json.loads(done.stdout)["received"] == 0
    assert lab.vr_run("ping", "red", "nonsense").returncode == 2


def test_ping_through_ipv6(lab: Lab, h1: Namespace) -> None:
    h1.address("eth0", "2001:db8:a::2/64")
    # Duplicate address detection takes a second: until then red has no address to send from.
    wait_until(lambda: lab.vr_run("ping", "red", "2001:db8:a::2", "-c", "1").returncode == 0, "an answer")


@pytest.mark.parametrize("options", [[], ["-I"]])
def test_traceroute(lab: Lab, options: list[str]) -> None:
    result = lab.vr("traceroute", "red", "198.51.100.2", "-q", "1", *options)
    assert result["reached"]
    assert [hop["probes"][0]["address"] for hop in result["hops"]] == ["192.0.2.2", "198.51.100.2"]


def _background(lab: Lab, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        program(VR, "--run-dir", str(lab.run_dir), "-j", *words),
        stdout=subprocess.PIPE,
        text=True,
        env=project_environment(),
    )


def _until_it_ends(process: subprocess.Popen[str], stir: Any, seconds: float = 60.0) -> list[dict[str, Any]]:
    """Make traffic until the command has seen enough; give its JSON lines."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < deadline:
        stir()
    if process.poll() is None:
        process.kill()
    out, _ = process.communicate()
    assert process.returncode == 0
    return [json.loads(line) for line in out.splitlines()]


def test_trace_tells_each_stage(lab: Lab, h1: Namespace) -> None:
    process = _background(lab, "trace", "red", "-n", "8", "-i", "lan")
    packets = _until_it_ends(process, lambda: h1.ping("198.51.100.2", wait=0.2))
    assert len(packets) == 8
    assert {packet["interface"] for packet in packets} == {"lan"}
    assert max(len(packet["stages"]) for packet in packets) >= 3
    assert any(stage.get("prefix") == "198.51.100.0/24" for packet in packets for stage in packet["stages"])


def test_trace_drops_tells_the_reason(lab: Lab, h1: Namespace) -> None:
    process = _background(lab, "trace", "red", "-n", "4", "--drops")
    packets = _until_it_ends(process, lambda: (h1.ping("198.51.100.2"), h1.ping("203.0.113.9", wait=0.1)))
    # The kernels of the hosts send IPv6 group reports, which nobody here wants.
    assert {packet["drop"] for packet in packets} <= {"blackhole", "multicast", "icmp_ignored"}
    dropped = next(packet for packet in packets if packet["drop"] == "blackhole")
    assert dropped["stages"][-1] == {"stage": "drop", "detail": "blackhole"}
    assert dropped["interface"] == "lan"


def test_capture_writes_pcapng(lab: Lab, h1: Namespace, tmp_path: Path) -> None:
    tshark = require_program("tshark")
    file = tmp_path / "lan.pcapng"
    process = _background(lab, "capture", "red", "lan", "-w", str(file), "-n", "4")
    _until_it_ends(process, lambda: h1.ping("10.0.0.1", wait=0.2))
    fields = ["-e", "frame.interface_name", "-e", "ip.src", "-e", "frame.packet_flags_direction"]
    done = subprocess.run([tshark, "-r", file, "-T", "fields", *fields], capture_output=True, text=True, check=True)
    lines = [line.split("\t") for line in done.stdout.splitlines()]
    assert len(lines) == 4
    assert {line[0] for line in lines} == {"lan"}
    directions = {(line[1], int(line[2], 16)) for line in lines if line[1]}
    assert {("10.0.0.2", 1), ("10.0.0.1", 2)} & directions


def test_capture_of_one_direction(lab: Lab, h1: Namespace) -> None:
    process = _background(lab, "capture", "red", "lan", "-n", "2", "-d", "in")
    frames = _until_it_ends(process, lambda: h1.ping("10.0.0.1", wait=0.2))
    assert [frame["direction"] for frame in frames] == ["in", "in"]
    assert any("ICMP echo request" in frame["summary"] for frame in frames)
    assert lab.vr_run("capture", "red", "lna", "-n", "1").returncode == 2


def test_show_sockets(lab: Lab) -> None:
    ping = _background(lab, "ping", "red", "10.0.0.2", "-c", "100")
    try:
        (socket,) = wait_until(lambda: lab.vr("show", "sockets", "red"), "the ping's socket is seen")
        assert (socket["type"], socket["pid"], socket["uid"]) == ("icmp", ping.pid, 0)
        assert socket["identity"] == "uid:0"
        (app,) = (row for row in lab.vr("show", "apps", "red") if row["pid"] == ping.pid)
        assert (app["identity"], app["sockets"], app["routers"]) == ("uid:0", {"icmp": 1}, {"red": 1})
        assert app["lives"]
        assert app["opens"] >= 1
        assert not app["denials"]
        # Packets go and come between the two questions.
        moving = {"memory", "rests", "tx_packets", "rx_packets", "bytes_sent", "bytes_received"}
        everywhere = [{key: row[key] for key in row.keys() - moving} for row in lab.vr("show", "apps")]
        assert {key: app[key] for key in app.keys() - moving} in everywhere
        assert str(ping.pid) in lab.vr_run("show", "apps").stdout
        (opened,) = (row for row in lab.vr("show", "calls", "red") if row["call"] == "open")
        assert opened["count"] == app["opens"]
        assert 0 < opened["p50_us"] <= opened["p99_us"]
    finally:
        ping.send_signal(signal.SIGINT)
        out, _ = ping.communicate(timeout=30)
    assert json.loads(out)["received"] >= 1
    wait_until(lambda: not lab.vr("show", "sockets", "red"), "the socket has gone")


def test_plan_apply_and_again_nothing(lab: Lab, h1: Namespace) -> None:
    changed = json.loads(json.dumps(CONFIG))
    changed["red"]["static"]["198.18.0.0/15"] = {"discard": True}
    before = lab.router("red")
    lab.configure(changed)
    try:
        plan = lab.vr_run("plan")
        assert plan.returncode == 1
        assert [change["path"] for change in json.loads(plan.stdout)["changes"]] == ["routers.red.static.198.18.0.0/15"]
        assert lab.vr("apply")["empty"] is False
        wait_until(lambda: lab.vr_run("show", "route", "red", "198.18.0.1").returncode == 0, "the route is there")
        assert lab.vr("plan")["empty"] is True
        assert lab.vr("apply")["empty"] is True
    finally:
        lab.configure(CONFIG)
        lab.vr("apply")
    assert lab.router("red") == before
    assert h1.ping("198.51.100.2")


def test_a_bad_configuration_changes_nothing(lab: Lab, h1: Namespace, tmp_path: Path) -> None:
    bad = tmp_path / "red.yaml"
    bad.write_text(
        "routers:\n  red:\n    interfaces:\n      lan: {device: lan, addreses: [10.0.0.1/24]}\n      x: {mtu: 7}\n"
    )
    done = lab.vr_run("check", str(tmp_path))
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "config"
    assert {(detail["line"], detail["column"]) for detail in error["details"]} >= {(4, 26)}
    text = lab.vr_run("check", str(tmp_path), json_output=False).stderr
    assert "did you mean 'addresses'?" in text
    lab.configure_text(bad.read_text(), "zzz.yaml")
    try:
        for word in ("plan", "apply", "check"):
            assert lab.vr_run(word).returncode == 2, word
    finally:
        (lab.conf_dir / "zzz.yaml").unlink()
    assert h1.ping("198.51.100.2")
    assert lab.vr_run("check", str(lab.conf_dir)).returncode == 0


def _children_cpu() -> float:
    used = os.times()
    return used.children_user + used.children_system


@pytest.mark.quiet
def test_a_cold_show_is_quick(lab: Lab) -> None:
    """In seconds of CPU: what else the machine does is not our business.  The best of some, of both commands."""
    wall, cpu = [], []
    for command in [("show", "routers"), ("show", "interfaces", "red")] * 5:
        start, used = time.perf_counter(), _children_cpu()
        lab.vr(*command)
        wall.append(time.perf_counter() - start)
        cpu.append(_children_cpu() - used)
    print(f"cold show: {min(wall) * 1000:.0f} ms, of which {min(cpu) * 1000:.0f} ms CPU")
    assert min(cpu) < 0.15


def test_router_stop_gives_the_device_back_and_start_takes_it(lab: Lab, h1: Namespace) -> None:
    lab.vr("router", "stop", "red")
    assert lab.router("red")["state"] == "down"
    assert {"lan", "wan"} <= {link["ifname"] for link in lab.box.links()}
    assert lab.vr_run("show", "fib", "red").returncode == 3
    lab.vr("router", "start", "red")
    lab.wait_state("red", "up")
    wait_until(lambda: h1.ping("198.51.100.2", wait=0.2), "red forwards again")
    old = lab.router("red")["pids"]
    lab.vr("router", "restart", "red")
    lab.wait_state("red", "up")
    assert lab.router("red")["pids"] != old


def test_show_answers_while_the_control_is_stopped(lab: Lab) -> None:
    pid = lab.router("red")["pids"]["control"]
    os.kill(pid, signal.SIGSTOP)
    assert lab.vr("show", "interfaces", "red")
    assert lab.vr("show", "fib", "red")
    wait_until(lambda: lab.router("red")["pids"]["control"] not in (None, pid), "it is found hanging, and replaced")
    lab.wait_state("red", "up")


def test_show_answers_while_the_manager_is_dead(lab: Lab) -> None:
    lab.wait_state("red", "up")
    before = lab.vr("show", "routers")
    lab.kill()
    after = lab.vr("show", "routers")
    assert [(r["name"], r["pids"], r["state"]) for r in after] == [(r["name"], r["pids"], r["state"]) for r in before]
    for what in ("interfaces", "neighbors", "routes", "fib", "sockets", "apps", "groups", "calls", "drops"):
        lab.vr("show", what, "red")
    assert {i["device"] for i in lab.vr("show", "interfaces", "red")} == {None, "lan", "wan"}
    assert lab.vr("show", "route", "red", "198.51.100.1")["prefix"] == "198.51.100.0/24"
    assert lab.vr_run("router", "stop", "red").returncode == 3
    lab.start()
    assert lab.router("red")["pids"] == before[0]["pids"]
