"""The C++ parts' own checks: plain, under the sanitizers, and for another processor in an emulator."""

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDS = {
    "plain": "-O2",
    "address": "-O1 -g -fsanitize=address -fno-omit-frame-pointer",
    "undefined": "-O1 -g -fsanitize=undefined,float-cast-overflow -fno-sanitize-recover=all",
    "thread": "-O1 -g -fsanitize=thread",
}


def build(where, flags, *more):
    configure = ["cmake", "-S", ROOT, "-B", where, "-DHERD_CHECK=ON", "-DCMAKE_BUILD_TYPE=None", *more]
    subprocess.run(
        [*configure, f"-DCMAKE_CXX_FLAGS={flags}", f"-DCMAKE_EXE_LINKER_FLAGS={flags}"], check=True, capture_output=True
    )
    subprocess.run(["cmake", "--build", where, "-j2"], check=True, capture_output=True)
    return where / "herd_check"


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDS)
def test_native_check(name, tmp_path):
    check = build(tmp_path, BUILDS[name], "-DHERD_WERROR=")
    for program, word in (
        (check, "portable agrees"),
        (check.with_name("herd_check_text"), "tokens stand for the text"),
        (check.with_name("herd_check_page"), "pages read"),
    ):
        done = subprocess.run([program], capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stdout + done.stderr
        assert word in done.stdout


@pytest.mark.slow
@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-g++") and shutil.which("qemu-aarch64-static")),
    reason="needs Debian's g++-aarch64-linux-gnu and qemu-user-static",
)
def test_neon_in_an_emulator(tmp_path):
    target = ("SYSTEM_NAME=Linux", "SYSTEM_PROCESSOR=aarch64", "CXX_COMPILER=aarch64-linux-gnu-g++")
    check = build(tmp_path, "-O2 -static", *(f"-DCMAKE_{setting}" for setting in target))
    done = subprocess.run(["qemu-aarch64-static", check, "neon"], capture_output=True, text=True, timeout=1200)
    assert (done.returncode, done.stdout) == (0, "neon agrees\n"), done.stderr
