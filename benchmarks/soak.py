"""An hour of load on one server: no error, and memory that stays where it is.

python benchmarks/soak.py [--seconds 3600] [--model smollm2-135m] [--share 0.8]

First the server is loaded as far as it goes for a while; then requests come at random at a share of that rate. Every minute a
row is printed; exit status 1 when there was an error, or when memory grew by more than 5% after the first tenth.
"""

import argparse
import asyncio
import random
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from serve import Result, ask, at_a_time, body, free_port, quantile, start


def resident(pid: int) -> int:
    """MiB that a process holds in memory."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.split("VmRSS:")[1].split()[0]) >> 10


async def soak(port: int, rate: float, seconds: float, process: subprocess.Popen) -> tuple[int, list[int]]:
    """Errors, and memory after each row."""
    chance, running, seed = random.Random(7), set(), 0
    memory, errors = [], 0
    every = min(60.0, seconds / 10)
    result, begun, printed = Result(), time.monotonic(), time.monotonic()
    print("| minute | requests | tokens/s | first token p50 | p99 | errors | memory |\n|---|---|---|---|---|---|---|")
    while (now := time.monotonic()) - begun < seconds:
        task = asyncio.create_task(ask(port, body(seed), result))
        running.add(task)
        task.add_done_callback(running.discard)
        seed += 1
        await asyncio.sleep(chance.expovariate(rate))
        if now - printed >= every:
            memory.append(resident(process.pid))
            errors += result.errors
            times = " | ".join(f"{quantile(result.first, q):,.0f} ms" for q in (0.5, 0.99))
            print(
                f"| {(now - begun) / 60:.0f} | {len(result.first)} | {result.tokens / (now - printed):.0f} | {times} | "
                f"{result.errors} | {memory[-1]} MiB |",
                flush=True,
            )
            result, printed = Result(), now
    await asyncio.gather(*running)
    return errors + result.errors, memory


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3600)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--share", type=float, default=0.8, help="less where other programs come and go")
    options = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "herd", "serve", options.model, "--port", str(port), "--log", "/dev/null"]
    process = start(command, port)
    try:
        full = asyncio.run(at_a_time(port, 16, [body(10**6 + i) for i in range(48)]))
        rate = options.share * len(full.first) / full.seconds
        print(f"at most {len(full.first) / full.seconds:.2f} requests/s; {rate:.2f} from now on\n", flush=True)
        errors, memory = asyncio.run(soak(port, rate, options.seconds, process))
        early = statistics.median(memory[: max(1, len(memory) // 10)])
        growth = memory[-1] / early - 1
        print(f"\n{errors} errors; memory {early:.0f} MiB early, {memory[-1]} MiB at the end ({growth:+.1%})")
        sys.exit(bool(errors) or growth > 0.05)
    finally:
        process.terminate()
        process.wait(40)


if __name__ == "__main__":
    main()
