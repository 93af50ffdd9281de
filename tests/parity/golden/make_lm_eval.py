"""Log-likelihoods of lm-evaluation-harness 0.4.13's HF class (`make peer-lm-eval`) for questions of our tasks on SmolLM2-135M.

herd convert smollm2-135m /tmp/smollm2 --to hf --format F32
.venv/peers/lm-eval/bin/python tests/parity/golden/make_lm_eval.py /tmp/smollm2
"""

import json
import sys
from pathlib import Path

from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))

from herd.evals.prompts import item  # noqa: E402
from herd.evals.source import Places, rows_of  # noqa: E402
from herd.evals.task import all_tasks  # noqa: E402

TASKS = {"small_arc": 12, "small_mmlu": 12}


def main(model: str) -> None:
    """Write lm_eval.json."""
    harness = HFLM(pretrained=model, dtype="float32", device="cpu", batch_size=1)
    golden = {}
    for name, count in TASKS.items():
        task = all_tasks()[name]
        items = [item(task, row, [], chat=False) for row in rows_of(task, Places())[:count]]
        pairs = [(one.contexts[0], text) for one in items for text in one.continuations]
        requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
        values = iter(harness.loglikelihood(requests, disable_tqdm=True))
        golden[name] = {one.id: [next(values)[0] for _ in one.continuations] for one in items}
    task = all_tasks()["small_text"]
    pages = {row["id"]: row["page"] for row in rows_of(task, Places())[:2]}
    requests = [Instance("loglikelihood_rolling", {}, (page,), i) for i, page in enumerate(pages.values())]
    golden["small_text"] = dict(zip(pages, harness.loglikelihood_rolling(requests, disable_tqdm=True), strict=True))
    (HERE / "lm_eval.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
