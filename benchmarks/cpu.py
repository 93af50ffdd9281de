"""The native backend beside llama.cpp and ik_llama.cpp on the same files and threads, interleaved, medians.

    python benchmarks/cpu.py --llama-cpp DIR [--ik-llama-cpp DIR] [--shape llama-3.2-1b] [--formats Q4_0,Q8_0] [--threads 2]
                             [--rounds 5] [--isa avx2] [--work formats,depth,batch,start]

The default model's own files, or with --shape files of that shape with random weights, which are made first (benchmarks/shapes.py).
DIR holds llama-bench, llama-batched-bench, llama-completion and llama-quantize. Build llama.cpp with
`cmake -B build -DGGML_NATIVE=ON && cmake --build build`, ik_llama.cpp likewise. Without a folder its column is left
empty; --isa makes herd use another instruction set than the best. Each round probes memory bandwidth and multiply-adds
first; a figure is the median over rounds. "Of the probe" is, for decoding, the file's bytes a token as a share of bandwidth, and
for prompts the weights' multiply-adds as a share of what the processor can do with 8-bit numbers (floats for F16 and BF16).
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

from shapes import write

from herd import native
from herd.cli.common import open_model
from herd.family import SHAPES
from herd.weights.convert import convert

DEFAULT = "smollm2-135m"
PARTS = ("formats", "depth", "batch", "start")
PROMPT = "The river rises in the hills north of the town, and near the old mill"  # 16 tokens


class Work(NamedTuple):
    """What is measured at a shape: formats, tokens of prompt and reply, depth and sequences at once (0: not measured)."""

    formats: tuple[str, ...]
    prompt: int = 512
    generate: int = 128
    depth: int = 4096
    batch: int = 16


WORK = {
    DEFAULT: Work(("Q4_0", "Q4_1", "Q8_0", "Q4_K_M", "F16")),
    "llama-3.2-1b": Work(("Q4_0", "Q8_0", "Q4_K_M", "BF16"), generate=64),
    "llama-3.1-8b": Work(("Q4_0", "Q4_K_M"), generate=16, depth=0, batch=0),
}
# row -> (first bar against llama.cpp, goal against the better of both)
BARS = {
    "decode Q4_0": (1.2, 1.0), "decode Q4_1": (1.3, 1.0), "decode Q8_0": (1.2, 1.0), "decode Q4_K_M": (1.3, 1.0),
    "decode F16": (1.05, 1.0), "decode Q4_0 at depth 4096": (1.6, 2.5), "prefill 512 Q4_1": (2.2, 1.5),
    "prefill 512 Q4_0 at depth 4096": (1.8, 2.5), "decode in all, 16 sequences, Q4_0": (2.0, 3.0),
    "start to first token (1/s)": (1.2, 2.0), "resident memory (1/MB)": (1.0, 1.25),
}  # fmt: skip


def run(command: list[str]) -> str:
    """Standard output of a peer, or nothing when it fails."""
    with tempfile.TemporaryDirectory() as scratch:  # some peers write logs where they stand
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, cwd=scratch
        )
    return done.stdout if done.returncode == 0 else ""


def peer_bench(folder: str, file: Path, threads: int, more: list[str]) -> dict[str, float]:
    """llama-bench: {'pp': ..., 'tg': ...} tokens a second."""
    out = run([f"{folder}/llama-bench", "-m", str(file), "-t", str(threads), "-r", "1", "-o", "json", *more])
    found: dict[str, float] = {}
    for entry in json.loads(out or "[]"):
        kind = "tg" if entry["n_gen"] and not entry["n_prompt"] else "pp" if not entry["n_gen"] else "gp"
        found[kind] = max(found.get(kind, 0.0), entry["avg_ts"])
    return found


def batched(folder: str, file: Path, threads: int, more: list[str]) -> float:
    """llama-batched-bench: tokens a second of 16 sequences that decode."""
    command = [
        f"{folder}/llama-batched-bench",
        "-m",
        str(file),
        "-t",
        str(threads),
        "-c",
        "16384",
        "-b",
        "2048",
        "-ub",
        "512",
    ]
    out = run([*command, "-npp", "128", "-ntg", "64", "-npl", "16", *more])
    rows = re.findall(r"^\|\s*128 \|\s*64 \|\s*16 \|.*$", out, re.MULTILINE)
    return float(rows[-1].split("|")[8]) if rows else 0.0


def ours(file: Path, args: argparse.Namespace, **flags: int) -> dict[str, float]:
    """`herd bench`."""
    more = [word for key, value in flags.items() for word in (f"--{key}", str(value))]
    more += ["--isa", args.isa] if args.isa else []
    command = [
        sys.executable,
        "-m",
        "herd",
        "bench",
        str(file),
        "--threads",
        str(args.threads),
        "--repeat",
        "1",
        "--json",
        *more,
    ]
    return json.loads(run(command))


_WATCH = """
import json, os, subprocess, sys, time
begun = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
print(json.dumps([time.perf_counter() - begun if status == 0 else 0.0, usage.ru_maxrss / 1024]))
"""


def started(command: list[str]) -> tuple[float, float]:
    """Seconds that a command takes, and its peak resident memory in MB.

    A small process starts it: a child's peak begins with its parent's, and this one's is large.
    """
    spent, memory = json.loads(run([sys.executable, "-c", _WATCH, *command]))
    return spent, memory


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-cpp", default="")
    parser.add_argument("--ik-llama-cpp", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--isa", default="")
    parser.add_argument("--shape", default=DEFAULT, choices=sorted(WORK))
    parser.add_argument("--formats", default="", help="comma-separated; default: the shape's")
    parser.add_argument("--work", default=",".join(PARTS), help="comma-separated: which parts of a round")
    parser.add_argument("--files", default="", help="a folder that keeps the files of a shape between runs")
    args = parser.parse_args()
    args.work = args.work.split(",")
    if not set(args.work) <= set(PARTS):
        parser.error(f"--work: expected some of {', '.join(PARTS)}")
    args.formats = tuple(filter(None, args.formats.split(","))) or WORK[args.shape].formats
    args.llama_cpp, args.ik_llama_cpp = (
        folder and str(Path(folder).resolve()) for folder in (args.llama_cpp, args.ik_llama_cpp)
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.files or scratch)
        files = default_files(folder, args.llama_cpp) if args.shape == DEFAULT else shape_files(folder, args)
        figures: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        probes: list[native.Probe] = []
        for number in range(args.rounds):
            print(f"round {number + 1} of {args.rounds}", file=sys.stderr)
            probes.append(native.probe(args.threads, args.isa))
            measure(files, args, figures)
        show(files, figures, probes, args)


def default_files(scratch: Path, llama_cpp: str) -> dict[str, Path]:
    """The default model in each format that can be made here."""
    source = open_model("smollm2-135m")
    files = {"Q4_1": source.path, "F16": scratch / "F16.gguf"}
    convert(source, files["F16"], "gguf", "F16")
    for fmt in ("Q4_0", "Q8_0", "Q4_K_M"):
        path = scratch / f"{fmt}.gguf"
        if llama_cpp:
            run([f"{llama_cpp}/llama-quantize", str(files["F16"]), str(path), fmt, "2"])
        elif fmt != "Q4_K_M":
            run([sys.executable, "-m", "herd", "quantize", str(files["F16"]), str(path), "--format", fmt])
        if path.exists():
            files[fmt] = path
    return files


def shape_files(folder: Path, args: argparse.Namespace) -> dict[str, Path]:
    """Random files of a shape; those that are there already are taken."""
    files = {fmt: folder / f"{args.shape}-{fmt}.gguf" for fmt in args.formats}
    for fmt, path in files.items():
        if not path.exists():
            print(f"making {path.name}", file=sys.stderr)
            write(path, args.shape, fmt)
    return files


def measure(files: dict[str, Path], args: argparse.Namespace, figures: dict[str, dict[str, list[float]]]) -> None:
    """One round of everything, herd and peers in turn."""
    threads, work = args.threads, WORK[args.shape]
    peers = [
        ("llama.cpp", args.llama_cpp, ["-fa", "0,1"]),
        ("ik_llama.cpp", args.ik_llama_cpp, ["-fa", "1", "-rtr", "1"]),
    ]
    for fmt in args.formats:
        if fmt not in files or "formats" not in args.work:
            continue
        # apart, as llama-bench does: decoding begins with an empty context, not after the prompt
        decode = ours(files[fmt], args, prompt=0, generate=work.generate)
        prefill = ours(files[fmt], args, prompt=work.prompt, generate=0)
        figures[f"decode {fmt}"]["herd"].append(decode["decode_tokens_per_second"])
        figures[f"prefill {work.prompt} {fmt}"]["herd"].append(prefill["prefill_tokens_per_second"])
        for name, folder, more in peers:
            if folder:
                peer = peer_bench(
                    folder, files[fmt], threads, ["-p", str(work.prompt), "-n", str(work.generate), *more]
                )
                figures[f"decode {fmt}"][name].append(peer.get("tg", 0.0))
                figures[f"prefill {work.prompt} {fmt}"][name].append(peer.get("pp", 0.0))
    first = files[args.formats[0]]
    if work.depth and "depth" in args.work:
        at_depth(first, args, figures)
    if work.batch and "batch" in args.work:
        together(first, args, figures)
    if "start" in args.work:
        start(files["Q4_1"] if args.shape == DEFAULT else first, args, figures)


def at_depth(file: Path, args: argparse.Namespace, figures: dict[str, dict[str, list[float]]]) -> None:
    """Prompts and decoding after many other tokens."""
    work, fmt = WORK[args.shape], args.formats[0]
    decode, prefill = f"decode {fmt} at depth {work.depth}", f"prefill {work.prompt} {fmt} at depth {work.depth}"
    mine = ours(file, args, prompt=0, generate=32, depth=work.depth)
    figures[decode]["herd"].append(mine["decode_tokens_per_second"])
    mine = ours(file, args, prompt=work.prompt, generate=0, depth=work.depth)
    figures[prefill]["herd"].append(mine["prefill_tokens_per_second"])
    if args.llama_cpp:
        more = ["-p", str(work.prompt), "-n", "32", "-d", str(work.depth), "-fa", "0,1"]
        peer = peer_bench(args.llama_cpp, file, args.threads, more)
        figures[decode]["llama.cpp"].append(peer.get("tg", 0.0))
        figures[prefill]["llama.cpp"].append(peer.get("pp", 0.0))
    if args.ik_llama_cpp:
        more = ["-p", "0", "-n", "0", "-gp", f"{work.depth},32", "-fa", "1", "-rtr", "1"]
        peer = peer_bench(args.ik_llama_cpp, file, args.threads, more)
        figures[decode]["ik_llama.cpp"].append(peer.get("gp", 0.0))


def together(file: Path, args: argparse.Namespace, figures: dict[str, dict[str, list[float]]]) -> None:
    """Sixteen sequences that decode."""
    batch = WORK[args.shape].batch
    row = f"decode in all, {batch} sequences, {args.formats[0]}"
    mine = ours(file, args, prompt=128, generate=64, batch=batch)
    figures[row]["herd"].append(mine["decode_tokens_per_second"])
    if args.llama_cpp:
        figures[row]["llama.cpp"].append(batched(args.llama_cpp, file, args.threads, []))
    if args.ik_llama_cpp:
        figures[row]["ik_llama.cpp"].append(batched(args.ik_llama_cpp, file, args.threads, ["-fa", "-rtr"]))


def start(file: Path, args: argparse.Namespace, figures: dict[str, dict[str, list[float]]]) -> None:
    """Process start to the end of the first token, and memory, with room for 8,192 tokens."""
    threads = str(args.threads)
    herd = [sys.executable, "-m", "herd", "generate", "--raw", PROMPT, "--model", str(file), "--max-tokens", "1"]
    commands = {"herd": [*herd, "--temperature", "0", "--threads", threads]}
    if args.llama_cpp:
        tool = [
            f"{args.llama_cpp}/llama-completion",
            "-m",
            str(file),
            "-t",
            threads,
            "-p",
            PROMPT,
            "-n",
            "1",
            "-no-cnv",
            "-c",
            "8192",
        ]
        commands["llama.cpp"] = [*tool, "--no-warmup", "--temp", "0"]
    for name, command in list(commands.items()) * 5:  # in turn; the first after other work finds memory cold
        spent, memory = started(command)
        if spent:
            figures["start to first token (1/s)"][name].append(1 / spent)
            figures["resident memory (1/MB)"][name].append(1 / memory)


def show(
    files: dict[str, Path],
    figures: dict[str, dict[str, list[float]]],
    probes: list[native.Probe],
    args: argparse.Namespace,
) -> None:
    """Print the table in Markdown."""
    probe = native.Probe(*map(statistics.median, zip(*probes, strict=True)))
    print("files: " + ", ".join(f"{fmt} {path.stat().st_size / 2**20:.0f} MiB" for fmt, path in files.items()))
    print(f"instruction set: {args.isa or native.instruction_sets()[0]}; {args.threads} threads, {args.rounds} rounds")
    print(
        f"probe: {probe.bandwidth / 1e9:.1f} GB/s read, {probe.float_ops / 1e9:.0f} G operations/s of floats, "
        f"{probe.integer_ops / 1e9:.0f} of 8-bit numbers\n"
    )
    print(
        "| work (tokens/s) | herd | llama.cpp | ik_llama.cpp | herd / llama.cpp | herd / best | first bar | of the probe |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for row, columns in figures.items():
        value = {name: statistics.median(numbers) for name, numbers in columns.items() if numbers}
        mine, first = value["herd"], value.get("llama.cpp", 0.0)
        best = max((v for name, v in value.items() if name != "herd"), default=0.0)
        bar = BARS.get(row) if args.shape == DEFAULT else None
        verdict = "" if bar is None or not first else f"{bar[0]}x {'met' if mine / first >= bar[0] else 'MISSED'}"
        cells = [f"{value[name]:.4g}" if value.get(name) else "-" for name in ("herd", "llama.cpp", "ik_llama.cpp")]
        ratios = [f"{mine / x:.2f}x" if x else "-" for x in (first, best)]
        print(f"| {row} | {' | '.join([*cells, *ratios, verdict, share(row, mine, files, probe, args)])} |")


def share(row: str, rate: float, files: dict[str, Path], probe: native.Probe, args: argparse.Namespace) -> str:
    """How much of what the machine can do a figure on an empty context is."""
    kind, *_, fmt = row.split()
    if fmt not in files or "sequences" in row:
        return ""
    if kind == "decode":
        model = open_model(str(files[fmt]))
        unread = 0 if model.config.tied else model.tensors["tok_embeddings.weight"].nbytes
        return f"{rate * (model.weight_bytes - unread) / probe.bandwidth:.0%} of bandwidth"
    peak = probe.float_ops if fmt in ("F16", "BF16") else probe.integer_ops
    return f"{2 * rate * SHAPES[args.shape].matmul_parameters / peak:.0%} of multiply-adds"


if __name__ == "__main__":
    main()
