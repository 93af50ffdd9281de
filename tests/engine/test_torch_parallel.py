"""Two processes under torchrun give the tokens that one gives, held to grammars too."""

import json
import os
import re
import socket
import subprocess
import sys

SCRIPT = """
import json, os, sys, time, torch.distributed as dist
from herd.engine.backends.torch import TorchBackend
from herd.engine.engine import Engine
from herd.engine.grammar import Grammars, regex_grammar
from herd.engine.request import Request, SamplingParams
from herd.family import shape
from tests.models import random_checkpoint
if int(os.environ.get("WORLD_SIZE", "1")) > 1:
    dist.init_process_group("gloo")
checkpoint = random_checkpoint(shape("tiny"))
backend = TorchBackend.load(checkpoint, threads=1, cache_tokens=2048)
if backend.rank:
    backend.follow()
else:
    with Engine(backend, checkpoint.tokenizer) as engine:
        requests = [Request(prompt=list(range(i + 1, 40 + i)), id=str(i),
                            params=SamplingParams(temperature=0.7 * (i % 2), seed=i, max_tokens=20, ignore_eos=True))
                    for i in range(4)]
        out = {}
        for event in engine.generate(requests):
            out.setdefault(event.request, []).extend(event.tokens)
        grammars = Grammars(checkpoint.tokenizer, checkpoint.config.vocab)
        held = [Request(prompt=[1, 2, 3], id=f"held {t}", constraint=grammars.constraint(regex_grammar("(yes|no){4}")),
                        params=SamplingParams(temperature=t, seed=7, max_tokens=30, logprobs=2)) for t in (0, 1)]
        for completion in engine.run(held):
            out[completion.request.id] = completion.text
            assert len(completion.logprobs) == len(completion.tokens)
        score = engine.complete(Request(prompt=list(range(60)), score_from=40, params=SamplingParams(max_tokens=0)))
        out["score"] = [round(one.logprob, 3) for one in score.prompt_logprobs]
        grammars.close()
    print(json.dumps(out, sort_keys=True))
if dist.is_initialized():  # gloo now and then aborts a process whose peer tears down first: let both be done, then leave
    sys.stdout.flush()
    time.sleep(1)
    os._exit(0)
"""


def test_two_processes_equal_one(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    one = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, check=True, env=environment, timeout=120
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc-per-node=2",
        "--master-addr=127.0.0.1",
        f"--master-port={port}",
    ]
    two = subprocess.run([*launch, script], capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert two.returncode == 0, two.stderr[-2000:]
    found = json.loads(one.stdout)
    assert len(found) == 7
    assert all(re.fullmatch("(yes|no){4}", found[f"held {t}"]) for t in (0, 1))
    assert len(found["score"]) == 20
    assert two.stdout == one.stdout
