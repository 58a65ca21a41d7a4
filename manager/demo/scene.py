"""The demo's networks: one namespace for the manager, the app and the kernel's routes, one for each host.

                        +--- demo namespace ---------------------------------------+
    alice  10.0.0.2 ----| red-lan     -> router red     10.0.0.1/24                |
    erin   192.0.2.2 ---| red-wan     -> router red     192.0.2.1/30               |
    bob    10.0.0.2 ----| blue-lan    -> router blue    10.0.0.1/24                |
    dave   10.0.0.2 ----| green-lan   -> router green   10.0.0.1/24, comes later   |
    carol  10.0.0.2 ----| kernel-lan  10.0.0.1/24, the kernel's own                |
                        +----------------------------------------------------------+

The names carry a hash of the run dir, so that two demos do not meet.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from manager.namespaces import DIRECTORY, name_for


@dataclass(frozen=True)
class Host:
    """A host of the demo: who it is, the device that leads to it, and its place."""

    who: str
    device: str
    address: str
    gateway: str
    where: str


HOSTS: Final = (
    Host("alice", "red-lan", "10.0.0.2/24", "10.0.0.1", "behind red"),
    Host("erin", "red-wan", "192.0.2.2/30", "192.0.2.1", "at the far side of red"),
    Host("bob", "blue-lan", "10.0.0.2/24", "10.0.0.1", "behind blue"),
    Host("dave", "green-lan", "10.0.0.2/24", "10.0.0.1", "behind green"),
    Host("carol", "kernel-lan", "10.0.0.2/24", "10.0.0.1", "behind the kernel"),
)
KERNEL_DEVICE: Final = "kernel-lan"
KERNEL_ADDRESS: Final = "10.0.0.1/24"


class SceneError(RuntimeError):
    """The scene could not be made."""


def name(run_dir: Path) -> str:
    """Give the name of the demo's own namespace."""
    return name_for(run_dir, "demo-kernel")


def host_name(run_dir: Path, host: Host) -> str:
    """Give the name of a host's namespace."""
    return name_for(run_dir, f"demo-{host.who}")


def path(run_dir: Path) -> Path:
    """Give the file that stands for the demo's own namespace."""
    return DIRECTORY / name(run_dir)


def addition(run_dir: Path) -> Path:
    """Give the file of the router that comes later: the run dir's own `conf` is read besides --conf."""
    return run_dir / "conf" / "green.yaml"


def build(run_dir: Path) -> None:
    """Make all of it, unless it is there."""
    if path(run_dir).exists():
        return
    try:
        _ip("netns", "add", name(run_dir))
        _batch(name(run_dir), ["link set lo up"])
        for host in HOSTS:
            _build_host(run_dir, host)
        _batch(name(run_dir), [f"address add {KERNEL_ADDRESS} dev {KERNEL_DEVICE}"])
    except SceneError:
        remove(run_dir)
        raise


def _build_host(run_dir: Path, host: Host) -> None:
    far = host_name(run_dir, host)
    _ip("netns", "add", far)
    _batch(
        name(run_dir),
        [f"link add {host.device} type veth peer name eth0 netns {far}", f"link set {host.device} up"],
    )
    _batch(
        far,
        [
            "link set lo up",
            "link set eth0 up",
            f"address add {host.address} dev eth0",
            f"route add default via {host.gateway}",
        ],
    )


def remove(run_dir: Path) -> list[str]:
    """Remove all of it; give the names of what is still there."""
    names = [host_name(run_dir, host) for host in HOSTS] + [name(run_dir)]
    present = [name for name in names if (DIRECTORY / name).exists()]
    for one in present:
        subprocess.run(["ip", "netns", "del", one], check=False, capture_output=True)
    return [name for name in names if (DIRECTORY / name).exists()]


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], check=False, capture_output=True, text=True)
    if done.returncode:
        raise SceneError(f"ip {' '.join(words)}: {done.stderr.strip()}")


def _batch(namespace: str, lines: list[str]) -> None:
    command = ["ip", "-n", namespace, "-batch", "-"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, input="\n".join(lines) + "\n")
    if done.returncode:
        raise SceneError(f"{'; '.join(lines)} in {namespace}: {done.stderr.strip()}")
