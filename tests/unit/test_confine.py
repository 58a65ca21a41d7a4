"""Confinement: what a forwarder, a control and a helper can still do, seen from a child process."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import signal
import socket
from collections.abc import Callable

import pytest

from fastpath.binding import lib

FORWARDER, CONTROL, HELPER = 1, 2, 3
ALLOWED = 0


def outcome(action: Callable[[], object]) -> int:
    """Run an action; give its errno, 0 when it went well."""
    try:
        action()
    except OSError as error:
        return error.errno or -1
    return ALLOWED


def confined(profile: int, action: Callable[[], object], *, drop: bool = False) -> int:
    """Run an action in a child under a profile; give its errno."""
    child = os.fork()
    if child == 0:
        code = 255
        try:
            signal.alarm(10)
            if drop and lib.confine_drop(54321, 54321) != 0:
                os._exit(254)
            if profile and lib.confine_seccomp(profile) != 0:
                os._exit(253)
            code = outcome(action)
        finally:
            os._exit(code)
    _pid, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def open_socket(family: int, kind: int = socket.SOCK_STREAM) -> Callable[[], object]:
    return lambda: socket.socket(family, kind).close()


def call(number: int, *arguments: int) -> Callable[[], object]:
    libc = ctypes.CDLL(None, use_errno=True)

    def run() -> None:
        if libc.syscall(number, *arguments) < 0:
            raise OSError(ctypes.get_errno(), "syscall")

    return run


def execute() -> None:
    os.execv("/bin/true", ["true"])


def map_executable() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_EXEC).close()


def open_for_writing() -> None:
    os.close(os.open("/dev/null", os.O_WRONLY))


def open_for_reading() -> None:
    os.close(os.open("/dev/null", os.O_RDONLY))


def fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def pass_descriptors() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with left, right, select.epoll() as poller:
        socket.send_fds(left, [b"x"], [0])
        poller.register(right, select.EPOLLIN)
        assert poller.poll(1)
        _data, fds, _flags, _address = socket.recv_fds(right, 10, 1)
        os.close(fds[0])


def map_memory() -> None:
    with mmap.mmap(-1, 1 << 20) as memory:
        memory[0] = 1


@pytest.mark.parametrize(
    "action",
    [
        open_socket(socket.AF_INET, socket.SOCK_STREAM),
        open_socket(socket.AF_INET, socket.SOCK_DGRAM),
        open_socket(socket.AF_PACKET, socket.SOCK_RAW),
        open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
        execute,
        fork,
        map_executable,
        open_for_reading,
        open_for_writing,
        call(101, 0, 0, 0, 0),  # ptrace
        call(165, 0, 0, 0, 0, 0),  # mount
        call(272, 0x40000000),  # unshare(CLONE_NEWNET)
        call(321, 0, 0, 0),  # bpf(BPF_MAP_CREATE)
        call(321, 5, 0, 0),  # bpf(BPF_PROG_LOAD)
        call(62, 1, 0),  # kill
    ],
)
def test_a_forwarder_cannot(action: Callable[[], object]) -> None:
    assert confined(FORWARDER, action) == errno.EPERM


@pytest.mark.parametrize(
    "action",
    [pass_descriptors, map_memory, lambda: os.write(2, b""), lambda: os.eventfd(0), open_socket(socket.AF_UNIX)],
)
def test_a_forwarder_can(action: Callable[[], object]) -> None:
    assert confined(FORWARDER, action) == ALLOWED


@pytest.mark.parametrize("profile", [CONTROL, HELPER])
@pytest.mark.parametrize(
    "action",
    [
        open_socket(socket.AF_PACKET, socket.SOCK_RAW),
        open_socket(socket.AF_NETLINK, socket.SOCK_RAW),
        execute,
        open_for_writing,
        call(101, 0, 0, 0, 0),  # ptrace
        call(165, 0, 0, 0, 0, 0),  # mount
        call(272, 0x40000000),  # unshare(CLONE_NEWNET)
        call(56, 0x10000000, 0, 0, 0, 0),  # clone(CLONE_NEWUSER)
        call(308, 0, 0),  # setns
        call(310, 1, 0, 0, 0, 0, 0),  # process_vm_readv
        call(250, 0, 0),  # keyctl
    ],
)
def test_a_control_and_a_helper_cannot(profile: int, action: Callable[[], object]) -> None:
    assert confined(profile, action) == errno.EPERM


def test_a_control_has_unix_sockets_only_and_a_helper_tcp_too() -> None:
    assert confined(CONTROL, open_socket(socket.AF_UNIX)) == ALLOWED
    assert confined(CONTROL, open_socket(socket.AF_INET)) == errno.EPERM
    assert confined(HELPER, open_socket(socket.AF_UNIX)) == ALLOWED
    assert confined(HELPER, open_socket(socket.AF_INET)) == ALLOWED


@pytest.mark.parametrize("profile", [CONTROL, HELPER])
def test_a_control_and_a_helper_can_read_files_and_start_threads(profile: int) -> None:
    def thread() -> None:
        import threading

        started = threading.Thread(target=lambda: None)
        started.start()
        started.join()

    assert confined(profile, open_for_reading) == ALLOWED
    assert confined(profile, thread) == ALLOWED


def test_an_unknown_profile_is_refused() -> None:
    assert lib.confine_seccomp(0) == -errno.EINVAL
    assert lib.confine_seccomp(4) == -errno.EINVAL


def test_root_is_no_identity_to_drop_to() -> None:
    assert lib.confine_drop(0, 5) == -errno.EINVAL
    assert lib.confine_drop(5, 0) == -errno.EINVAL
    assert lib.confine_drop(2**32 - 1, 5) == -errno.EINVAL


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_dropping_leaves_no_identity_capability_or_group() -> None:
    def examine() -> None:
        assert os.getresuid() == (54321, 54321, 54321)
        assert os.getresgid() == (54321, 54321, 54321)
        assert os.getgroups() == []
        prctl = ctypes.CDLL(None, use_errno=True).prctl
        assert prctl(3, 0, 0, 0, 0) == 0, "dumpable"
        assert prctl(39, 0, 0, 0, 0) == 1, "no_new_privs"
        assert all(prctl(23, capability, 0, 0, 0) == 0 for capability in range(38)), "bounding set"
        with pytest.raises(PermissionError):
            os.setuid(0)
        # Not dumpable: /proc/self belongs to root now, so our own fds cannot be reopened.
        with pytest.raises(PermissionError):
            os.open("/proc/self/fd/2", os.O_RDONLY)

    assert confined(0, examine, drop=True) == ALLOWED


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_kernel_reports_an_empty_set_of_capabilities() -> None:
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        lib.confine_drop(54321, 54321)
        lib.confine_seccomp(FORWARDER)
        os.write(writer, b"x")
        signal.pause() if hasattr(signal, "pause") else None
        os._exit(0)
    try:
        os.read(reader, 1)
        with open(f"/proc/{child}/status") as status:
            fields = dict(line.split(":", 1) for line in status)
        for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
            assert int(fields[name], 16) == 0, name
        assert fields["Seccomp"].strip() == "2"
        assert fields["NoNewPrivs"].strip() == "1"
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
