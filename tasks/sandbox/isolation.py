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
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

MACHINE = platform.machine()
_libc = ctypes.CDLL(None, use_errno=True)

CLONE_NEWNS, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
MNT_DETACH, MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOSUID = 2, 1, 2
_MOUNT_SETATTR, _AT_RECURSIVE = 442, 0x8000
PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 22, 36, 38
NOBODY = 65534
FOLDER, SCRATCH = "/tmp", "/r1-scratch"
"""Where a program's private folder lies, and that of a keeper, whose libraries may lie below /tmp."""


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


# ---- what holds on this machine ------------------------------------------------------------------


def holds(wall: Callable[[], object]) -> bool:
    """Tell whether the kernel allows this layer; it is taken if so."""
    try:
        wall()
    except OSError:
        return False
    return True


def holds_in_a_child(wall: Callable[[], object]) -> bool:
    """Tell it without taking the layer."""
    pid = os.fork()
    if pid == 0:
        try:
            os._exit(0 if holds(wall) else 1)
        finally:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def leave_machine(visible: Sequence[str], must_read: Sequence[str]) -> dict[str, bool]:
    """Give up root, the network and the sight of all files but the `visible` ones, for good.

    Returns which of these layers hold. The own root is taken only where namespaces are allowed too, because
    without them there would be no folder in it that a program can write to.
    """
    visible = [path for path in visible if os.path.exists(path)]

    def take_all() -> None:
        if not all(_take_shared_layers(visible, must_read).values()):
            raise PermissionError
        private_folder(2**20)

    return _take_shared_layers(visible if holds_in_a_child(take_all) else [], must_read)


def _take_shared_layers(visible: Sequence[str], must_read: Sequence[str]) -> dict[str, bool]:
    process = os.open("/proc/self", os.O_PATH | os.O_CLOEXEC)
    as_root = os.geteuid() == 0
    own_root = bool(visible) and as_root and holds(lambda: make_own_root(visible))
    layers = {
        "unprivileged_user": holds(lambda: leave_root(*must_read)),
        "network_namespace": holds(lambda: enter_namespaces(process)),
    }
    os.close(process)
    # Another user than root may mount only in a user namespace of its own.
    own_root = own_root or (bool(visible) and not as_root and holds(lambda: make_own_root(visible)))
    return layers | {"own_root": own_root}


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


def enter_namespaces(process: int) -> None:
    """New user, network, IPC and host-name namespaces; no interface is up, not even loopback.

    `process` is a descriptor of /proc/self, which the own root does not have.
    """
    user, group = os.getuid(), os.getgid()
    _prctl(4, 1)  # PR_SET_DUMPABLE: after a change of user /proc/self would belong to root
    _check(_libc.unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS))
    for name, text in (("setgroups", "deny"), ("uid_map", f"1000 {user} 1"), ("gid_map", f"1000 {group} 1")):
        file = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=process)
        os.write(file, text.encode())
        os.close(file)


def enter_process_namespace() -> None:
    """The next fork is process 1 of a namespace: it sees nobody else, and all in it die when it dies."""
    _check(_libc.unshare(CLONE_NEWPID))


def private_folder(size: int, path: str = FOLDER) -> None:
    """An empty in-memory file system of `size` bytes over `path`, seen by this process alone."""
    _leave_mounts()
    options = f"size={size},nr_inodes=4096,mode=0700"
    _mount("tmpfs", path, "tmpfs", MS_NOSUID | MS_NODEV, options)


def make_own_root(visible: Sequence[str]) -> None:
    """Replace the root by an empty, read-only one that has the `visible` folders and files and `FOLDER`.

    They keep their paths but not the folders above them: what lies below a closed /root can be read there by
    another user. They are read-only, so no owner, mode, time or attribute of theirs can be changed either.
    """
    _leave_mounts()
    # A path may lead through a symbolic link (a linked virtual environment): what it leads to is shown at its
    # own place, and the link again unless it lies in a folder that is shown.
    real = sorted(set(map(os.path.realpath, visible)))
    links = {link: end for path in visible for link, end in _links(path) if not _lies_below(link, real)}
    # Opened before the new root hides `FOLDER`, which one of them may lie below. The kernel binds only
    # what was opened in this mount namespace.
    places = {path: os.open(path, os.O_PATH | os.O_CLOEXEC) for path in real}
    _mount("tmpfs", FOLDER, "tmpfs", MS_NOSUID | MS_NODEV, "size=1m,mode=0755")
    umask = os.umask(0o022)
    os.mkdir(FOLDER + FOLDER)
    os.mkdir(FOLDER + SCRATCH)
    for path, place in places.items():
        _show(place, FOLDER + path)
        os.close(place)
    for link, end in links.items():
        os.makedirs(os.path.dirname(FOLDER + link), exist_ok=True)
        os.symlink(end, FOLDER + link)
    os.umask(umask)
    os.chdir(FOLDER)
    _check(_libc.pivot_root(b".", b"."))  # the old root now lies over the new one
    _check(_libc.umount2(b".", MNT_DETACH))
    os.chdir("/")
    _mount(None, "/", None, MS_REMOUNT | MS_BIND | MS_RDONLY | MS_NOSUID | MS_NODEV)


def _links(path: str) -> Iterator[tuple[str, str]]:
    """Each symbolic link on the way to what `path` names, and the path that it stands for."""
    parts, at = [part for part in reversed(path.split("/")) if part], "/"
    while parts:
        here = os.path.normpath(os.path.join(at, parts.pop()))
        if os.path.islink(here):
            end = os.path.join(at, os.readlink(here))
            yield here, end
            parts += [part for part in reversed(end.split("/")) if part]
            here = "/"
        at = here


def _lies_below(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(folder.rstrip("/") + "/") for folder in folders)


def _show(place: int, path: str) -> None:
    """Bind what is open as `place` to `path`, read-only, unless it is there with a folder above it."""
    if os.path.lexists(path):
        return
    source = f"/proc/self/fd/{place}"
    os.makedirs(path if os.path.isdir(source) else os.path.dirname(path), exist_ok=True)
    if not os.path.isdir(source):
        os.close(os.open(path, os.O_CREAT | os.O_CLOEXEC))
    _mount(source, path, None, MS_BIND | MS_REC)
    attributes = ctypes.create_string_buffer(
        struct.pack("=QQQQ", MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID, 0, 0, 0)
    )
    _syscall(_MOUNT_SETATTR, -1, ctypes.c_char_p(path.encode()), _AT_RECURSIVE, attributes, 32)


def _leave_mounts() -> None:
    """Take an own copy of the mounts; what is mounted in it stays in it."""
    _check(_libc.unshare(CLONE_NEWNS))
    _mount(None, "/", None, MS_REC | MS_PRIVATE)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    words = [None if text is None else os.fsencode(text) for text in (source, target, kind, options)]
    _check(_libc.mount(*words[:3], ctypes.c_ulong(flags), words[3]))


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
"""Column in the tables below, and the kernel's name for the architecture."""
_ALLOWED = {
    # files: open, read, write, list, rename and remove. Landlock and the own root decide where. Nothing that
    # changes owner, mode, times or attributes of a file, and no links
    "read": (0, 63), "write": (1, 64), "close": (3, 57), "stat": (4, None), "fstat": (5, 80),
    "lstat": (6, None), "newfstatat": (262, 79), "statx": (332, 291), "access": (21, None),
    "faccessat": (269, 48), "faccessat2": (439, 439), "readlink": (89, None), "readlinkat": (267, 78),
    "lseek": (8, 62), "pread64": (17, 67), "pwrite64": (18, 68), "readv": (19, 65), "writev": (20, 66),
    "truncate": (76, 45), "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82),
    "fdatasync": (75, 83), "flock": (73, 32), "fadvise64": (221, 223), "statfs": (137, 43),
    "fstatfs": (138, 44), "getdents64": (217, 61), "getcwd": (79, 17), "chdir": (80, 49),
    "fchdir": (81, 50), "rmdir": (84, None), "unlink": (87, None), "unlinkat": (263, 35),
    "rename": (82, None), "renameat": (264, 38), "renameat2": (316, 276), "umask": (95, 166),
    # descriptors and waiting for them; `recvfrom` serves the socket pair with which asyncio wakes itself
    "dup": (32, 23), "dup2": (33, None), "dup3": (292, 24), "pipe": (22, None), "pipe2": (293, 59),
    "select": (23, None), "pselect6": (270, 72), "poll": (7, None), "ppoll": (271, 73),
    "epoll_create1": (291, 20), "epoll_ctl": (233, 21), "epoll_wait": (232, None),
    "epoll_pwait": (281, 22), "recvfrom": (45, 207),
    # own memory; memfd_create is left out, because RLIMIT_AS does not count what is not mapped
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "mremap": (25, 216),
    "madvise": (28, 233), "msync": (26, 227), "brk": (12, 214),
    # own signals and timers
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139),
    "rt_sigpending": (127, 136), "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133),
    "sigaltstack": (131, 132), "pause": (34, None), "alarm": (37, None), "getitimer": (36, 102),
    "setitimer": (38, 103), "restart_syscall": (219, 128),
    # time
    "nanosleep": (35, 101), "clock_nanosleep": (230, 115), "clock_gettime": (228, 113),
    "clock_getres": (229, 114), "gettimeofday": (96, 169), "time": (201, None), "times": (100, 153),
    # threads and the end
    "futex": (202, 98), "set_robust_list": (273, 99), "set_tid_address": (218, 96), "rseq": (334, 293),
    "sched_yield": (24, 124), "sched_getaffinity": (204, 123), "getcpu": (309, 168), "exit": (60, 93),
    "exit_group": (231, 94),
    # questions about itself and the kernel
    "getpid": (39, 172), "getppid": (110, 173), "gettid": (186, 178), "getuid": (102, 174),
    "geteuid": (107, 175), "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148),
    "getresgid": (120, 150), "getgroups": (115, 158), "getpgid": (121, 155), "getpgrp": (111, None),
    "getsid": (124, 156), "getrlimit": (97, 163), "getrusage": (98, 165), "uname": (63, 160),
    "sysinfo": (99, 179), "getrandom": (318, 278),
}  # fmt: skip
"""Numbers of the calls that may be made with any arguments, on x86-64 and aarch64 (None: no such call)."""

_WORD = 0xFFFFFFFF
_CLONE_THREAD, _CLONE_VM = 0x10000, 0x100
_CLONE_NEW = CLONE_NEWNS | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET
_STREAM_SOCKETS = (1, 1 | 0o4000, 1 | 0o2000000, 1 | 0o2004000)  # SOCK_STREAM, non-blocking, close-on-exec
Condition = tuple[int, int, Sequence[int]]
"""(word, mask, values): the word of the arguments, masked, is one of the values. The low half of argument n
is word 2n, the high half word 2n + 1 (both architectures are little-endian)."""


def _conditional() -> dict[tuple[int | None, int | None], Sequence[Condition]]:
    """Return the calls that may be made only if all conditions on their arguments hold."""
    no_special_bits = (0o7000, (0,))  # of a new file's mode: set-user-id, set-group-id, sticky
    return {
        (2, None): [(4, *no_special_bits)],  # open
        (257, 56): [(6, *no_special_bits)],  # openat
        (83, None): [(2, *no_special_bits)],  # mkdir
        (258, 34): [(4, *no_special_bits)],  # mkdirat
        # fcntl: duplicates, flags and record locks. F_SETOWN, F_SETSIG and F_NOTIFY could signal others
        (72, 25): [(2, _WORD, (0, 1, 2, 3, 4, 5, 6, 7, 1030))],
        # ioctl: TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX. FS_IOC_SETFLAGS is left out
        (16, 29): [(2, _WORD, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451))],
        # socketpair: AF_UNIX streams, which cannot name another socket. sendto: without an address
        (53, 199): [(0, _WORD, (1,)), (2, _WORD, _STREAM_SOCKETS)],
        (44, 206): [(8, _WORD, (0,)), (9, _WORD, (0,))],
        (302, 261): [(0, _WORD, (0,))],  # prlimit64: its own limits, which it cannot raise
        (234, 131): [(0, _WORD, (os.getpid(),))],  # tgkill: its own threads
        (56, 220): [(0, _CLONE_THREAD | _CLONE_VM | _CLONE_NEW, (_CLONE_THREAD | _CLONE_VM,))],  # clone
    }  # type: ignore[dict-item]


_CLONE3 = 435
_ALLOW, _EPERM, _ENOSYS = 0x7FFF0000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
Instruction = tuple[int, int, int, int]
"""Classic BPF: (operation, jump if true, jump if false, operand)."""


def allow_system_calls() -> None:
    """From now on every system call fails with EPERM, except those that the tables above allow.

    Call it in the process it is for: its process number goes into the filter.
    """
    if MACHINE not in _ARCHITECTURES:
        raise OSError(errno.ENOSYS, f"no table of system calls for {MACHINE}")
    code = b"".join(struct.pack("=HBBI", *line) for line in _filter(*_ARCHITECTURES[MACHINE]))
    buffer = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer)))
    forbid_new_privileges()
    _prctl(PR_SET_SECCOMP, 2, ctypes.addressof(program))


def _filter(column: int, architecture: int) -> Iterator[Instruction]:
    """The kernel gives the filter the call's number at 0, the architecture at 4, the arguments from 16 on."""
    yield _LOAD, 0, 0, 4
    yield _EQUAL, 1, 0, architecture
    yield _RETURN, 0, 0, _EPERM
    yield _LOAD, 0, 0, 0
    yield _EQUAL, 0, 1, _CLONE3  # without it libc falls back to clone, whose flags a filter can read
    yield _RETURN, 0, 0, _ENOSYS
    for number in [numbers[column] for numbers in _ALLOWED.values()]:
        if number is not None:
            yield _EQUAL, 0, 1, number
            yield _RETURN, 0, 0, _ALLOW
    for numbers, conditions in _conditional().items():
        if (number := numbers[column]) is not None:
            check = [line for condition in conditions for line in _unless(*condition)]
            yield _EQUAL, 0, len(check) + 1, number
            yield from check
            yield _RETURN, 0, 0, _ALLOW
    yield _RETURN, 0, 0, _EPERM  # also the x32 calls, whose numbers have bit 30 set


def _unless(word: int, mask: int, values: Sequence[int]) -> list[Instruction]:
    """Return EPERM unless the condition holds; then go on after the last line."""
    found = [(_EQUAL, len(values) - at, 0, value) for at, value in enumerate(values)]
    return [(_LOAD, 0, 0, 16 + 4 * word), (_AND, 0, 0, mask), *found, (_RETURN, 0, 0, _EPERM)]
