"""The kernel's own walls, without root and without packages: ctypes over Linux system calls.

Imported by the zygote (standard library only, Python started with `-I -S`). Each function raises OSError
where the kernel refuses; the zygote tries them once at its start and from then on demands those that held.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator, Sequence
from typing import Any

MACHINE = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_NOSUID, MS_NODEV, MS_REC, MS_PRIVATE = 2, 4, 16384, 1 << 18
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
NOBODY = 65534


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _prctl(option: int, *values: int) -> None:
    words = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    _check(_libc.prctl(option, *words))


def _syscall(number: int, *values: Any) -> int:
    words = [
        value if isinstance(value, ctypes._SimpleCData | ctypes.Array) else ctypes.c_long(value)
        for value in values
    ]
    return _check(_libc.syscall(ctypes.c_long(number), *words))


def die_with_parent() -> None:
    """SIGKILL when the process that forked this one ends."""
    _prctl(PR_SET_PDEATHSIG, 9)


def adopt_orphans() -> None:
    """Descendants whose parent has died become this process's children, so that it can end them."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def forbid_new_privileges() -> None:
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


# ---- who the program is --------------------------------------------------------------------------


def leave_root(*must_read: str) -> None:
    """From root to `nobody`, unless `nobody` could not read a `must_read` (a Python below /root, say)."""
    if os.geteuid() != 0:
        return
    os.seteuid(NOBODY)
    unreadable = [path for path in must_read if not os.access(path, os.R_OK | os.X_OK, effective_ids=True)]
    os.seteuid(0)
    if unreadable:
        raise PermissionError(errno.EACCES, "user nobody cannot read Python's library", unreadable[0])
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)


def enter_namespaces() -> None:
    """New user, network, IPC and host-name namespaces; no interface is up, not even loopback."""
    user, group = os.getuid(), os.getgid()
    _prctl(4, 1)  # PR_SET_DUMPABLE: after a change of user /proc/self would belong to root
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS))
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(text)


def enter_process_namespace() -> None:
    """The next fork is process 1 of a namespace: it sees nobody else, and all in it die when it dies."""
    _check(_libc.unshare(CLONE_NEWPID))


def private_folder(path: str, size: int) -> None:
    """An empty in-memory file system of `size` bytes over `path`, seen by this process alone."""
    _check(_libc.unshare(CLONE_NEWNS))
    _check(_libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None))
    options = f"size={size},nr_inodes=4096,mode=0700".encode()
    flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV)
    _check(_libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", flags, options))


def drop_capabilities() -> None:
    """Whatever the user namespace gave."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))
    _check(_libc.capset(header, ctypes.create_string_buffer(24)))


# ---- how much it may use -------------------------------------------------------------------------


def limit_resources(
    seconds: float, memory: int, file_size: int, processes: int = 64, kind: int = resource.RLIMIT_AS
) -> None:
    """CPU seconds, bytes of address space (or of another `kind` of memory), bytes a file; processes and
    threads; 64 open files, no core."""
    limits = {
        resource.RLIMIT_CPU: int(seconds) + 1,
        kind: memory,
        resource.RLIMIT_FSIZE: file_size,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_CORE: 0,
    }
    for limit, value in limits.items():
        hard = resource.getrlimit(limit)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(limit, (value, value))


# ---- which files it may touch: Landlock ----------------------------------------------------------

_READ = 1 << 2 | 1 << 3  # read a file, list a folder
_EVERYTHING = {1: 13, 2: 14, 3: 15, 4: 15}  # ABI -> how many file rights it knows
_TCP_BOTH, _SCOPES_BOTH = 3, 3


def landlock_version() -> int:
    return _syscall(444, 0, 0, 1)


def confine_files(readable: Sequence[str], writable: Sequence[str]) -> None:
    """Read below `readable`, everything but devices and sockets below `writable`, nothing else at all."""
    version = landlock_version()
    rights = (1 << _EVERYTHING.get(version, 16)) - 1
    ruleset = struct.pack(
        "=QQQ", rights, _TCP_BOTH if version >= 4 else 0, _SCOPES_BOTH if version >= 6 else 0
    )
    ruleset = ruleset[: 24 if version >= 6 else 16 if version >= 4 else 8]
    handle = _syscall(444, ctypes.create_string_buffer(ruleset, len(ruleset)), len(ruleset), 0)
    try:
        _allow(handle, readable, _READ)
        own = rights & ~(1 << 0 | 1 << 6 | 1 << 9 | 1 << 11)  # no execution, devices or sockets
        _allow(handle, writable, own)
        forbid_new_privileges()
        _syscall(446, handle, 0)
    finally:
        os.close(handle)


def _allow(handle: int, paths: Sequence[str], rights: int) -> None:
    for path in paths:
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        file_rights = rights if os.path.isdir(path) else rights & (1 << 1 | 1 << 2)
        rule = struct.pack("=Qi", file_rights, place)
        _syscall(445, handle, 1, ctypes.create_string_buffer(rule, len(rule)), 0)
        os.close(place)


# ---- which system calls it may make: seccomp -----------------------------------------------------

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
"""Column in the table below, and the kernel's name for the architecture."""
_CLONE, _TGKILL, _CLONE3 = (56, 220), (234, 131), 435
_FORBIDDEN = {
    # sockets
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # new processes (threads are let through below)
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    # other processes
    "kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "pidfd_open": (434, 434), "pidfd_send_signal": (424, 424), "pidfd_getfd": (438, 438),
    "process_madvise": (440, 440), "ptrace": (101, 117), "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271), "kcmp": (312, 272), "setpgid": (109, 154), "setsid": (112, 157),
    "setpriority": (141, 140), "sched_setscheduler": (144, 119), "sched_setattr": (314, 274),
    "sched_setparam": (142, 118),
    # namespaces, mounts, files by handle
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39),
    "chroot": (161, 51), "pivot_root": (155, 41), "move_mount": (429, 429), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "open_tree": (428, 428),
    "mount_setattr": (442, 442), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    # shared kernel objects and kernel interfaces
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180),
    "add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "reboot": (169, 142),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "swapon": (167, 224), "swapoff": (168, 225),
    "acct": (163, 89), "quotactl": (179, 60),
}  # fmt: skip
_CLONE_THREAD = 0x10000
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06


def forbid_system_calls() -> None:
    """Everything in the table fails with EPERM; so do forks, and signals to threads of other processes.

    Call it in the process it is for: its process number goes into the filter.
    """
    if MACHINE not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {MACHINE}")
    code = b"".join(struct.pack("=HBBI", *line) for line in _filter(*_ARCHITECTURES[MACHINE]))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    forbid_new_privileges()
    _prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def _filter(column: int, architecture: int) -> Iterator[tuple[int, int, int, int]]:
    """Lines of classic BPF: (operation, jump if true, jump if false, operand).

    Loads are at 0 the number of the call, at 4 the architecture, at 16 the first argument.
    """
    yield _LOAD, 0, 0, 4
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _EPERM
    yield _LOAD, 0, 0, 0
    yield _AT_LEAST, 0, 1, 0x40000000  # the x32 calls
    yield _RETURN, 0, 0, _EPERM
    yield _EQUAL, 0, 1, _CLONE3  # without it libc falls back to clone, whose flags a filter can read
    yield _RETURN, 0, 0, _ENOSYS
    for number in filter(None, (numbers[column] for numbers in _FORBIDDEN.values())):
        yield _EQUAL, 0, 1, number
        yield _RETURN, 0, 0, _EPERM
    yield _EQUAL, 0, 4, _TGKILL[column]
    yield _LOAD, 0, 0, 16
    yield _EQUAL, 1, 0, os.getpid()
    yield _RETURN, 0, 0, _EPERM
    yield _RETURN, 0, 0, _ALLOW
    yield _EQUAL, 0, 3, _CLONE[column]
    yield _LOAD, 0, 0, 16
    yield _ANY_BIT, 1, 0, _CLONE_THREAD
    yield _RETURN, 0, 0, _EPERM
    yield _RETURN, 0, 0, _ALLOW
