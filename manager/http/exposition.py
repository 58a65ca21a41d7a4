"""Metrics as text: OpenMetrics 1.0 and the older text format 0.0.4 of Prometheus.

    family = Family("vr_interface_receive_packets", "counter", "Frames that came in.")
    family.add(12, vr="red", interface="lan")
    render([family], openmetrics=True)

A counter's samples end in `_total`, those of a histogram in `_bucket`, `_count` and `_sum`.
In the older format its TYPE line has that name too, in the newer one it has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


class Family:
    """A metric with all its samples."""

    def __init__(self, name: str, kind: str, text: str) -> None:
        """Begin without samples; `kind` is counter, gauge, histogram or info."""
        self.name, self.kind, self.text = name, kind, text
        self.samples: list[tuple[str, str, float | int]] = []  # suffix, labels, value

    def add(self, value: float, /, **labels: str) -> None:
        """Add a sample."""
        self.samples.append(({"counter": "_total", "info": "_info"}.get(self.kind, ""), _labels(labels), value))

    def add_histogram(self, bounds: Sequence[float], counts: Sequence[int], total: float, /, **labels: str) -> None:
        """Add a histogram: how many lie between each bound and the one before, how many above all, and their sum."""
        passed = 0
        for bound, count in zip((*map(_number, map(float, bounds)), "+Inf"), counts, strict=True):
            passed += count
            self.samples.append(("_bucket", _labels({**labels, "le": bound}), passed))
        self.samples.append(("_count", _labels(labels), passed))
        self.samples.append(("_sum", _labels(labels), total))


class Families:
    """The families of one scrape, made as they are first used."""

    def __init__(self) -> None:
        """Begin with none."""
        self.all: dict[str, Family] = {}

    def add(self, name: str, kind: str, text: str, value: float, /, **labels: str) -> None:
        """Add a sample to `vr_NAME`."""
        self._family(name, kind, text).add(value, **labels)

    def add_timings(self, name: str, text: str, timings: dict[str, Any], /, **labels: str) -> None:
        """Add what `vrouter.api.timings` gives to the histogram `vr_NAME`."""
        family = self._family(name, "histogram", text)
        family.add_histogram(timings["bounds"], timings["counts"], timings["sum"], **labels)

    def _family(self, name: str, kind: str, text: str) -> Family:
        family = self.all.get(name)
        if family is None:
            family = self.all[name] = Family(f"vr_{name}", kind, text)
        return family


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
            f"{name}{suffix}{{{labels}}} {_number(value)}" if labels else f"{name}{suffix} {_number(value)}"
            for suffix, labels, value in family.samples
        ]
    if openmetrics:
        lines.append("# EOF")
    return "\n".join(lines) + "\n"


def _labels(labels: dict[str, str]) -> str:
    return ",".join(f'{label}="{content.translate(_ESCAPES)}"' for label, content in labels.items())


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else repr(float(value))
