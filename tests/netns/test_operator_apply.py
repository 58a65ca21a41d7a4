"""`vr plan` and `vr apply`: what changes, changes live; what does not, does not notice.

source 10.0.0.2 --- in red out --- sink 10.0.1.2     the same in blue
guest  10.0.5.2 --- guest, a device that comes to red and goes again
"""

from __future__ import annotations

import copy
import json
import re
import signal
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest
from lab import Lab, Namespace, wait_until
from traffic import Stream

pytestmark = pytest.mark.root

RATE: Final = 10_000
Config = dict[str, dict[str, Any]]


def base() -> Config:
    return {
        name: {
            "interfaces": {
                "in": {"device": f"{name}-in", "addresses": ["10.0.0.1/24"]},
                "out": {"device": f"{name}-out", "addresses": ["10.0.1.1/24"]},
            },
            "static": {"198.51.100.0/24": {"via": "10.0.1.2"}},
        }
        for name in ("red", "blue")
    }


@pytest.fixture(scope="module")
def made() -> Iterator[Lab]:
    with Lab() as lab:
        for name in ("red", "blue"):
            lab.host(f"{name}-source", f"{name}-in", "10.0.0.2/24", gateway="10.0.0.1")
            lab.host(f"{name}-sink", f"{name}-out", "10.0.1.2/24", gateway="10.0.1.1")
        lab.host("guest", "guest", "10.0.5.2/24")
        lab.host("green", "green", "10.0.0.2/24")
        lab.configure(base())
        lab.start()
        for name in ("red", "blue"):
            source = lab.namespaces[f"{name}-source"]
            wait_until(partial(source.ping, "10.0.1.2"), "the path is there")
        yield lab


@pytest.fixture
def lab(made: Lab) -> Iterator[Lab]:
    """Give the lab with the configuration that it began with, and leave it so."""
    yield made
    for file in made.conf_dir.rglob("*.yaml"):
        file.unlink()
    made.configure(base())
    made.vr("apply")


def carrier_changes(lab: Lab) -> dict[str, str]:
    """Count how often the far ends saw their links go or come."""
    return {
        name: namespace.run("cat", "/sys/class/net/eth0/carrier_changes").stdout
        for name, namespace in lab.namespaces.items()
        if name.startswith(("red", "blue"))
    }


def counters(lab: Lab, router: str) -> dict[str, int]:
    """Count what came in by each device."""
    shown = [entry for entry in lab.vr("show", "interfaces", router) if entry["name"] != "lo"]
    return {entry["name"]: entry["counters"]["rx_packets"] for entry in shown}


def apply(lab: Lab, config: Config) -> dict[str, Any]:
    lab.configure(config)
    done: dict[str, Any] = lab.vr("apply")
    return done


def prefixes(lab: Lab, router: str) -> set[str]:
    return {route["prefix"] for route in lab.vr("show", "fib", router)}


# Plans


def test_a_plan_tells_place_and_impact_and_touches_nothing(lab: Lab) -> None:
    before = lab.vr("show", "routers"), lab.vr("show", "fib", "red")
    text = """
        routers:
          red:
            interfaces:
              in: {device: red-in, addresses: [10.0.0.1/24, 10.0.7.1/24]}
              out: {device: red-out, mtu: 1400, addresses: [10.0.1.1/24]}
            static:
              203.0.113.0/24: {discard: true}
          green:
            interfaces: {lo: {addresses: [10.0.0.1/32]}}
    """
    lab.configure_text("\n".join(line[8:] for line in text.splitlines()[1:]))
    done = lab.vr_run("plan")
    assert done.returncode == 1
    plan = json.loads(done.stdout)
    changes = {change["path"]: change for change in plan["changes"]}
    place = f"{lab.conf_dir}/routers.yaml"
    told = {
        path: (change["action"], change["source"], change["impact"], change["router"])
        for path, change in changes.items()
    }
    assert told == {
        "routers.blue": ("remove", f"{place}:1", "vr-restart", "blue"),
        "routers.green": ("add", f"{place}:8", "live", "green"),
        "routers.red.interfaces.in.addresses": ("change", f"{place}:4", "live", "red"),
        "routers.red.interfaces.out.mtu": ("add", f"{place}:5", "link", "red"),
        "routers.red.static.198.51.100.0/24": ("remove", f"{place}:6", "live", "red"),
        "routers.red.static.203.0.113.0/24": ("add", f"{place}:7", "live", "red"),
    }
    assert (plan["routers_added"], plan["routers_removed"], plan["changed"], plan["empty"]) == (1, 1, 4, False)
    done = lab.vr_run("plan", json_output=False)
    assert done.returncode == 1
    assert f"+ routers.green  {place}:8  start VR" in done.stdout
    assert re.search(r"~ routers\.red\.interfaces\.in\.addresses  .*10\.0\.7\.1/24\]  .*:4  live\n", done.stdout)
    assert re.search(r"\+ routers\.red\.interfaces\.out\.mtu  1400  .*:5  link \(out\)\n", done.stdout)
    assert "Plan: 1 router added, 4 changed, 1 removed. Sessions reset: 0." in done.stdout
    assert (lab.vr("show", "routers"), lab.vr("show", "fib", "red")) == before


def test_the_same_again_touches_nothing(lab: Lab) -> None:
    """Neither processes nor links, neighbors or counters; another spelling of the same is the same."""
    assert lab.namespaces["red-source"].ping("10.0.1.2")
    netns = lab.router("red")["netns"]
    monitor = lab.helper(["ip", "-n", netns, "monitor", "link", "address", "route"], stdout=subprocess.PIPE, text=True)
    before = lab.vr("show", "routers"), carrier_changes(lab), counters(lab, "red"), len(lab.log())
    macs = {entry["address"]: entry["mac"] for entry in lab.vr("show", "neighbors", "red")}
    spelled = base()
    spelled["red"]["static"]["198.51.100.0/24"] = [{"via": "10.0.1.2", "weight": 1, "discard": False}]
    spelled["red"]["interfaces"]["in"]["driver"] = "auto"
    for config in (base(), spelled):
        assert apply(lab, config)["empty"]
        assert lab.vr_run("plan").returncode == 0
    assert lab.vr_run("apply", json_output=False).stdout == "Nothing to do: this configuration is in force.\n"
    assert (lab.vr("show", "routers"), carrier_changes(lab)) == before[:2]
    now = counters(lab, "red")
    assert all(now[name] >= count > 0 for name, count in before[2].items())
    assert {entry["address"]: entry["mac"] for entry in lab.vr("show", "neighbors", "red")} == macs
    assert "coupled" not in lab.log()[before[3] :]
    monitor.terminate()
    assert monitor.communicate(timeout=30)[0] == ""


# Changes under traffic


def grown() -> Config:
    config = base()
    config["red"]["interfaces"]["guest"] = {"device": "guest", "addresses": ["10.0.5.1/24"]}
    config["red"]["interfaces"]["lo"] = {"addresses": ["10.255.0.1/32"]}
    config["red"]["interfaces"]["out"]["addresses"] = ["10.0.1.1/24", "10.0.9.1/24"]
    config["red"]["static"]["203.0.113.0/24"] = {"via": "10.0.5.2"}
    config["red"]["rsock"] = {"rules": [{"app": "uid:12345", "allow": ["udp"], "ports": [4000]}]}
    config["green"] = {"interfaces": {"lan": {"device": "green", "addresses": ["10.0.0.1/24"]}}}
    return config


def changed() -> Config:
    config = grown()
    config["red"]["interfaces"]["guest"] |= {"addresses": ["10.0.5.9/24"], "mtu": 1400}
    config["red"]["interfaces"]["out"]["addresses"] = ["10.0.1.1/24", "10.0.8.1/24"]
    config["red"]["static"]["203.0.113.0/24"] = {"discard": True}
    config["red"]["rsock"] = {"rules": [{"app": "uid:12345", "allow": "all"}]}
    config["green"]["interfaces"]["lan"]["addresses"] = ["10.0.0.77/24"]
    return config


def see_grown(lab: Lab) -> None:
    guest, source, green = (lab.namespaces[name] for name in ("guest", "red-source", "green"))
    assert guest.ping("10.0.5.1")
    assert green.ping("10.0.0.1")
    assert source.ping("10.0.9.1")
    assert source.ping("10.255.0.1")
    assert {"203.0.113.0/24", "10.0.5.0/24", "10.0.9.1/32"} <= prefixes(lab, "red")


def see_changed(lab: Lab) -> None:
    guest, source, green = (lab.namespaces[name] for name in ("guest", "red-source", "green"))
    assert guest.ping("10.0.5.9")
    assert not guest.ping("10.0.5.1", wait=0.1)
    assert green.ping("10.0.0.77")
    assert source.ping("10.0.8.1")
    assert lab.interface("red", "guest")["mtu"] == 1400
    hops = lab.vr("show", "route", "red", "203.0.113.1")["nexthops"]
    assert hops[0]["kind"] == "blackhole"


def see_base(lab: Lab) -> None:
    assert {router["name"] for router in lab.vr("show", "routers")} == {"red", "blue"}
    assert {"guest", "green"} <= {link["ifname"] for link in lab.box.links()}
    assert {"in", "out", "lo"} == {entry["name"] for entry in lab.vr("show", "interfaces", "red")}
    assert prefixes(lab, "red").isdisjoint({"203.0.113.0/24", "10.0.5.0/24", "10.0.8.0/24", "10.255.0.1/32"})


def test_changes_cost_what_they_do_not_name_no_packet(lab: Lab) -> None:
    """Streams through another router, and through other interfaces of the same one, lose nothing."""
    streams = []
    for tag, name in enumerate(("red", "blue"), start=1):
        ends = [(lab.namespaces[f"{name}-{role}"], "eth0") for role in ("source", "sink")]
        stream = Stream(lab, ends[0], ends[1], tag, RATE, 60 * RATE)
        stream.start(lab.interface(name, "in")["mac"], "10.0.0.2", "10.0.1.2")
        streams.append(stream)
    kept = {router["name"]: (router["pids"], router["restarts"]) for router in lab.vr("show", "routers")}
    before = carrier_changes(lab)
    for config, see in ((grown(), see_grown), (changed(), see_changed), (base(), see_base)):
        assert not apply(lab, config)["empty"]
        see(lab)
        assert apply(lab, copy.deepcopy(config))["empty"]
    for stream in streams:
        assert stream.sending, "the changes took longer than the traffic"
        stream.stop()
    now = {router["name"]: (router["pids"], router["restarts"]) for router in lab.vr("show", "routers")}
    assert now == kept
    assert carrier_changes(lab) == before
    for stream in streams:
        result = stream.result(30)
        assert (result["lost"], result["duplicates"], result["reordered"]) == (0, 0, 0), result


def test_a_change_acts_at_once(lab: Lab) -> None:
    """When `apply` has returned, the very next packet meets the new tables."""
    source = lab.namespaces["red-source"]
    for last in range(20, 26):
        config = base()
        config["red"]["interfaces"]["in"]["addresses"].append(f"10.0.{last}.1/24")
        apply(lab, config)
        assert source.ping(f"10.0.{last}.1", wait=5)


def test_a_mac_and_an_mtu_reach_the_wire(lab: Lab) -> None:
    source = lab.namespaces["red-source"]
    config = base()
    config["red"]["interfaces"]["in"] |= {"mac": "02:00:00:00:aa:01", "mtu": 1300}
    apply(lab, config)
    interface = lab.interface("red", "in")
    assert (interface["mac"], interface["mtu"]) == ("02:00:00:00:aa:01", 1300)
    assert wait_until(lambda: source.ping("10.0.0.1", wait=0.2), "it answers under its new MAC")
    assert "02:00:00:00:aa:01" in source.ip("neighbor", "show", "10.0.0.1").stdout
    apply(lab, base())
    assert lab.interface("red", "in")["mac"] != "02:00:00:00:aa:01"
    assert wait_until(lambda: source.ping("10.0.0.1", wait=0.2), "it answers under its own MAC")


def test_weights_share_the_flows(lab: Lab) -> None:
    config = base()
    config["red"]["static"]["203.0.113.0/24"] = [{"via": "10.0.1.2", "weight": 2}, {"via": "10.0.1.3"}]
    apply(lab, config)
    hops = lab.vr("show", "route", "red", "203.0.113.1")["nexthops"]
    assert [(hop["via"], hop["weight"]) for hop in hops] == [("10.0.1.2", 2), ("10.0.1.3", 1)]


# Bad configurations

BAD: Final = """routers:
  red:
    interfaces:
      in: {device: red-in, addreses: [10.0.0.1/24]}
      out: {device: red-out, addresses: [10.0.1.300/24], mtu: 12}
    static:
      198.51.100.0/24: {via: 10.0.1.2, discard: true}
      203.0.113.0/24: {interface: ouy}
  blue:
    interfaces: {to-red: {patch: red/to-blue, addresses: [169.254.0.1/31]}}
    rsock: {rules: [{app: uid:no-such-user, allow: [udp, fly]}]}
"""


def complaints(text: str) -> list[tuple[int, int, str]]:
    found = re.findall(r"^[^\s:]+:(\d+):(\d+): error: (.*)$", text, re.MULTILINE)
    return [(int(line), int(column), message) for line, column, message in found]


def test_all_errors_at_once_and_the_running_configuration_stays(lab: Lab) -> None:
    before = lab.vr("show", "routers"), lab.vr("show", "fib", "red")
    lab.configure_text(BAD)
    lab.configure_text("routers: {red: {static: {198.51.100.0/24: {discard: true}}}}\n", "zz/more.yaml")
    outputs = []
    for words in (("plan",), ("apply",), ("check",), ("check", str(lab.conf_dir))):
        done = lab.vr_run(*words, json_output=False)
        assert (done.returncode, done.stdout) == (2, ""), words
        outputs.append(done.stderr.replace("vr: ", "", 1))
    assert len(set(outputs)) == 1, "all four say the same"
    errors = complaints(outputs[0])
    assert {line for line, *_ in errors} == {4, 5, 7, 8, 10, 11, 1}
    assert any("duplicate key" in message and line == 1 for line, _column, message in errors)
    assert "did you mean 'addresses'?" in outputs[0]
    assert "did you mean 'out'?" in outputs[0]
    # The caret stands under the key.
    lines = outputs[0].splitlines()
    position = next(number for number, line in enumerate(lines) if "unknown key 'addreses'" in line)
    source, caret = lines[position + 1], lines[position + 2]
    assert source[caret.index("^") :].startswith("addreses: [")
    assert caret.count("^") == len("addreses")
    column = next(column for line, column, message in errors if "addreses" in message)
    assert BAD.splitlines()[3][column - 1 :].startswith("addreses")
    details = json.loads(lab.vr_run("apply").stdout)["error"]["details"]
    assert len(details) == len(errors)
    assert {"file", "line", "column", "severity", "message", "help"} == details[0].keys()
    assert (lab.vr("show", "routers"), lab.vr("show", "fib", "red")) == before


@pytest.mark.parametrize(
    "text",
    ["routers: {red", "routers:\n\tred: {}\n", "- a\n- b\n", "routers: [1]\n", "\x00", "a: b: c\n", "routers: 7\n"],
)
def test_broken_files_are_no_tracebacks(lab: Lab, text: str) -> None:
    lab.configure_text(text)
    done = lab.vr_run("apply", json_output=False)
    assert done.returncode == 2
    assert complaints(done.stderr.replace("vr: ", "", 1))
    assert "Traceback" not in done.stderr + lab.log()


def test_a_configuration_that_is_gone(lab: Lab) -> None:
    """An emptied directory is a mistake, not the wish to stop everything."""
    before = lab.vr("show", "routers")
    (lab.conf_dir / "routers.yaml").unlink()
    done = lab.vr_run("apply", json_output=False)
    assert done.returncode == 2
    assert "holds no configuration" in done.stderr
    assert lab.vr("show", "routers") == before


# SIGHUP


def test_sighup_does_the_same_as_apply(lab: Lab) -> None:
    assert lab.daemon is not None
    before = lab.vr("show", "routers")
    lab.configure_text(BAD)
    earlier = len(lab.log())  # of other tests
    lab.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "the running one stays" in lab.log()[earlier:], "the log says that the configuration is bad")
    assert "did you mean 'addresses'?" in lab.log()[earlier:]
    lab.configure(base())
    lab.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: "configuration applied" in lab.log()[earlier:], "the log says that it was applied")
    assert lab.vr("show", "routers") == before
    lab.configure(grown())
    lab.daemon.send_signal(signal.SIGHUP)
    wait_until(lambda: {"red", "blue", "green"} == {r["name"] for r in lab.vr("show", "routers")}, "green is there")
    lab.wait_state("green", "up")
    assert lab.vr_run("plan").returncode == 0
    see_grown(lab)


# Stop, start, restart


def test_stop_start_restart_touch_one_router_alone(lab: Lab) -> None:
    source, other = lab.namespaces["red-source"], lab.namespaces["blue-source"]
    before = lab.router("red"), lab.router("blue")
    assert lab.vr("router", "stop", "red") == {"router": "red", "action": "stop"}
    stopped = lab.router("red")
    assert (stopped["state"], stopped["pids"]) == ("down", {"forwarder": None, "control": None})
    assert {"red-in", "red-out"} <= {link["ifname"] for link in lab.box.links()}
    assert not Path(f"/run/netns/{before[0]['netns']}").exists()
    assert lab.vr_run("show", "fib", "red").returncode == 3
    assert lab.vr_run("ping", "red", "10.0.0.2", "-c", "1").returncode == 3
    assert other.ping("10.0.1.2")
    assert lab.vr("apply")["empty"], "a stopped router stays stopped"
    assert lab.router("red")["state"] == "down"
    lab.vr("router", "stop", "red")
    lab.vr("router", "start", "red")
    assert lab.router("red")["state"] == "up"
    assert wait_until(lambda: source.ping("10.0.1.2", wait=0.3), "red forwards again")
    pids = lab.router("red")["pids"]
    assert lab.vr_run("router", "start", "red").returncode == 0
    assert lab.router("red")["pids"] == pids, "a running one is left alone"
    lab.vr("router", "restart", "red")
    assert set(lab.router("red")["pids"].values()).isdisjoint(pids.values())
    assert wait_until(lambda: source.ping("10.0.1.2", wait=0.3), "red forwards again")
    assert lab.router("blue") == before[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_the_end_gives_everything_back(number: signal.Signals) -> None:
    """Also with a reload just asked for; SIGHUP alone ends nothing."""
    with Lab() as lab:
        host = lab.host("host", "lan", "10.0.0.2/24")
        lab.box.address("lan", "172.16.0.1/24")
        before = links_and_addresses(lab.box)
        lab.configure({"red": {"interfaces": {"lan": {"device": "lan", "addresses": ["10.0.0.1/24"]}}}})
        lab.start()
        assert lab.daemon is not None
        assert host.ping("10.0.0.1")
        netns = Path("/run/netns") / lab.router("red")["netns"]
        lab.daemon.send_signal(signal.SIGHUP)
        if number is signal.SIGHUP:
            wait_until(lambda: "configuration applied" in lab.log(), "the reload")
            lab.stop()
        else:
            lab.daemon.send_signal(number)
            assert lab.daemon.wait(30) == 0
            lab.daemon = None
        assert wait_until(lambda: links_and_addresses(lab.box) == before, "the device is as it was")
        assert not lab.run_dir.exists()
        assert not netns.exists()
        assert "Traceback" not in lab.log()


def links_and_addresses(namespace: Namespace) -> list[tuple[Any, ...]]:
    found = json.loads(namespace.ip("-j", "address").stdout)
    return [
        (link["ifname"], link["address"], link["mtu"], sorted(link["flags"]),
         sorted(entry["local"] for entry in link["addr_info"]))
        for link in found
    ]  # fmt: skip
