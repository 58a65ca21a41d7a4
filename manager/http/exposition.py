"""Metrics as text: OpenMetrics 1.0 and the older text format 0.0.4 of Prometheus.

    family = Family("vr_interface_receive_packets", "counter", "Frames that came in.")
    family.add(12, vr="red", interface="lan")
    render([family], openmetrics=True)

A counter's samples end in `_total`.  In the older format its TYPE line has that name too, in the newer one it has not.
"""

from __future__ import annotations

from typing import Final

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Family:
    """A metric with all its samples."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        """Begin without samples; `kind` is counter, gauge or info."""
        self.name, self.kind, self.text = name, kind, text
        self.samples: list[tuple[str, float | int]] = []

    def add(self, value: float, /, **labels: str) -> None:
        """Add a sample."""
        text = ",".join(f'{label}="{content.translate(_ESCAPES)}"' for label, content in labels.items())
        self.samples.append((text, value))


class Families:
    """The families of one scrape, made as they are first used."""

    def __init__(self) -> None:
        """Begin with none."""
        self.all: dict[str, Family] = {}

    def add(self, name: str, kind: str, text: str, value: float, /, **labels: str) -> None:
        """Add a sample to `vr_NAME`."""
        family = self.all.get(name)
        if family is None:
            family = self.all[name] = Family(f"vr_{name}", kind, text)
        family.add(value, **labels)


def render(families: list[Family], *, openmetrics: bool) -> str:
    """Give the text; families without a sample are left out."""
    lines = []
    for family in families:
        if not family.samples:
            continue
        name = family.name
        sample = name + {"counter": "_total", "info": "_info"}.get(family.kind, "")
        kind = family.kind if openmetrics or family.kind != "info" else "gauge"
        lines.append(f"# HELP {name if openmetrics else sample} {family.text}")
        lines.append(f"# TYPE {name if openmetrics else sample} {kind}")
        lines += [
            f"{sample}{{{labels}}} {_number(value)}" if labels else f"{sample} {_number(value)}"
            for labels, value in family.samples
        ]
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
