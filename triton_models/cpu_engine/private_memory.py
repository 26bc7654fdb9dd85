"""Runs a program whose files and shared memory only their owner may open: `python -m ... PROGRAM ARGUMENTS`.

Triton's python backend keeps every request's tensors in shared memory, prompts included, which Boost makes with mode
0644 and an `fchmod` that undoes any umask (boost/interprocess/shared_memory_object.hpp). A seccomp filter (seccomp(2))
answers that call without doing it; the program and its children cannot take the filter off.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

_OWNER_ONLY = 0o077
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_AUDIT_ARCH_X86_64, _FCHMOD = 0xC000003E, 91
_ARCH_OFFSET, _NUMBER_OFFSET = 4, 0  # in struct seccomp_data
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_ALLOW, _SUCCEED_WITHOUT_DOING_IT = (
    0x7FFF0000,
    0x00050000,
)  # SECCOMP_RET_ALLOW; SECCOMP_RET_ERRNO with errno 0
# struct sock_filter: code, jump if true, jump if false, operand.
_FILTER = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (_LOAD, 0, 0, _ARCH_OFFSET),
        (_JUMP_IF_EQUAL, 0, 3, _AUDIT_ARCH_X86_64),
        (_LOAD, 0, 0, _NUMBER_OFFSET),
        (_JUMP_IF_EQUAL, 0, 1, _FCHMOD),
        (_RETURN, 0, 0, _SUCCEED_WITHOUT_DOING_IT),
        (_RETURN, 0, 0, _ALLOW),
    )
)


class _Program(ctypes.Structure):
    """`struct sock_fprog`."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def keep_to_owner() -> None:
    """Let this process and its children make files for their owner only.

    Raises:
        OSError: the kernel takes no seccomp filter.
    """
    os.umask(_OWNER_ONLY)
    libc = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(_FILTER) // 8, _FILTER)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*arguments) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"cannot keep Triton's shared memory private: {os.strerror(number)}")


def main(argv: list[str]) -> None:
    """Become the program; its pid stays."""
    keep_to_owner()
    os.execv(argv[0], argv)  # noqa: S606 - a path from `triton_command`


if __name__ == "__main__":
    main(sys.argv[1:])
