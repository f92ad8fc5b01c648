"""The filter of system calls: what it lets through, on both architectures and in this kernel."""

import ctypes
import errno
import os

import pytest

from tasks.sandbox import Sandbox, isolation, sandbox_layers

LAYERS = sandbox_layers()

FORBIDDEN = {  # name: numbers on x86-64 and aarch64
    **{"chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452)},
    **{"chown": (92, None), "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54)},
    **{"utime": (132, None), "utimes": (235, None), "utimensat": (280, 88), "futimesat": (261, None)},
    **{"setxattr": (188, 5), "lsetxattr": (189, 6), "fsetxattr": (190, 7), "removexattr": (197, 14)},
    **{"setxattrat": (463, 463), "file_setattr": (469, 469), "creat": (85, None), "openat2": (437, 437)},
    **{"link": (86, None), "linkat": (265, 37), "symlink": (88, None), "symlinkat": (266, 36)},
    **{"mknod": (133, None), "mknodat": (259, 33), "memfd_create": (319, 279), "memfd_secret": (447, 447)},
    **{"shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186), "mq_open": (240, 180)},
    **{"ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271)},
    **{"pidfd_open": (434, 434), "pidfd_getfd": (438, 438), "kcmp": (312, 272), "userfaultfd": (323, 282)},
    **{"io_uring_setup": (425, 425), "bpf": (321, 280), "perf_event_open": (298, 241)},
    **{"add_key": (248, 217), "request_key": (249, 218), "keyctl": (250, 219), "personality": (135, 92)},
    **{"socket": (41, 198), "bind": (49, 200), "connect": (42, 203), "sendmsg": (46, 211)},
    **{"fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281)},
    **{"kill": (62, 129), "tkill": (200, 130), "rt_sigqueueinfo": (129, 138), "setsid": (112, 157)},
    **{"setuid": (105, 146), "setresuid": (117, 147), "capset": (126, 91), "prctl": (157, 167)},
    **{"unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "pivot_root": (155, 41)},
    **{"chroot": (161, 51), "open_tree": (428, 428), "move_mount": (429, 429), "fsopen": (430, 430)},
    **{"name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "seccomp": (317, 277)},
    **{"inotify_init1": (294, 26), "fanotify_init": (300, 262), "setpriority": (141, 140)},
    **{"sched_setaffinity": (203, 122), "mbind": (237, 235), "mlock": (149, 228), "vmsplice": (278, 75)},
    **{"landlock_create_ruleset": (444, 444), "quotactl": (179, 60), "syslog": (103, 116)},
}
REFUSED_ARGUMENTS = {
    "open with mode 4755": ((2, None), ["/x", 0o101, 0o4755]),
    "openat with mode 4755": ((257, 56), [-100, "/x", 0o101, 0o4755]),
    "openat with mode 2755": ((257, 56), [-100, "/x", 0o101, 0o2755]),
    "mkdir with mode 1777": ((83, None), ["/x", 0o1777]),
    "mkdirat with mode 2777": ((258, 34), [-100, "/x", 0o2777]),
    "ioctl FS_IOC_SETFLAGS": ((16, 29), [0, 0x40086602]),
    "ioctl TIOCSTI": ((16, 29), [0, 0x5412]),
    "fcntl F_SETOWN": ((72, 25), [0, 8]),
    "fcntl F_SETPIPE_SZ": ((72, 25), [0, 1031]),
    "prlimit64 of another": ((302, 261), [1]),
    "tgkill of another": ((234, 131), [1]),
    "socketpair of datagrams": ((53, 199), [1, 2]),
    "socketpair AF_INET": ((53, 199), [2, 1]),
    "sendto with an address": ((44, 206), [0, 0, 0, 0, 1 << 40]),
    "clone of a process": ((56, 220), [17]),
    "clone into namespaces": ((56, 220), [0x10000000 | 0x10100]),
    "clone without shared memory": ((56, 220), [0x10000]),
}
ALLOWED_ARGUMENTS = {
    "openat of a new file": ((257, 56), [-100, "/x", 0o101, 0o666]),
    "ioctl FIOCLEX": ((16, 29), [0, 0x5451]),
    "fcntl F_DUPFD_CLOEXEC": ((72, 25), [0, 1030]),
    "prlimit64 of itself": ((302, 261), [0]),
    "tgkill of itself": ((234, 131), [os.getpid()]),
    "socketpair": ((53, 199), [1, 1 | 0o2000000]),
    "sendto": ((44, 206), [0, 0, 0, 0, 0]),
    "clone of a thread": ((56, 220), [0x3D0F00]),
}
ARCHITECTURES = {"x86_64": 0, "aarch64": 1}


def decision(machine: str, number: int, arguments=()) -> int:
    """What the filter returns for a call, by running its instructions as the kernel would."""
    column, name = isolation._ARCHITECTURES[machine]
    words = {0: number, 4: name}
    for at, argument in enumerate(arguments):
        value = argument if isinstance(argument, int) else 0x7FFF12345678  # a pointer
        words |= {16 + 8 * at: value & 0xFFFFFFFF, 20 + 8 * at: value >> 32 & 0xFFFFFFFF}
    code, at, register = list(isolation._filter(column, name)), 0, 0
    while True:
        operation, if_true, if_false, operand = code[at]
        at += 1
        match operation:
            case isolation._LOAD:
                register = words.get(operand, 0)
            case isolation._AND:
                register &= operand
            case isolation._EQUAL:
                at += if_true if register == operand else if_false
            case isolation._RETURN:
                return operand


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_filter_decides_by_call_and_arguments(machine):
    column = ARCHITECTURES[machine]
    for name, numbers in FORBIDDEN.items():
        if numbers[column] is not None:
            assert decision(machine, numbers[column]) == isolation._EPERM, name
    for name, (numbers, arguments) in REFUSED_ARGUMENTS.items():
        if numbers[column] is not None:
            assert decision(machine, numbers[column], arguments) == isolation._EPERM, name
    for name, (numbers, arguments) in ALLOWED_ARGUMENTS.items():
        assert decision(machine, numbers[column], arguments) == isolation._ALLOW, name
    assert decision(machine, 435) == isolation._ENOSYS  # clone3
    assert decision(machine, 10_000) == isolation._EPERM  # a call of a future kernel


def test_calls_of_another_architecture_are_refused():
    assert decision("x86_64", 0x40000000 | 0) == isolation._EPERM  # read, as an x32 call
    code = list(isolation._filter(*isolation._ARCHITECTURES["x86_64"]))
    assert code[0] == (isolation._LOAD, 0, 0, 4)
    assert code[1] == (isolation._EQUAL, 1, 0, 0xC000003E)
    assert code[2] == (isolation._RETURN, 0, 0, isolation._EPERM)


def test_no_jump_is_longer_than_the_kernel_allows():
    for architecture in isolation._ARCHITECTURES.values():
        code = list(isolation._filter(*architecture))
        assert len(code) < 4096
        assert all(max(if_true, if_false) < 256 for _, if_true, if_false, _ in code)


def test_this_kernel_refuses_them_with_eperm():
    if not LAYERS["system_call_filter"]:
        pytest.skip("this kernel has no system_call_filter")
    column = ARCHITECTURES[isolation.MACHINE]
    numbers = [pair[column] for pair in FORBIDDEN.values() if pair[column] is not None]
    program = f"""
import ctypes, errno
libc = ctypes.CDLL(None, use_errno=True)
for number in {numbers}:
    arguments = [ctypes.c_long(0)] * 6
    if libc.syscall(ctypes.c_long(number), *arguments) != -1 or ctypes.get_errno() != {errno.EPERM}:
        print(number)
print('all tried')
"""
    sandbox = Sandbox()
    run = sandbox.run_stdin(program, "", 5.0)
    sandbox.close()
    assert run.output.decode() == "all tried\n"
    assert ctypes.sizeof(ctypes.c_long) == 8
