"""The command `anabranch`: what a shell starts.

Until the daemon hears signals it has touched nothing.  Ctrl-C ends it then as it ends any program; Python would show
where in its imports it was.
"""

from __future__ import annotations

import signal
import sys


def main(arguments: list[str] | None = None) -> int:
    """Run the command; give the exit code."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored, as under nohup
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from manager import daemon  # noqa: PLC0415 - some tenths of a second

    return daemon.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
