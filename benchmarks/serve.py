"""herd serve beside llama-server: same file, same threads, same client, one interleaved run.

python benchmarks/serve.py --llama-cpp FOLDER [--model FILE.gguf] [--threads 2] [--requests 48] [--rounds 2]

Prompts are 32 to 1,024 tokens of running text, half of them after a shared system message of 500 tokens; 64 tokens come
out, whatever the model would have ended. `N at a time` keeps N requests going; `N/s` lets them come at random (Poisson).
Without --llama-cpp the peer's rows are left out; build one with cmake as its README says.
"""

import argparse
import asyncio
import json
import random
import socket
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx

TEXT = (Path(__file__).parents[1] / "tests" / "data" / "udhr" / "en.txt").read_text()
WORDS = TEXT.split()
OUT = 64
WORDS_A_TOKEN = 0.72


@dataclass
class Result:
    """What the requests of one load saw."""

    first: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    tokens: int = 0
    errors: int = 0
    seconds: float = 0.0


def words(tokens: int, seed: int) -> str:
    """About so many tokens of running text."""
    count = int(tokens * WORDS_A_TOKEN)
    start = random.Random(seed).randrange(len(WORDS))
    return " ".join((WORDS[start:] + WORDS * (count // len(WORDS) + 1))[:count])


def body(seed: int, shared: bool | None = None) -> dict:
    """A request; half have the shared system message."""
    chance = random.Random(seed)
    question = words(int(2 ** chance.uniform(5, 10)), seed) + f" Question {seed}: what does this say?"
    messages = [{"role": "user", "content": question}]
    if seed % 2 == 0 if shared is None else shared:
        messages.insert(0, {"role": "system", "content": words(500, 1)})
    return {
        "messages": messages, "max_tokens": OUT, "temperature": 0, "stream": True, "ignore_eos": True,
    }  # fmt: skip


async def ask(port: int, request: dict, result: Result) -> None:
    """One streamed request over a socket of its own; the client is bare so that it takes little of the processor."""
    data = json.dumps(request).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    begun = time.perf_counter()
    last = 0.0
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        while line := await reader.readline():
            if b'"content":"' in line and b'"content":""' not in line:
                now = time.perf_counter()
                if last:
                    result.between.append(now - last)
                else:
                    result.first.append(now - begun)
                last = now
                result.tokens += 1
            elif b'"error"' in line or line.startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
                result.errors += 1
        writer.close()
    except OSError:
        result.errors += 1
    if not last:
        result.errors += 1


async def at_a_time(port: int, count: int, requests: list[dict]) -> Result:
    """Keep `count` requests going until all are done."""
    result, left = Result(), iter(requests)
    begun = time.perf_counter()

    async def client() -> None:
        for request in left:
            await ask(port, request, result)

    await asyncio.gather(*(client() for _ in range(count)))
    result.seconds = time.perf_counter() - begun
    return result


async def at_rate(port: int, rate: float, requests: list[dict]) -> Result:
    """Let requests come at random, `rate` a second."""
    result, chance = Result(), random.Random(5)
    begun = time.perf_counter()
    tasks = []
    for request in requests:
        tasks.append(asyncio.create_task(ask(port, request, result)))
        await asyncio.sleep(chance.expovariate(rate))
    await asyncio.gather(*tasks)
    result.seconds = time.perf_counter() - begun
    return result


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(command: list[str], port: int) -> subprocess.Popen:
    """Start a server and wait until it is ready."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return process
        except httpx.HTTPError:
            pass
        if process.poll() is not None:
            sys.exit(f"{command[0]} ended with status {process.returncode}")
        time.sleep(0.1)
    sys.exit(f"{command[0]} does not get ready")


def merged(results: list[Result]) -> Result:
    """The requests of several rounds together."""
    total = Result()
    for result in results:
        total.first += result.first
        total.between += result.between
        total.tokens += result.tokens
        total.errors += result.errors
        total.seconds += result.seconds
    return total


def quantile(values: list[float], q: float) -> float:
    """The q-th quantile of values, in milliseconds."""
    return 1000 * sorted(values)[min(len(values) - 1, int(q * len(values)))] if values else float("nan")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--peer-model", type=Path, help="the same as a file, if --model is a name")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--requests", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--loads", default="1,4,16,32,64,0.5/s,1/s,2/s")
    options = parser.parse_args()
    ports = {"herd": free_port()}
    commands = {
        "herd": [
            sys.executable, "-m", "herd", "serve", options.model, "--port", str(ports["herd"]), "--threads",
            options.threads, "--context", "32768", "--log", "/dev/null",
        ]
    }  # fmt: skip
    if options.llama_cpp:
        ports["llama-server"] = free_port()
        commands["llama-server"] = [
            str((options.llama_cpp / "llama-server").resolve()), "-m", str(options.peer_model or options.model), "-t",
            options.threads, "-c", "32768", "-np", "16", "--port", str(ports["llama-server"]),
        ]  # fmt: skip
    processes = []
    try:
        for name, command in commands.items():
            processes.append(start(command, ports[name]))
        print("| load | server | tokens/s out | first token p50 | p99 | between tokens p50 | p99 | errors |")
        print("|---|---|---|---|---|---|---|---|")
        seed = 0
        for load in options.loads.split(","):
            found: dict[str, list[Result]] = {name: [] for name in commands}
            count = max(4, min(options.requests, 4 * int(load))) if "/" not in load else options.requests // 2
            for _ in range(options.rounds):
                requests = [body(seed + i) for i in range(count)]
                seed += count
                for name in commands:
                    run = (
                        at_rate(ports[name], float(load[:-2]), requests)
                        if "/" in load
                        else at_a_time(ports[name], int(load), requests)
                    )
                    found[name].append(asyncio.run(run))
            for name, results in found.items():
                total = merged(results)
                times = [quantile(v, q) for v in (total.first, total.between) for q in (0.5, 0.99)]
                label = load if "/" in load else f"{load} at a time"
                print(
                    f"| {label} | {name} | {total.tokens / total.seconds:.1f} | "
                    + " | ".join(f"{t:,.0f} ms" for t in times)
                    + f" | {total.errors} |",
                    flush=True,
                )
        prefix(ports)
    finally:
        for process in processes:
            process.terminate()
            process.wait(40)


def prefix(ports: dict[str, int]) -> None:
    """Time to the first token of a short question after 500 tokens that are, or are not, in the cache."""
    print("\n| server | first token, system message new | seen before | ratio |\n|---|---|---|---|")
    for name, port in ports.items():
        cold, warm = [], []
        for i in range(8):
            system = words(500, 1000 + i) + f" ({i})"
            for k, times in ((0, cold), (1, warm)):
                result = Result()
                question = {"role": "user", "content": f"Question {k}?"}
                request = {**body(i), "messages": [{"role": "system", "content": f"{i} {system}"}, question]}
                asyncio.run(ask(port, request, result))
                times += result.first
        a, b = statistics.median(cold), statistics.median(warm)
        print(f"| {name} | {1000 * a:.0f} ms | {1000 * b:.0f} ms | {b / a:.2f} |", flush=True)


if __name__ == "__main__":
    main()
