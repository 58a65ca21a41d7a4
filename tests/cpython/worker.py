"""Runs one module of CPython's test suite and writes what became of each test as JSON.

    python worker.py RESULTS MODULE [VR [--only PREFIX ...]]

With a VR the standard module is patched before the test module is imported, as an app of that VR would be run.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import json
import os
import signal
import sys
import time
import unittest
from pathlib import Path
from typing import Any

Outcome = tuple[str, str]  # ok, skipped, failed; why
PATIENCE = 20  # seconds for one test
# They wait for ever for hardware, or for another host, where the kernel has the family.
NEVER = ("VSOCK", "Bluetooth")


class HungError(Exception):
    """A test took too long."""


def _hung(*_signal: object) -> None:
    raise HungError(f"took more than {PATIENCE} s")


class Recorder(unittest.TextTestResult):
    """Remembers what became of each test; sub-tests count for their test."""

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.outcomes: dict[str, Outcome] = {}
        self.seconds: dict[str, float] = {}
        self._began = 0.0

    def startTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().startTest(test)
        self._began = time.monotonic()
        signal.alarm(PATIENCE)

    def stopTest(self, test: unittest.TestCase) -> None:  # noqa: N802
        signal.alarm(0)
        super().stopTest(test)
        self.seconds[test.id()] = round(time.monotonic() - self._began, 2)

    def addSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addSuccess(test)
        self.outcomes.setdefault(test.id(), ("ok", ""))

    def addError(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addError(test, err)
        self.outcomes[test.id()] = ("failed", self.errors[-1][1][-1500:])

    def addFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addFailure(test, err)
        self.outcomes[test.id()] = ("failed", self.failures[-1][1][-1500:])

    def addSubTest(self, test: unittest.TestCase, subtest: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addSubTest(test, subtest, err)
        if err is not None:
            whole = self.errors if not issubclass(err[0], test.failureException) else self.failures
            self.outcomes[test.id()] = ("failed", whole[-1][1][-1500:])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:  # noqa: N802
        super().addSkip(test, reason)
        self.outcomes.setdefault(test.id(), ("skipped", reason))

    def addExpectedFailure(self, test: unittest.TestCase, err: Any) -> None:  # noqa: N802
        super().addExpectedFailure(test, err)
        self.outcomes.setdefault(test.id(), ("ok", ""))

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:  # noqa: N802
        super().addUnexpectedSuccess(test)
        self.outcomes.setdefault(test.id(), ("failed", "unexpected success"))


def main() -> None:
    """Run, and write the outcomes also when the module cannot be loaded."""
    results, module, *rest = sys.argv[1:]
    vr = rest[0] if rest and rest[0] != "--only" else ""
    only = rest[rest.index("--only") + 1 :] if "--only" in rest else []
    faulthandler.enable()
    if vr:
        import rsock

        rsock.patch(vr=vr)
    support: Any = importlib.import_module("test.support")
    support.use_resources = ["network"]  # of ourselves: nothing of the world outside
    suite = unittest.defaultTestLoader.loadTestsFromName(module)
    tests = [test for test in _each(suite) if not any(word in test.id() for word in NEVER)]
    suite = unittest.TestSuite(test for test in tests if not only or any(word in test.id() for word in only))
    signal.signal(signal.SIGALRM, _hung)
    runner = unittest.TextTestRunner(sys.stderr, verbosity=2, resultclass=Recorder)
    outcome: Any = runner.run(suite)
    Path(results).write_text(json.dumps({"outcomes": outcome.outcomes, "seconds": outcome.seconds}))
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    os._exit(0)  # threads of tests that hung are not waited for


def _each(suite: Any) -> Any:
    for part in suite:
        if isinstance(part, unittest.TestSuite):
            yield from _each(part)
        else:
            yield part


if __name__ == "__main__":
    main()
