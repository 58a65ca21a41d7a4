"""`anabranch-extcap`: each interface of each router as a capture interface of Wireshark and tshark (extcap(4)).

    anabranch:red:lan      the frames of red's interface lan
    anabranch:red@drops    what red drops, of all interfaces, with the reasons as comments

Wireshark runs programs in its extcap directory: first to ask what there is, then with --capture and a pipe for pcapng.
Listing takes no rights, capturing those of `vr capture`.  A capture filter is one of `vr capture`'s.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

from manager.cli.capture import ask, captured, pcapng_sink
from manager.cli.client import Forwarder
from manager.cli.errors import CliError, usage
from manager.cli.filters import compile_filter
from manager.cli.main import DEFAULT_RUN_DIR
from manager.cli.segments import interface_names, recorded_routers

PREFIX: Final = "anabranch:"
DROPS: Final = "drops"
_CONFIGURATION: Final = (
    "arg {number=0}{call=--run-dir}{display=Run directory}{type=string}{default=%s}{group=Router}",
    "arg {number=1}{call=--snap}{display=Bytes of each frame}{type=unsigned}{default=0}{tooltip=0: all}{group=Router}",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what Wireshark asks; what goes wrong is said on stderr, which it shows."""
    options = _parser().parse_args(arguments)
    run_dir = Path(options.run_dir)
    try:
        if options.extcap_interfaces:
            _print("extcap {version=1}{help=https://www.wireshark.org/docs/man-pages/extcap.html}", *_listed(run_dir))
        elif options.extcap_dlts:
            _print("dlt {number=1}{name=EN10MB}{display=Ethernet}")
        elif options.extcap_config:
            _print(*_CONFIGURATION, run_dir=run_dir)
        elif options.capture:
            _capture(options, run_dir)
        elif options.extcap_capture_filter is not None:
            compile_filter(options.extcap_capture_filter.split())
        else:
            raise usage("one of --extcap-interfaces, --extcap-dlts, --extcap-config and --capture is needed")
    except CliError as error:
        print(f"anabranch-extcap: {error.message}", file=sys.stderr)
        return 1
    except BrokenPipeError:  # the capture was stopped
        pass
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("anabranch-extcap", description=(__doc__ or "").partition("\n")[0])
    for flag in ("--extcap-interfaces", "--extcap-dlts", "--extcap-config", "--capture"):
        parser.add_argument(flag, action="store_true")
    for option in ("--extcap-interface", "--extcap-version", "--extcap-capture-filter", "--fifo"):
        parser.add_argument(option)
    parser.add_argument("--run-dir", default=os.environ.get("ANABRANCH_RUN_DIR") or DEFAULT_RUN_DIR)
    parser.add_argument("--snap", type=int, default=0)
    return parser


def _print(*lines: str, **values: object) -> None:
    for line in lines:
        print(line % values["run_dir"] if "%s" in line else line)


def _listed(run_dir: Path) -> Iterator[str]:
    """List what can be captured; nothing where no manager has run."""
    with contextlib.suppress(CliError):
        for router in recorded_routers(run_dir):
            name = router["name"]
            for interface in router["interfaces"]:
                yield f"interface {{value={PREFIX}{name}:{interface}}}{{display=Anabranch {name}: {interface}}}"
            yield f"interface {{value={PREFIX}{name}@{DROPS}}}{{display=Anabranch {name}: drops only}}"


def _capture(options: argparse.Namespace, run_dir: Path) -> None:
    chosen, fifo = options.extcap_interface, options.fifo
    if chosen is None or fifo is None:
        raise usage("--capture needs --extcap-interface and --fifo")
    router, index, drops = _chosen(run_dir, chosen)
    wanted = compile_filter((options.extcap_capture_filter or "").split())
    names = interface_names(run_dir, router)
    signal.signal(signal.SIGTERM, _stop)
    with (
        contextlib.suppress(KeyboardInterrupt),
        Forwarder(run_dir, router) as forwarder,
        open(fifo, "wb") as file,  # noqa: PTH123 -- Wireshark's pipe
    ):
        sink = pcapng_sink(file, router, names, options.snap)
        ask(forwarder, index, options.snap, wanted, drops=drops)
        for frame in captured(forwarder, names):
            sink(frame)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _chosen(run_dir: Path, value: str) -> tuple[str, int, bool]:
    """Give router, interface index (0: all) and whether only drops are wanted."""
    word = value.removeprefix(PREFIX)
    router, at, what = word.partition("@")
    if at and what == DROPS:
        return router, 0, True
    router, _colon, interface = word.partition(":")
    for index, name in interface_names(run_dir, router).items():
        if name == interface:
            return router, index, False
    raise usage(f"there is no capture interface '{value}'")


if __name__ == "__main__":
    sys.exit(main())
