"""Reads what a metrics endpoint says, as strictly as OpenMetrics 1.0 is written."""

from __future__ import annotations

import re
from typing import Final

SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
SUFFIXES: Final = {
    "counter": ("_total",),
    "gauge": ("",),
    "info": ("_info",),
    "histogram": ("_bucket", "_count", "_sum"),
}
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    """Parse OpenMetrics 1.0, and be strict about what it asks for."""
    lines = text.split("\n")
    assert lines[-2:] == ["# EOF", ""]
    found: Samples = {}
    kinds: dict[str, str] = {}
    current, helped = "", set()
    for line in lines[:-2]:
        if line.startswith("# "):
            _, word, name, rest = line.split(" ", 3)
            assert word in {"HELP", "TYPE"}
            assert rest
            if word == "HELP":
                assert name not in helped, "a family stands in one piece"
                helped.add(name)
            else:
                assert name not in kinds
                kinds[name] = rest
            current = name
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name, labels_text, value = match.groups()
        assert name in {current + suffix for suffix in SUFFIXES[kinds[current]]}, line
        labels = LABEL.findall(labels_text or "")
        assert "".join(f'{label}="{content}",' for label, content in labels)[:-1] == (labels_text or ""), line
        assert len({label for label, _ in labels}) == len(labels), line
        key = (name, tuple(sorted(labels)))
        assert key not in found, f"twice: {line}"
        found[key] = float(value)
        assert kinds[current] != "counter" or found[key] >= 0
    assert helped == set(kinds)
    for name in (name for name, kind in kinds.items() if kind == "histogram"):
        _check_histogram(found, name)
    return found


def _check_histogram(samples: Samples, name: str) -> None:
    """Buckets ascend and hold each other, and the last one holds all."""
    series: dict[frozenset[tuple[str, str]], list[tuple[float, float]]] = {}
    for (own, labels), count in samples.items():
        if own == f"{name}_bucket":
            rest = frozenset(label for label in labels if label[0] != "le")
            series.setdefault(rest, []).append((float(dict(labels)["le"].replace("+Inf", "inf")), count))
    assert series, name
    for rest, buckets in series.items():
        assert buckets == sorted(set(buckets)), (name, rest)
        assert [count for _, count in buckets] == sorted(count for _, count in buckets), (name, rest)
        assert buckets[-1] == (float("inf"), samples[f"{name}_count", tuple(sorted(rest))]), (name, rest)
        assert samples[f"{name}_sum", tuple(sorted(rest))] >= 0


def value(samples: Samples, name: str, **labels: str) -> float:
    """Give the value of the one sample that has these labels."""
    fitting = [v for (n, own), v in samples.items() if n == name and labels.items() <= dict(own).items()]
    assert len(fitting) == 1, (name, labels, fitting)
    return fitting[0]
