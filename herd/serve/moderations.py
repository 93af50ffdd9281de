"""POST /v1/moderations, as OpenAI documents it: the hazard classifier and the prompt guard, or the policy's Llama Guard."""

import secrets
from typing import Any

from herd.errors import RequestError
from herd.safety import hazards, llama_guard, prompt_guard
from herd.safety.policy import Check
from herd.safety.shield import Shield
from herd.serve.schema import ModerationsRequest
from herd.text.messages import Message

MAX_INPUTS = 256
# OpenAI's categories, and those of Llama Guard that say the same; the others of OpenAI's are finer than what herd can tell.
_CATEGORIES: dict[str, tuple[str, ...]] = {
    "harassment": (), "harassment/threatening": (), "hate": ("S10",), "hate/threatening": (), "illicit": ("S2",),
    "illicit/violent": ("S1", "S9"), "self-harm": ("S11",), "self-harm/intent": (), "self-harm/instructions": (),
    "sexual": ("S12", "S3"), "sexual/minors": ("S4",), "violence": ("S1",), "violence/graphic": (),
}  # fmt: skip


def texts_of(body: ModerationsRequest) -> list[str]:
    """The texts to judge; RequestError for what is no text."""
    given = [body.input] if isinstance(body.input, str) else body.input
    texts = [one if isinstance(one, str) else one.text for one in given]
    for i, text in enumerate(texts):
        if text is None:
            raise RequestError(f"input[{i}] is no text; this server judges text only", param="input")
    if not 1 <= len(texts) <= MAX_INPUTS:
        raise RequestError(f"input has {len(texts)} texts; expected 1 to {MAX_INPUTS}", param="input")
    return [text for text in texts if text is not None]


def moderated(shield: Shield | None, texts: list[str]) -> dict[str, Any]:
    """The answer. It takes processor time."""
    model = "herd-hazards"
    if shield is not None and shield.policy.uses("llama_guard"):
        model = shield.policy.llama_guard.model
        judge = shield.checks
        limit = shield.policy.input.llama_guard.threshold or 0.5
        found = [judge.llama_guard([Message("user", text)], "input", Check(threshold=1e-9)) for text in texts]
        scores = [
            {"unsafe": (one[0].score or 0.0) if one else 0.0, **{c: one[0].score or 0.0 for c in (one[0].detail.split(",") if one else ()) if c}}
            for one in found
        ]  # fmt: skip
    else:
        limit = hazards.STRICTNESS["medium"]
        scores = hazards.score(texts)
    attacks = prompt_guard.score(texts)
    return {
        "id": f"modr-{secrets.token_hex(12)}", "model": model,
        "results": [_result(one, limit, 1 - attack.benign) for one, attack in zip(scores, attacks, strict=True)],
    }  # fmt: skip


def _result(scores: dict[str, float], limit: float, attack: float) -> dict[str, Any]:
    """One text's. The scores by Llama Guard's names, and the prompt guard's, stand beside OpenAI's in `herd`."""
    flagged = scores["unsafe"] >= limit
    mapped = {name: max((scores.get(c, 0.0) for c in ours), default=0.0) for name, ours in _CATEGORIES.items()}
    return {
        "flagged": flagged,
        "categories": {name: flagged and score >= 0.5 for name, score in mapped.items()},
        "category_scores": mapped,
        "category_applied_input_types": {name: ["text"] if _CATEGORIES[name] else [] for name in mapped},
        "herd": {
            "unsafe": scores["unsafe"], "prompt_attack": attack,
            "hazards": {c: scores[c] for c in llama_guard.CATEGORIES if c in scores},
        },
    }  # fmt: skip
