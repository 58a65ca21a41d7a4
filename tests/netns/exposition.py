"""Reads what a metrics endpoint says, as strictly as OpenMetrics 1.0 is written."""

from __future__ import annotations

import re
from typing import Final

SAMPLE: Final = re.compile(r"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)")
LABEL: Final = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"(?:,|$)')
SUFFIXES: Final = {"counter": ("_total",), "gauge": ("",), "info": ("_info",)}
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
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """Give the value of the one sample that has these labels."""
    fitting = [v for (n, own), v in samples.items() if n == name and labels.items() <= dict(own).items()]
    assert len(fitting) == 1, (name, labels, fitting)
    return fitting[0]
