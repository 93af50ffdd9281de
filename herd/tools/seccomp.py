"""System calls that code in the sandbox may not make, as a filter that bubblewrap loads (BPF, see seccomp(2)).

Refused are those that make memory which no process's size shows (memfd, System V segments, shared anonymous maps), those that
reach out of the sandbox or deep into the kernel (user namespaces, vsock, io_uring, bpf, keys, tracing), and what an unknown
architecture would mean by a number.
"""

import errno
import platform
import struct

# Name -> number on x86_64 and on aarch64 (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
_REFUSED = {
    "memfd_create": (319, 279), "memfd_secret": (447, 447), "shmget": (29, 194), "shmat": (30, 196), "unshare": (272, 97),
    "setns": (308, 268), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
    "userfaultfd": (323, 282), "bpf": (321, 280), "perf_event_open": (298, 241), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41), "chroot": (161, 51), "fsopen": (430, 430),
    "open_tree": (428, 428), "move_mount": (429, 429), "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265),
    "mq_open": (240, 180), "kexec_load": (246, 104), "init_module": (175, 105), "finit_module": (313, 273), "swapon": (167, 224),
}  # fmt: skip
_CLONE, _CLONE3, _SOCKET, _SOCKETPAIR, _MMAP = (56, 220), (435, 435), (41, 198), (53, 199), (9, 222)
_NAMESPACES = 0x7E020080  # CLONE_NEW*
_SHARED_ANONYMOUS = 0x21
_FAMILIES = (1, 2, 10)  # AF_UNIX, AF_INET, AF_INET6; there is no network in the sandbox
_MACHINES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}  # column above, AUDIT_ARCH_*
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data


def supported() -> bool:
    """Whether this machine's system calls are known here."""
    return platform.machine() in _MACHINES


def program() -> bytes:
    """The filter for this machine."""
    column, architecture = _MACHINES[platform.machine()]

    def step(code: int, value: int, yes: int = 0, no: int = 0) -> bytes:
        """One instruction; `yes` and `no` are how many to jump over."""
        return struct.pack("=HBBI", code, yes, no, value)

    def refuse(number: int = errno.EPERM) -> bytes:
        return step(_RETURN, _ERRNO | number)

    def argument(i: int) -> bytes:
        return step(_LOAD, _ARGUMENTS + 8 * i)

    def on(call: tuple[int, int], *then: bytes) -> list[bytes]:
        """Instructions for one call, which end with a return."""
        return [step(_EQUAL, call[column], 0, len(then)), *then]

    steps = [
        step(_LOAD, _ARCHITECTURE), step(_EQUAL, architecture, 1, 0), step(_RETURN, _KILL), step(_LOAD, _NUMBER),
        step(_AT_LEAST, 0x40000000, 0, 1), refuse(errno.ENOSYS),  # the x32 calls of x86_64
    ]  # fmt: skip
    for call in _REFUSED.values():
        steps += on(call, refuse())
    steps += on(_CLONE3, refuse(errno.ENOSYS))  # its flags lie in memory; libraries fall back to clone
    steps += on(_CLONE, argument(0), step(_ANY_BIT, _NAMESPACES, 0, 1), refuse(), step(_RETURN, _ALLOW))
    steps += on(_MMAP, argument(3), step(_AND, _SHARED_ANONYMOUS), step(_EQUAL, _SHARED_ANONYMOUS, 0, 1), refuse(), step(_RETURN, _ALLOW))  # fmt: skip
    for call in (_SOCKET, _SOCKETPAIR):
        known = [step(_EQUAL, family, len(_FAMILIES) - i, 0) for i, family in enumerate(_FAMILIES)]
        steps += on(call, argument(0), *known, refuse(errno.EAFNOSUPPORT), step(_RETURN, _ALLOW))
    return b"".join([*steps, step(_RETURN, _ALLOW)])
