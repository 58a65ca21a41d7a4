"""Network namespaces: one for each VR, under a name that `ip netns exec` takes.

The names carry a hash of the run dir, so that several instances live on one host.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from manager.kernel import MS_BIND, MS_REC, MS_SHARED, inside, mount, setns_mount, unmount, unshare_network

DIRECTORY: Final = Path("/run/netns")
OWN: Final = Path("/proc/self/ns/net")
_LONGEST: Final = 40


def name_for(run_dir: Path, router: str) -> str:
    """Give the name of a VR's namespace: unique for each run dir."""
    digest = hashlib.sha256(str(run_dir.resolve()).encode()).hexdigest()[:6]
    return f"anabranch-{router[:_LONGEST]}-{digest}"


def path_of(name: str | None) -> Path:
    """Give the file that stands for a namespace; None: the manager's own."""
    return OWN if name is None else DIRECTORY / name


def open_path(path: Path) -> int:
    """Open a namespace; the fd is the caller's.  FileNotFoundError when it is not there."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if not is_namespace(fd):
            raise FileNotFoundError(errno.ENOENT, "no network namespace", str(path))
    except OSError:
        os.close(fd)
        raise
    return fd


def is_namespace(fd: int) -> bool:
    """Tell whether an fd is a namespace: nsfs has a device of its own."""
    return os.fstat(fd).st_dev == OWN.stat().st_dev


def identity(path: Path) -> int | None:
    """Give the inode of the namespace, which nothing else has while it lives; None: not there."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino if status.st_dev == OWN.stat().st_dev else None


def create(name: str) -> int:
    """Make a namespace under this name, IPv6 of the kernel off in it; give its fd."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with inside(home):
            unshare_network()
            _quiet_kernel()
            fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(home)
    try:
        _name(fd, DIRECTORY / name)
    except OSError:
        os.close(fd)
        raise
    return fd


def _name(fd: int, path: Path) -> None:
    """Give a namespace its name where everybody sees it.

    Started by `ip netns exec`, or with PrivateMounts, we have mounts of our own: then the name is made
    where our first ancestor is, from where it comes to us as well; unless /run is another one there, as
    seen from a container that has one of its own.
    """
    outer = _outer_mounts()
    if outer is not None:
        run = DIRECTORY.parent.stat()
        child = os.fork()
        if child == 0:
            with contextlib.suppress(OSError):
                setns_mount(outer)
                if os.path.samestat(run, DIRECTORY.parent.stat()):
                    _bind(fd, path)
            os._exit(0)
        os.close(outer)
        os.waitpid(child, 0)
    if identity(path) is None:
        _bind(fd, path)


def _outer_mounts() -> int | None:
    """Open the mount namespace of our first ancestor that we may look at; None: it is our own."""
    own = Path("/proc/self/ns/mnt").stat().st_ino
    found: int | None = None
    for process in ancestors():
        try:
            fd = os.open(f"/proc/{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        if found is not None:
            os.close(found)
        found = fd
    if found is not None and os.fstat(found).st_ino == own:
        os.close(found)
        return None
    return found


def ancestors() -> Iterator[int]:
    """Give the pids of our parent, its parent, and so on up to the first process."""
    process = os.getpid()
    while process > 1:
        try:
            process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            return
        if process:
            yield process


def _bind(fd: int, path: Path) -> None:
    _prepare_directory()
    os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o444))
    mount(f"/proc/self/fd/{fd}", str(path), MS_BIND)


def delete(name: str) -> None:
    """Take the name away; the namespace goes with its last process and fd.  Fine when it is gone.

    Unlinking detaches the mounts that other mount namespaces have there.
    """
    path = DIRECTORY / name
    with contextlib.suppress(OSError):
        unmount(str(path))
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def remove_directory() -> None:
    """Remove the directory of the names, for one who made it and leaves nothing behind; only when it is empty."""
    with contextlib.suppress(OSError):
        if not any(DIRECTORY.iterdir()):
            unmount(str(DIRECTORY))
            DIRECTORY.rmdir()


def _quiet_kernel() -> None:
    """Keep the kernel's own IPv6, and its forwarding, off the devices that will come."""
    ipv6 = Path("/proc/sys/net/ipv6/conf")
    for which in ("all", "default"):
        if ipv6.exists():
            (ipv6 / which / "disable_ipv6").write_text("1")
            (ipv6 / which / "addr_gen_mode").write_text("1")  # none: no link-local address
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")


def _prepare_directory() -> None:
    """Make the directory a shared mount, as ip-netns(8) does, so that other mount namespaces follow."""
    DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    try:
        mount("", str(DIRECTORY), MS_SHARED | MS_REC)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        mount(str(DIRECTORY), str(DIRECTORY), MS_BIND | MS_REC)
        mount("", str(DIRECTORY), MS_SHARED | MS_REC)
