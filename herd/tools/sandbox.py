"""Python code that a model wrote, run in a bubblewrap sandbox: no network, no files of the host but /usr and the folder of
Python, which can be read, a fresh folder, a filter of system calls, and limits on time, memory, processes and output.
"""

import contextlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path

from herd.errors import MissingDependencyError
from herd.tools import seccomp

_NOBODY = 65534
# Runs inside, before the code: limits that hold for everything it starts. The code comes on standard input.
_LAUNCHER = """
import resource, sys
memory, seconds, processes = map(int, sys.argv[1:4])
for limit, value in (
    (resource.RLIMIT_AS, memory), (resource.RLIMIT_CPU, seconds), (resource.RLIMIT_NPROC, processes),
    (resource.RLIMIT_FSIZE, 1 << 26), (resource.RLIMIT_CORE, 0), (resource.RLIMIT_NOFILE, 64),
):
    resource.setrlimit(limit, (value, value))
code = sys.stdin.read()
sys.argv = ["code"]
import ast
tree = ast.parse(code, "code")
last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
names = {"__name__": "__main__"}
exec(compile(tree, "code", "exec"), names)
if last is not None:  # the value of a last expression is shown, as at Python's own prompt
    value = eval(compile(ast.Expression(last.value), "code", "eval"), names)
    if value is not None:
        print(value if isinstance(value, str) else repr(value))
"""


@dataclass(frozen=True)
class Sandbox:
    """Limits of a run: seconds of wall-clock and processor time, bytes of memory for each process and for all."""

    seconds: float = 10.0
    memory: int = 512 << 20
    all_memory: int = 1 << 30
    processes: int = 32
    disk: int = 64 << 20
    output: int = 1 << 16

    def check(self) -> None:
        """MissingDependencyError, saying what to install or allow, where code cannot be run safely."""
        if shutil.which("bwrap") is None:
            raise MissingDependencyError(
                "code_interpreter needs bubblewrap; install it (Debian, Ubuntu: apt install bubblewrap)"
            )
        if not seccomp.supported():
            raise MissingDependencyError(f"code_interpreter has no filter of system calls for {platform.machine()}")
        if self.run("print(6 * 7)").strip() != "42":
            raise MissingDependencyError(
                "bubblewrap cannot make a sandbox here; allow unprivileged user namespaces "
                "(sysctl kernel.unprivileged_userns_clone=1) or leave code_interpreter out"
            )

    def run(self, code: str, seconds: float | None = None) -> str:
        """What the code prints, its errors included, and a line on why it was stopped if it was, after `seconds` at most."""
        if seconds is not None and seconds < self.seconds:
            return replace(self, seconds=seconds).run(code)
        # Limits on processes do not bind root, so root's sandboxes are run as nobody.
        user = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        filter_ = _filter()
        process = subprocess.Popen(
            self._command(filter_), pass_fds=(filter_,), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd="/",
            env={}, start_new_session=True, **user,  # type: ignore[call-overload]
        )  # fmt: skip
        os.close(filter_)
        watch = _Watch(process.pid, self)
        watcher = threading.Thread(target=watch.run, daemon=True)
        watcher.start()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(code.encode("utf-8", "replace"))
            process.stdin.close()
        kept = bytearray()
        while part := process.stdout.read1(1 << 16):
            kept += part
            if len(kept) > self.output:
                watch.stop(f"more than {self.output:,} bytes of output")
                break
        process.stdout.close()
        watch.ended.set()
        _kill(process.pid)
        process.wait()
        watcher.join()
        text = kept[: self.output].decode("utf-8", "replace")
        if watch.reason:
            return f"{text}\n[stopped: {watch.reason}]"
        if process.returncode and not text:
            return f"[ended with status {process.returncode}]"
        return text or "[no output]"

    def _devices(self) -> list[str]:
        """A /dev without zero, whose shared maps are memory that no process's size shows; every writable mount is bounded."""
        found = ["--size", "65536", "--tmpfs", "/dev", "--size", str(self.disk), "--tmpfs", "/dev/shm"]
        for name in ("null", "random", "urandom", "full"):
            found += ["--dev-bind", f"/dev/{name}", f"/dev/{name}"]
        links = {
            "fd": "/proc/self/fd",
            "stdin": "/proc/self/fd/0",
            "stdout": "/proc/self/fd/1",
            "stderr": "/proc/self/fd/2",
        }
        for name, target in links.items():
            found += ["--symlink", target, f"/dev/{name}"]
        return [*found, "--remount-ro", "/dev"]

    def _command(self, filter_: int) -> list[str]:
        python = _python()
        inside = ["--ro-bind", "/usr", "/usr"]
        for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
            path = Path(name)
            if path.is_symlink():
                inside += ["--symlink", str(path.readlink()), name]
            elif path.exists():
                inside += ["--ro-bind", name, name]
        if not python.is_relative_to("/usr"):
            inside += ["--ro-bind", str(python), "/python"]
            python = Path("/python")
        limits = (str(self.memory), str(int(self.seconds) + 1), str(self.processes))
        return [
            "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", *inside,
            "--proc", "/proc", *self._devices(), "--size", str(self.disk), "--tmpfs", "/work", "--chdir", "/work",
            "--setenv", "HOME", "/work", "--setenv", "PATH", "/usr/bin:/bin", "--setenv", "LANG", "C.UTF-8",
            "--setenv", "OPENBLAS_NUM_THREADS", "1", "--hostname", "sandbox", "--remount-ro", "/", "--seccomp", str(filter_),
            f"{python}/bin/python3", "-I", "-c", _LAUNCHER, *limits,
        ]  # fmt: skip


def _python() -> Path:
    """The prefix of a Python that the sandbox's user can reach: this one, or the system's."""
    prefix = Path(sys.base_prefix)
    hidden = os.geteuid() == 0 and not all(path.stat().st_mode & 1 for path in (prefix, *prefix.parents))
    return Path("/usr") if hidden and Path("/usr/bin/python3").exists() else prefix


def _filter() -> int:
    """A descriptor from which bubblewrap reads the filter of system calls; the caller closes it."""
    read, write = os.pipe()
    os.write(write, seccomp.program())
    os.close(write)
    return read


class _Watch:
    """Ends a sandbox that takes too long, or whose processes together take too much memory."""

    def __init__(self, pid: int, limits: Sandbox) -> None:
        self._pid, self._limits = pid, limits
        self.reason = ""
        self.ended = threading.Event()

    def run(self) -> None:
        deadline = time.monotonic() + self._limits.seconds
        while not self.ended.wait(0.05):
            if time.monotonic() > deadline:
                self.stop(f"it took more than {self._limits.seconds:g} s")
            elif _memory_below(self._pid) > self._limits.all_memory:
                self.stop(f"its processes took more than {self._limits.all_memory >> 20} MiB")

    def stop(self, reason: str) -> None:
        self.reason = self.reason or reason
        self.ended.set()
        _kill(self._pid)


def _kill(group: int) -> None:
    """End the sandbox. Its first process goes, and with it all in its process namespace."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def _memory_below(root: int) -> int:
    """Resident bytes of a process and of all that descend from it."""
    page = os.sysconf("SC_PAGE_SIZE")
    children: dict[int, list[int]] = {}
    resident: dict[int, int] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdecimal():
            with contextlib.suppress(OSError, ValueError):
                fields = Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
                resident[int(entry.name)] = int(fields[21]) * page
    total, left = 0, [root]
    while left:
        pid = left.pop()
        total += resident.get(pid, 0)
        left += children.get(pid, [])
    return total
