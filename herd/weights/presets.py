"""How to talk with a model out of the box: the system prompt and sampling that were measured to suit it."""

import msgspec

from herd.family import SHAPES
from herd.weights.checkpoint import Checkpoint


class Preset(msgspec.Struct, frozen=True):
    """Defaults of a chat; `note` is told once to whoever chats with the model for the first time."""

    system: str = ""
    temperature: float = 0.6
    top_p: float = 0.9
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    note: str = ""

    def params(self) -> dict[str, float]:
        """Its sampling, by the names of SamplingParams."""
        names = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")
        return {name: getattr(self, name) for name in names}


# Meta's generation_config.json for the Llama 3 instruct models says temperature 0.6, top_p 0.9.
_LLAMA = Preset()
# Chosen over 60 plain questions with benchmarks/preset.py; figures in docs/reference/benchmarks.md.
_SMOLLM = Preset(
    system="You are a helpful assistant. Answer briefly and correctly.",
    temperature=0.1,
    top_p=0.9,
    note=(
        "SmolLM2-135M is a small model to start with: quick, friendly, often wrong. For a better one, try "
        "`herd pull hf:HuggingFaceTB/SmolLM2-1.7B-Instruct` or, with access from Meta, "
        "`herd pull hf:meta-llama/Llama-3.1-8B-Instruct`, then `herd chat NAME`."
    ),
)


def preset_for(checkpoint: Checkpoint) -> Preset:
    """The preset that was measured for a model's shape, or else the sampling that its files recommend, or else Meta's."""
    config = checkpoint.config
    if config.vocab == SHAPES["smollm2-135m"].vocab:
        small = config.dim == SHAPES["smollm2-135m"].dim
        return _SMOLLM if small else msgspec.structs.replace(_SMOLLM, note="")
    said = checkpoint.sampling
    return msgspec.structs.replace(_LLAMA, **{"top_p": 1.0 if "temperature" in said else _LLAMA.top_p, **said})
