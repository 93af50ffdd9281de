"""The decoder's own C++ check, plain and under the address, undefined-behaviour and thread sanitizers."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BUILDS = {
    "plain": "-O2",
    "address": "-O1 -g -fsanitize=address -fno-omit-frame-pointer",
    "undefined": "-O1 -g -fsanitize=undefined -fno-sanitize-recover=all",
    "thread": "-O1 -g -fsanitize=thread",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUILDS)
def test_native_check(name, tmp_path):
    flags = BUILDS[name]
    configure = ["cmake", "-S", ROOT, "-B", tmp_path, "-DHERD_CHECK=ON", "-DCMAKE_BUILD_TYPE=None", "-DHERD_WERROR="]
    subprocess.run(
        [*configure, f"-DCMAKE_CXX_FLAGS={flags}", f"-DCMAKE_EXE_LINKER_FLAGS={flags}"], check=True, capture_output=True
    )
    subprocess.run(["cmake", "--build", tmp_path, "--target", "herd_check", "-j2"], check=True, capture_output=True)
    done = subprocess.run([tmp_path / "herd_check"], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "portable agrees" in done.stdout
