"""The step cases of another project's conformance tests: one input to a router of a running topology, then another.

The data does not say which router a case is about: it is the one whose recorded state is most like that of the case.
A case passes when the LSAs and acknowledgments that are sent, taken together over its steps, and the routes at its end
are those recorded.  The share is printed, and may only grow.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import replace
from typing import Any, Final

import pytest

from tests.unit.ospf_network import Network, Node
from tests.unit.ospf_recorded import (
    ARCHIVE,
    Topology,
    boot,
    contents,
    own_routes,
    protocol,
    recorded_routes,
    settings,
    topologies,
)
from vrouter.net.address import parse_address, parse_interface_address
from vrouter.proto.base import Meta, OwnAddress, Transmit
from vrouter.proto.ospf import flooding, origination
from vrouter.wire.ospf.authentication import sign
from vrouter.wire.ospf.lsa import (
    ExternalBody,
    Grace,
    LsaHeader,
    NetworkBody,
    OpaqueBody,
    RouterBody,
    RouterLink,
    SummaryBody,
    build_lsa,
    decode_header,
    encode_grace,
)
from vrouter.wire.ospf.packet import Ack, Description, Hello, Request, Update, decode_body, decode_packet_header

PASSING: Final = 72  # of 86; the others: see what is printed
OPTIONS: Final = {"MT": 1, "E": 2, "MC": 4, "NP": 8, "L": 16, "DC": 32, "O": 64, "DN": 128}
ROUTER_FLAGS: Final = {"B": 1, "E": 2, "V": 4, "NT": 16}
DESCRIPTION_FLAGS: Final = {"MS": 1, "M": 2, "I": 4}
LINKS: Final = {"PointToPoint": 1, "TransitNetwork": 2, "StubNetwork": 3, "VirtualLink": 4}
Steps = dict[int, dict[str, str]]  # number -> what -> text


class UnsupportedError(Exception):
    """An input that has no meaning here."""


def number(text: str | None) -> int:
    return parse_address(text).value if text else 0


def flags(text: str, known: dict[str, int]) -> int:
    return sum(known[word] for word in text.replace(" ", "").split("|") if word)


# --- JSON to packets ---


def lsa_body(name: str, written: Any) -> Any:
    if name == "Router":
        links = [
            RouterLink(LINKS[each["link_type"]], number(each["link_id"]), number(each["link_data"]), each["metric"])
            for each in written["links"]
        ]
        return RouterBody(flags(written["flags"], ROUTER_FLAGS), tuple(links))
    if name == "Network":
        return NetworkBody(number(written["mask"]), tuple(map(number, written["attached_rtrs"])))
    if name in {"SummaryNetwork", "SummaryRouter"}:
        return SummaryBody(number(written.get("mask")), written["metric"])
    if name == "AsExternal":
        forwarding = number(written.get("fwd_addr"))
        return ExternalBody(
            number(written["mask"]), written["metric"], "E" in written["flags"], forwarding, written["tag"]
        )
    if name == "OpaqueLink" and "Grace" in written:
        grace = written["Grace"]
        return OpaqueBody(encode_grace(Grace(grace["grace_period"], grace["gr_reason"], number(grace["addr"]))))
    if name == "Unknown":
        return OpaqueBody(b"")
    raise UnsupportedError(name)


def lsa(written: dict[str, Any]) -> bytes:
    header = written["hdr"]
    ((name, body),) = written["body"].items()
    key = (header["lsa_type"], number(header["lsa_id"]), number(header["adv_rtr"]))
    sequence = header.get("seq_no", 0x80000001)
    signed = sequence - 2**32 if sequence >> 31 else sequence
    raw = build_lsa(key, flags(header["options"], OPTIONS), signed, lsa_body(name, body), header.get("age", 0))
    return raw[:16] + header["cksum"].to_bytes(2, "big") + raw[18:] if "cksum" in header else raw


def lsa_header(written: dict[str, Any]) -> LsaHeader:
    sequence = written.get("seq_no", 0x80000001)
    signed = sequence - 2**32 if sequence >> 31 else sequence
    return LsaHeader(
        written.get("age", 0),
        flags(written["options"], OPTIONS),
        written["lsa_type"],
        number(written["lsa_id"]),
        number(written["adv_rtr"]),
        signed,
        written.get("cksum", 0),
        written["length"],
    )


def packet(written: dict[str, Any]) -> bytes:
    if "Err" in written:
        return bytes(24)
    ((name, body),) = written["Ok"].items()
    made: Any
    if name == "Hello":
        neighbors = tuple(map(number, body["neighbors"]))
        made = Hello(
            number(body["network_mask"]), body["hello_interval"], flags(body["options"], OPTIONS), body["priority"],
            body["dead_interval"], number(body["dr"]), number(body["bdr"]), neighbors,
        )  # fmt: skip
    elif name == "DbDesc":
        headers = tuple(map(lsa_header, body["lsa_hdrs"]))
        options, marks = flags(body["options"], OPTIONS), flags(body["dd_flags"], DESCRIPTION_FLAGS)
        made = Description(body["mtu"], options, marks, body["dd_seq_no"], headers)
    elif name == "LsRequest":
        made = Request(tuple((e["lsa_type"], number(e["lsa_id"]), number(e["adv_rtr"])) for e in body["entries"]))
    elif name == "LsUpdate":
        made = Update(tuple(map(lsa, body["lsas"])))
    else:
        made = Ack(tuple(map(lsa_header, body["lsa_hdrs"])))
    return sign(made, number(body["hdr"]["router_id"]), number(body["hdr"]["area_id"]))


# --- inputs ---


def deliver(net: Network, node: Node, event: dict[str, Any]) -> list[Any]:
    interface = event["iface_key"]["Value"]
    meta = Meta(interface, parse_address(event["src"]), parse_address(event["dst"]), 1)
    return node.instance.received(f"ospf-{interface}", packet(event["packet"]), meta, net.now)


def fire(net: Network, node: Node, *kinds: str, interface: str | None = None) -> list[Any]:
    """Let timers of these kinds run out now, and no others."""
    timers = node.instance._core.timers
    for key in list(timers._due):
        if key[0] in kinds and interface in {None, key[1] if len(key) > 1 else None}:
            timers.set(key, net.now)
    found = []
    while (due := timers.deadline) is not None and due <= net.now:
        found += node.instance.handle_timeout(net.now)
    return found


def postpone(net: Network, node: Node) -> None:
    """Let nothing happen but what a case says."""
    timers = node.instance._core.timers
    for key in list(timers._due):
        timers.set(key, net.now + 100)


def protocol_event(net: Network, node: Node, written: dict[str, Any]) -> list[Any]:
    ((name, event),) = written.items()
    core = node.instance._core
    core.now = net.now
    if name == "NetRxPacket":
        return deliver(net, node, event)
    if name == "SpfDelayEvent":
        return fire(net, node, "spf")
    if name == "NsmEvent":
        return fire(net, node, "inactive", interface=event["iface_key"]["Value"])
    if name == "GracePeriod":
        return fire(net, node, "help")
    if name == "RxmtInterval":
        return fire(net, node, "retransmit")
    if name in {"LsaFlush", "LsaRefresh"}:
        key = event["lse_key"]["Value"]
        wanted = (key["lsa_type"], number(key["lsa_id"]), number(key["adv_rtr"]))
        home = event["lsdb_key"]
        scope = ("area", home["Area"]["Value"]) if isinstance(home, dict) and "Area" in home else ("as",)
        kind = "refresh" if name == "LsaRefresh" else "age"
        core.timers.set((kind, scope, wanted), net.now)
        return node.instance.handle_timeout(net.now)
    raise UnsupportedError(name)


def interface_event(net: Network, node: Node, written: dict[str, Any]) -> list[Any]:
    ((name, event),) = written.items()
    if name not in {"InterfaceUpd", "InterfaceAddressAdd", "InterfaceAddressDel"}:
        raise UnsupportedError(name)
    state = node.interfaces.get(event["ifname"])
    if state is None:
        return []
    if name == "InterfaceUpd":
        state = replace(state, up="OPERATIVE" in event["flags"], mtu=event["mtu"])
    else:
        address, length = parse_interface_address(event["addr"])
        own = OwnAddress(address, length)
        kept = tuple(known for known in state.addresses if known != own)
        state = replace(state, addresses=kept if name == "InterfaceAddressDel" else (*kept, own))
    node.interfaces[event["ifname"]] = state
    return node.instance.interface_changed(state, net.now)


def merge(written: Any, change: Any) -> Any:
    """Apply a change as RFC 9144 writes it: `@` says what becomes of a node."""
    if not isinstance(change, dict):
        return change
    result = dict(written) if isinstance(written, dict) else {}
    for key, value in change.items():
        operation = change.get(f"@{key}", {}).get("yang:operation") if not key.startswith("@") else None
        if key.startswith("@"):
            continue
        if operation == "delete" or (isinstance(value, dict) and _operation(value) == "delete"):
            result.pop(key, None)
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            result[key] = _merged_list(result.get(key, []), value)
        else:
            result[key] = merge(result.get(key), value)
    return result


def _operation(value: dict[str, Any]) -> str:
    return str(value.get("@", {}).get("yang:operation", ""))


def _merged_list(held: list[Any], changes: list[Any]) -> list[Any]:
    found = list(held)
    for change in changes:
        names = [key for key in ("type", "name", "area-id", "prefix", "interface") if key in change]
        same = [entry for entry in found if all(entry.get(key) == change[key] for key in names)]
        if _operation(change) == "delete":
            found = [entry for entry in found if entry not in same]
        elif same:
            found[found.index(same[0])] = merge(same[0], change)
        else:
            found.append(merge({}, change))
    return found


# --- outputs ---


def sent(outputs: list[Any]) -> set[Any]:
    found: set[Any] = set()
    for output in outputs:
        if not isinstance(output, Transmit):
            continue
        body = decode_body(decode_packet_header(output.data), output.data)
        if isinstance(body, Update):
            headers = [decode_header(raw) for raw in body.lsas]
            found |= {("lsa", output.interface, h.key, h.age == 3600) for h in headers if h.type < 10}
        elif isinstance(body, Ack):
            found |= {("ack", output.interface, header.key) for header in body.headers if header.type < 10}
        elif isinstance(body, Request):
            found |= {("request", output.interface, key) for key in body.keys}
    return found


def key_of(written: dict[str, Any]) -> tuple[int, int, int]:
    return (written["lsa_type"], number(written["lsa_id"]), number(written["adv_rtr"]))


def recorded_sent(text: str) -> set[Any]:
    found: set[Any] = set()
    for line in text.splitlines():
        told = json.loads(line).get("NetTxPacket")
        if told is None:
            continue
        ((name, body),) = told["packet"].items()
        if name == "LsUpdate":
            headers = [each["hdr"] for each in body["lsas"]]
            found |= {("lsa", told["ifname"], key_of(h), h.get("age") == 3600) for h in headers if h["lsa_type"] < 10}
        elif name == "LsAck":
            found |= {("ack", told["ifname"], key_of(h)) for h in body["lsa_hdrs"] if h["lsa_type"] < 10}
        elif name == "LsRequest":
            found |= {("request", told["ifname"], key_of(h)) for h in body["entries"]}
    return found


# --- cases ---


def step_cases(files: dict[tuple[str, ...], str]) -> dict[str, Steps]:
    found: dict[str, Steps] = {}
    for place, text in files.items():
        if place[0] != "topologies":
            step, _, what = place[1].partition("-")
            found.setdefault(place[0], {}).setdefault(int(step), {})[what] = text
    return found


@functools.cache
def written_settings(text: str) -> tuple[str, frozenset[str], bool]:
    """The router id and the interfaces of a configuration, and whether it has virtual links."""
    made = settings(protocol(text))
    names = frozenset(name for entry in made.areas.values() for name in entry.interfaces)
    return made.router_id or "", names, "virtual-link" in text


def recorded_states(steps: Steps) -> list[str]:
    key = "output-northbound-state.json"
    return [texts[key] for _, texts in sorted(steps.items()) if key in texts]


def router_of(steps: Steps, known: dict[str, Topology]) -> tuple[str, str]:
    """Find whom a case is about."""
    states = recorded_states(steps)
    everything = "".join(text for texts in steps.values() for text in texts.values()).replace(" ", "")
    named = set(re.findall(r'"(?:ifname":|iface_key":\{"Value":)"([^"]+)"', everything)) - {"eth-rt999"}
    lines = [line for texts in steps.values() for line in texts.get("output-protocol.jsonl", "").splitlines()]
    senders = set(re.findall(r'NetTxPacket.*?"router_id":"([^"]+)"', "\n".join(lines)))
    best: tuple[int, str, str] | None = None
    for name, topology in sorted(known.items()):
        virtual = any(written_settings(files["config.json"])[2] for files in topology.values())
        for router, files in sorted(topology.items()):
            own, interfaces, _ = written_settings(files["config.json"])
            if not named <= interfaces or not senders <= {own}:
                continue
            score = 10_000 * virtual
            if states:
                recorded = pretty(files["northbound-state.json"]).splitlines()
                score += len(set(pretty(states[0]).splitlines()) ^ set(recorded))
            if best is None or score < best[0]:
                best = (score, name, router)
    assert best is not None
    return best[1], best[2]


@functools.cache
def pretty(text: str) -> str:
    return json.dumps(protocol(text), indent=1, sort_keys=True)


def failure(steps: Steps, topology: Topology, router: str) -> str:
    """Play a case; give what is not as recorded."""
    net = boot(topology)
    net.filter = lambda _source, _target, _data: None
    node = net.nodes[router]
    written = protocol(topology[router]["config.json"])
    ours: set[Any] = set()
    theirs: set[Any] = set()
    for _, texts in sorted(steps.items()):
        net.now += 1
        postpone(net, node)
        outputs: list[Any] = []
        for line in texts.get("input-protocol.jsonl", "").splitlines():
            outputs += protocol_event(net, node, json.loads(line))
        for line in texts.get("input-ibus.jsonl", "").splitlines():
            outputs += interface_event(net, node, json.loads(line))
        if "input-northbound-config-change.json" in texts:
            changed = json.loads(texts["input-northbound-config-change.json"])
            written = merge(written, protocol(json.dumps(changed)))
            if not written.get("enabled", True):
                return _ended(node, net, texts)
            if settings(written).router_id != node.router_id:
                raise UnsupportedError("another router id needs another instance")
            ours |= sent(net.configure(node, settings(written)))
        if "input-northbound-rpc.json" in texts:
            ((name, arguments),) = json.loads(texts["input-northbound-rpc.json"]).items()
            if name != "ietf-ospf:clear-neighbor":
                raise UnsupportedError(name)
            outputs += node.instance.clear("neighbor", {"interface": arguments.get("interface")}, net.now)
        net.outputs(node, outputs)
        outputs += fire(net, node, "ack")
        ours |= sent(outputs)
        theirs |= recorded_sent(texts.get("output-protocol.jsonl", ""))
    if ours != theirs:
        return f"sent {sorted(ours - theirs)[:3]} and not {sorted(theirs - ours)[:3]}"
    states = [
        t["output-northbound-state.json"] for _, t in sorted(steps.items()) if "output-northbound-state.json" in t
    ]
    if states:
        expected, routes = recorded_routes(protocol(states[-1])), own_routes(net, router)
        if expected != routes:
            net.outputs(node, fire(net, node, "spf"))  # after some inputs the routes are recorded at once
            routes = own_routes(net, router)
        if expected != routes:
            return f"routes {sorted(expected ^ routes)[:3]}"
    return ""


def _ended(node: Node, net: Network, texts: dict[str, str]) -> str:
    ours, theirs = sent(node.instance.stop(net.now)), recorded_sent(texts.get("output-protocol.jsonl", ""))
    return "" if ours == theirs else f"sent {sorted(ours - theirs)[:3]} and not {sorted(theirs - ours)[:3]}"


@pytest.mark.skipif(not ARCHIVE.exists(), reason="ANABRANCH_TEST_DATA does not lead to the conformance data")
def test_the_share_of_step_cases_that_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(origination, "MIN_INTERVAL", 0.0)  # the recorded steps follow each other at once
    monkeypatch.setattr(flooding, "MIN_ARRIVAL", 0.0)
    files = contents()
    known = topologies(files)
    failed = {}
    cases = step_cases(files)
    for name, steps in sorted(cases.items()):
        topology, router = router_of(steps, known)
        try:
            problem = failure(steps, known[topology], router)
        except UnsupportedError as error:
            problem = f"not supported: {error}"
        if problem:
            failed[name] = f"{topology} {router}: {problem}"
    print(f"\nstep cases of OSPFv2: {len(cases) - len(failed)} of {len(cases)} pass")
    for name, problem in failed.items():
        print(f"  {name}: {problem}")
    assert len(cases) - len(failed) >= PASSING
