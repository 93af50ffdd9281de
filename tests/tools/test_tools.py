"""The tools that herd runs, and code that tries to break out of its sandbox."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from herd.errors import ConfigError, RequestError
from herd.text.messages import ToolCall
from herd.tools import MAX_OUTPUT, ToolBox
from herd.tools.builtin import add_tools
from herd.tools.calculator import calculate
from herd.tools.mcp import add_servers
from herd.tools.sandbox import Sandbox

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="needs bubblewrap")


@pytest.fixture(scope="module")
def sandbox():
    made = Sandbox(seconds=5)
    made.check()
    return made


@needs_bwrap
def test_code_prints_and_shows_its_last_value(sandbox):
    assert sandbox.run("print('hi')\n6 * 7") == "hi\n42\n"
    assert "ZeroDivisionError" in sandbox.run("1 / 0")
    assert "SyntaxError" in sandbox.run("def f(:")
    assert sandbox.run("") == "[no output]"
    assert sandbox.run("open('/work/x', 'w').write('1'); print(open('/work/x').read())") == "1\n"
    assert "No such file" in sandbox.run("open('/work/x')")  # the next run has a fresh folder
    assert sandbox.run("import os; os._exit(3)") == "[ended with status 3]"


@needs_bwrap
@pytest.mark.parametrize(
    "code,says",
    [
        ("x = 'a' * (10 << 30)", "MemoryError"),
        ("while True: pass", "stopped: it took more than 5 s"),
        ("while True: print('x' * 1000)", "stopped: more than 65,536 bytes of output"),
        ("import socket; socket.create_connection(('192.0.2.1', 80), 2)", "unreachable"),
        ("import socket; socket.create_connection(('127.0.0.1', 22), 2)", "rror"),
        ("print(open('/etc/passwd').read())", "No such file"),
        ("import os; print(os.listdir('/root'))", "No such file"),
        ("open('/usr/bin/herd-was-here', 'w')", "Read-only"),
        ("open('/herd-was-here', 'w')", "Read-only"),
        ("open('/work/big', 'wb').write(b'x' * (200 << 20))", "rror"),
        ("import os; os.kill(1, 9); os.setuid(0)", "Error"),
        ("import ctypes; libc = ctypes.CDLL(None, use_errno=True); print('mount', libc.mount(b'x', b'/work', b'tmpfs', 0, None))", "mount -1"),
        ("import resource; resource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "not allowed"),
    ],
)  # fmt: skip
def test_code_does_not_break_out(sandbox, code, says):
    begun = time.monotonic()
    assert says in sandbox.run(code)
    assert time.monotonic() - begun < 15


@needs_bwrap
def test_a_fork_bomb_is_held_and_nothing_of_it_is_left(sandbox):
    bomb = "import os, time\ncount = 0\nwhile True:\n    try:\n        if os.fork() == 0: time.sleep(60)\n        count += 1\n    except OSError:\n        break\nprint('forks', count)"
    said = sandbox.run(bomb)
    assert 0 < int(said.split()[1]) < 40, said
    eager = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    assert "stopped" in sandbox.run(eager)
    deadline = time.monotonic() + 10
    while (
        left := subprocess.run(["pgrep", "-f", "RLIMIT_NPROC"], capture_output=True, text=True).stdout
    ) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == ""


@needs_bwrap
def test_processes_together_have_a_limit_of_memory(sandbox):
    code = "import os, time\nfor i in range(8):\n    if os.fork() == 0:\n        held = bytearray(b'x') * (300 << 20)\n        time.sleep(30)\ntime.sleep(30)"
    assert "MiB]" in sandbox.run(code)


@pytest.mark.parametrize(
    "expression,value",
    [
        ("2 + 3 * 4", "14"), ("15% of 80", "12"), ("sqrt(2) * 3^4", "114.551298552221"), ("(1 + 2) / 4 =", "0.75"), ("10 % 4", "2"),
        ("factorial(20)", "2432902008176640000"), ("50%", "0.5"), ("2**100", "1267650600228229401496703205376"), ("-3 ÷ 2", "-1.5"),
    ],
)  # fmt: skip
def test_the_calculator(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize("expression", ["__import__('os')", "(1).real", "9**9**9", "1/0", "factorial(10**9)", "x", "[1]", "1 if 1 else 2", "(" * 500, "'a' * 9", "", "lambda: 1"])  # fmt: skip
def test_the_calculator_computes_nothing_else(expression):
    with pytest.raises(RequestError):
        calculate(expression)


def test_search_finds_passages_of_local_documents(tmp_path):
    (tmp_path / "llamas.md").write_text("Llamas live in the Andes.\n\nThey eat grass. " * 3)
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "café.txt").write_text("The café opens at nine.")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    box = ToolBox()
    add_tools(box, ["calculator"], tmp_path)
    assert [tool.name for tool in box.tools] == ["calculator", "search"]
    assert box.run(ToolCall("search", {"query": "When does the cafe open?"})).startswith("[deep/café.txt]")
    assert "Andes" in box.run(ToolCall("brave_search", {"query": 'llamas" OR 1'}))
    assert box.run(ToolCall("search", {"query": "zebra"})) == "nothing found"
    assert box.run(ToolCall("wolfram_alpha", {"query": "6 * 7"})) == "42"
    assert box.run(ToolCall("calculator", {})).startswith("error: the argument 'query'")
    assert box.run(ToolCall("nope", {})).startswith("error")
    box.close()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match="no text files"):
        add_tools(ToolBox(), ["search"], empty)


SERVER = """
from mcp.server.mcpserver import MCPServer
server = MCPServer("sums")

@server.tool()
def add(a: int, b: int) -> int:
    "Add two numbers."
    return a + b

@server.tool()
def fail() -> str:
    "Always fails."
    raise ValueError("no luck")

@server.tool()
def long() -> str:
    "A lot of text."
    return "x" * 100_000

@server.tool()
async def hang() -> str:
    "Takes its time."
    import asyncio
    await asyncio.sleep(60)
    return "done"

@server.tool()
def process() -> str:
    "Its process."
    import os
    return str(os.getpid())

import sys
if len(sys.argv) > 1:
    server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
else:
    server.run("stdio")
"""


@pytest.mark.parametrize(
    "code, word",
    [
        ("import os; os.memfd_create('x')", "not permitted"), ("import mmap; mmap.mmap(-1, 4096)", "not permitted"),
        ("open('/dev/zero', 'rb')", "No such file"), ("open('/dev/x', 'wb')", "Read-only"), ("import socket; socket.socket(40, 1)", "not supported"),
        ("import ctypes; print(ctypes.CDLL(None).unshare(0x10000000))", "-1"), ("import ctypes; print(ctypes.CDLL(None).syscall(425, 1, 0))", "-1"),
        ("import ctypes; print(ctypes.CDLL(None).shmget(0, 4096, 0o1600))", "-1"),
        ("for i in range(9): open(f'/dev/shm/{i}', 'wb').write(b'x' * (50 << 20))", "No space left"),
        ("import multiprocessing as m\np = m.get_context('fork').Pool(2)\nprint(sum(p.map(abs, [-1, -2])))", "3"),
        ("import socket; a, b = socket.socketpair(); a.send(b'x'); print(b.recv(1))", "b'x'"),
    ],
)  # fmt: skip
def test_memory_that_no_process_shows_and_ways_out_are_closed(code, word):
    assert word in Sandbox().run(code)


def test_tools_of_an_mcp_server_join(tmp_path):
    (tmp_path / "server.py").write_text(SERVER)
    config = {"mcpServers": {"sums": {"command": sys.executable, "args": [str(tmp_path / "server.py")]}}}
    (tmp_path / "mcp.json").write_text(json.dumps(config))
    box = ToolBox()
    add_servers(box, tmp_path / "mcp.json")
    try:
        assert [tool.name for tool in box.tools] == ["add", "fail", "long", "hang", "process"]
        assert box.tools[0].parameters["required"] == ["a", "b"]
        assert box.run(ToolCall("add", {"a": 2, "b": 40})) == "42"
        assert box.run(ToolCall("fail", {})).startswith("error: ")
        assert len(box.run(ToolCall("long", {}))) < MAX_OUTPUT + 100
        assert box.run(ToolCall("add", {"a": "x"})).startswith("error")
        begun = time.monotonic()
        assert "too long" in box.run(ToolCall("hang", {}), 0.5)
        assert time.monotonic() - begun < 5
        assert box.run(ToolCall("add", {"a": 2, "b": 2})) == "4"
        first = int(box.run(ToolCall("process", {})))
        os.kill(first, signal.SIGKILL)
        assert "started again" in box.run(ToolCall("process", {}))
        assert int(box.run(ToolCall("process", {}))) != first
    finally:
        box.close()
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    process = subprocess.Popen([sys.executable, tmp_path / "server.py", str(port)], stderr=subprocess.DEVNULL)
    try:
        (tmp_path / "mcp.json").write_text(
            json.dumps({"mcpServers": {"sums": {"url": f"http://127.0.0.1:{port}/mcp"}}})
        )
        deadline = time.monotonic() + 20
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        box = ToolBox()
        add_servers(box, tmp_path / "mcp.json")
        assert box.run(ToolCall("add", {"a": 1, "b": 2})) == "3"
        box.close()
    finally:
        process.terminate()
        process.wait(10)
    for text in ("{", '{"mcpServers": {"x": {}}}', '{"mcpServers": {"x": {"command": "/no/such"}}}'):
        (tmp_path / "mcp.json").write_text(text)
        with pytest.raises(ConfigError, match="--mcp"):
            add_servers(ToolBox(), tmp_path / "mcp.json")
