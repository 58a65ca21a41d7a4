"""Text for people, made from the same data that `-j` prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

_UNITS: Final = ((86400, "d"), (3600, "h"), (60, "m"))


def table(header: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = ()) -> str:
    """Align columns; those named in `right` hold numbers.  No trailing spaces."""
    cells = [list(header), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    numbers = {header.index(name) for name in right}

    def line(row: list[str]) -> str:
        return "  ".join(
            f"{text:>{width}}" if column in numbers else f"{text:{width}}"
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()

    return "\n".join(line(row) for row in cells)


def _cell(value: object) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "-"
    return str(value)


def duration(seconds: float | None) -> str:
    """Write an age briefly: 4.2s, 3m10s, 2h5m, 3d4h."""
    if seconds is None:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f}s"
    for position, (size, unit) in enumerate(_UNITS):
        if seconds >= size:
            rest_size, rest_unit = _UNITS[position + 1] if position + 1 < len(_UNITS) else (1, "s")
            return f"{int(seconds // size)}{unit}{int(seconds % size // rest_size)}{rest_unit}"
    raise AssertionError  # a minute or more is at least one unit


def routers(data: list[dict[str, Any]]) -> str:
    """Render `show routers`."""
    rows = []
    for router in data:
        pids = router.get("pids") or {}
        rows.append(
            (
                router["name"],
                router["state"],
                router["id"],
                pids.get("forwarder"),
                pids.get("control"),
                router["restarts"],
                router["netns"],
            )
        )
    if not rows:
        return "no routers are configured"
    return table(
        ("ROUTER", "STATE", "ID", "FORWARDER", "CONTROL", "RESTARTS", "NETNS"),
        rows,
        ("ID", "FORWARDER", "CONTROL", "RESTARTS"),
    )


def interfaces(data: list[dict[str, Any]]) -> str:
    """Render `show interfaces`: two lines each, then what was dropped."""
    rows = []
    for interface in data:
        counters = interface["counters"]
        rows.append(
            (
                interface["name"],
                interface["state"],
                interface["device"],
                interface["driver"],
                interface["mtu"],
                interface["addresses"],
                counters["rx_packets"],
                counters["tx_packets"],
                counters["forwarded_packets"],
                counters["punt_packets"],
                sum(counters["drops"].values()),
            )
        )
    header = ("INTERFACE", "STATE", "DEVICE", "DRIVER", "MTU", "ADDRESSES", "RX", "TX", "FORWARDED", "PUNT", "DROPS")
    text = table(header, rows, ("MTU", "RX", "TX", "FORWARDED", "PUNT", "DROPS"))
    if any(interface["counters"]["drops"] for interface in data):
        text += "\n(reasons: vr show drops)"
    for interface in data:
        if interface.get("driver_reason"):
            text += f"\n{interface['name']}: driver auto: {interface['driver']}: {interface['driver_reason']}"
    for interface in data:
        if interface.get("mode"):
            text += f"\n{interface['name']}: {', '.join(interface['mode'])}"
            text += f", {interface['queues']} queues" if interface.get("queues", 1) > 1 else ""
            counted = [f"{name} {count}" for name, count in interface["rings"].items() if count]
            text += f" (rings: {', '.join(counted)})" if counted else ""
    for interface in data:
        if interface.get("offload"):
            text += f"\n{interface['name']}: offload {interface['offload_kind']}: {interface['offload']}"
        if interface.get("device_drops"):
            text += f"\n{interface['name']}: {interface['device_drops']} frames dropped by the device on their way out"
    return text if rows else "no interfaces"


def neighbors(data: list[dict[str, Any]]) -> str:
    """Render `show neighbors`."""
    rows = [(n["address"], n["mac"], n["state"], n["interface"], duration(n["age"])) for n in data]
    return table(("ADDRESS", "MAC", "STATE", "INTERFACE", "AGE"), rows, ("AGE",)) if rows else "no neighbors"


def _hop(hop: dict[str, Any]) -> str:
    """Write a next hop: via 192.0.2.2 dev wan mac ..., direct dev lan, local dev lo, blackhole."""
    parts = [f"via {hop['via']}" if hop.get("via") else str(hop.get("kind", "direct"))]
    if hop.get("interface"):
        parts.append(f"dev {hop['interface']}")
    if hop.get("weight", 1) != 1:
        parts.append(f"weight {hop['weight']}")
    if hop.get("mac"):
        parts.append(f"mac {hop['mac']}")
    return " ".join(parts)


def routes(data: list[dict[str, Any]]) -> str:
    """Render `show routes` and `show fib`: a line for each next hop."""
    rows: list[tuple[object, ...]] = []
    for entry in data:
        first = (entry["prefix"], entry["protocol"], f"{entry['preference']}/{entry['metric']}")
        hops = [_hop(hop) for hop in entry["nexthops"]] or ["-"]
        rows.append((*first, hops[0]))
        rows += [(" ", " ", " ", hop) for hop in hops[1:]]
    return table(("PREFIX", "PROTOCOL", "PREF/METRIC", "NEXT HOP"), rows) if rows else "no routes"


def route(data: dict[str, Any]) -> str:
    """Render `show route`."""
    return f"{data['address']} matches\n{routes([data])}"


def sockets(data: list[dict[str, Any]]) -> str:
    """Render `show sockets`: streams, then what has no connections, then what is only counted."""
    streams = [s for s in data if s["type"] == "tcp" and s["socket"] is not None]
    others = [s for s in data if s["type"] != "tcp"]
    parts = []
    if streams:
        header = ("TYPE", "STATE", "LOCAL", "REMOTE", "RECV-Q", "SEND-Q", "RTT", "CWND", "RETRANS", "APP", "PID", "UID")
        rows = [_stream(s) for s in streams]
        parts.append(table(header, rows, ("RECV-Q", "SEND-Q", "RTT", "CWND", "RETRANS", "PID", "UID")))
    if others:
        keys = ("type", "local", "remote", "interface", "app", "pid", "owner", "rx_packets", "tx_packets", "rx_drops")
        datagrams = [tuple((s | {"owner": _owner(s)})[key] for key in keys) for s in others]
        names = ("TYPE", "LOCAL", "REMOTE", "INTERFACE", "APP", "PID", "UID", "RX", "TX", "DROPS")
        parts.append(table(names, datagrams, ("PID", "UID", "RX", "TX", "DROPS")))
    parts += [f"{s['count']} more in {s['state']}" for s in data if s["socket"] is None]
    return "\n\n".join(parts) if parts else "no sockets"


def _stream(entry: dict[str, Any]) -> tuple[object, ...]:
    connected = entry["remote"] is not None
    numbers = (f"{entry['rtt_ms']:g} ms", entry["cwnd"], entry["retransmits"]) if connected else (None, None, None)
    queues = (entry["receive_queue"], entry["send_queue"])
    program = ("(closed)", None) if entry["orphaned"] else (entry["app"], entry["pid"])
    return ("tcp", entry["state"], entry["local"], entry["remote"], *queues, *numbers, *program, _owner(entry))


def _owner(entry: dict[str, Any]) -> object:
    """Name a user by his uid alone, and a remote app by its key."""
    return entry["identity"] if entry["identity"].startswith("curve:") else entry["uid"]


def drops(data: list[dict[str, Any]]) -> str:
    """Render `show drops`."""
    rows = [(drop["reason"], drop["interface"] or "(own packets)", drop["packets"]) for drop in data]
    return table(("REASON", "INTERFACE", "PACKETS"), rows, ("PACKETS",)) if rows else "nothing was dropped"


def action(data: dict[str, Any]) -> str:
    """Render what was done to a router."""
    done = {"start": "started", "stop": "stopped", "restart": "restarted"}
    return f"{data['router']}: {done[data['action']]}"


def check(data: dict[str, Any]) -> str:
    """Render a successful `check`."""
    count = len(data["routers"])
    return f"{data['directory'] or 'configuration'}: no errors, {count} router{'s' * (count != 1)}"


def plan(data: dict[str, Any]) -> str:
    """Render a plan: what changes, where that was written, and what it touches."""
    from manager.config.plan import render_plan

    return render_plan(data).rstrip("\n")


def applied(data: dict[str, Any]) -> str:
    """Render what `apply` did."""
    if data["empty"]:
        return "Nothing to do: this configuration is in force."
    return plan(data).rpartition("\n")[0] + "\nApplied."


def doctor(data: list[dict[str, Any]]) -> str:
    """Render the findings of `doctor`: a line each, and the fix below where one is needed."""
    lines = []
    for finding in data:
        lines.append(f"{finding['state']:5} {finding['name']}: {finding['message']}")
        if finding.get("help"):
            lines.append(f"      fix: {finding['help']}")
    return "\n".join(lines)


def apps(data: list[dict[str, Any]]) -> str:
    """Render `show apps`."""
    rows = []
    for row in data:
        routers_ = [f"{name}:{count}" if len(row["routers"]) > 1 else name for name, count in row["routers"].items()]
        rows.append(
            (
                row["identity"],
                row["app"],
                f"{row['pid']}{'' if row['lives'] else ' (gone)'}" if row["pid"] else None,
                _few(routers_),
                [f"{kind} {count}" for kind, count in sorted(row["sockets"].items())],
                row["bytes_sent"],
                row["bytes_received"],
                row.get("opens", 0),
                [f"{name} {count}" for name, count in row.get("denials", {}).items()],
            )
        )
    header = ("IDENTITY", "APP", "PID", "ROUTERS", "SOCKETS", "TCP-SENT", "TCP-RECEIVED", "OPENS", "DENIALS")
    return table(header, rows, ("TCP-SENT", "TCP-RECEIVED", "OPENS")) if rows else "no apps"


def _few(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def groups(data: list[dict[str, Any]]) -> str:
    """Render `show groups`."""
    rows = []
    for row in data:
        members = [f"{member['app']}/{member['pid']}" for member in row["members"]]
        rows.append((row["interface"], row["group"], row["mode"], row["sources"], members))
    return table(("INTERFACE", "GROUP", "FILTER", "SOURCES", "MEMBERS"), rows) if rows else "no groups"


def calls(data: list[dict[str, Any]]) -> str:
    """Render `show calls`: microseconds."""
    rows = [(row["call"], row["count"], row["mean_us"], row["p50_us"], row["p99_us"]) for row in data]
    numbers = ("COUNT", "MEAN-US", "P50-US", "P99-US")
    return table(("CALL", *numbers), rows, numbers) if rows else "no calls"
