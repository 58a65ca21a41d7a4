"""Figures beside their goals: what is printed, and what makes a benchmark red."""

from __future__ import annotations


class Verdict:
    """Collects the goals that are missed."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def at_most(self, what: str, value: float, limit: float, unit: str) -> None:
        """Print a figure that has to be small; note it where it is not."""
        self._tell(what, f"{value:.2f} {unit}", f"at most {limit:g}", good=value <= limit)

    def at_least(self, what: str, value: float, limit: float, unit: str) -> None:
        """Print a figure that has to be big; note it where it is not."""
        self._tell(what, f"{value:.2f} {unit}", f"at least {limit:g}", good=value >= limit)

    def _tell(self, what: str, value: str, goal: str, *, good: bool) -> None:
        print(f"  {what}: {value}; goal {goal}: {'reached' if good else 'MISSED'}", flush=True)
        if not good:
            self.missed.append(f"{what}: {value} ({goal})")
