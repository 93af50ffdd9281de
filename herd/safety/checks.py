"""The checks of a Shield: each takes text and gives what fired, by the policy. Scores of texts seen before are remembered."""

import re
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from herd.safety import hazards, llama_guard, prompt_guard
from herd.safety.code_shield import Finding, Stream, judge_call
from herd.safety.look import Fired, Where
from herd.safety.models.features import sentences
from herd.safety.policy import Check, Policy
from herd.text.messages import Message, ToolCall

if TYPE_CHECKING:
    from herd.engine.engine import Engine
    from herd.text.chat_format import ChatFormat

_REMEMBERED = 4096  # texts
_PIECE = 150_000  # characters of a third party's text that are looked at together
WITHHELD = "[withheld: the text gives orders to an assistant]"


class Checks:
    """The checks of one policy; requests share them. `guard` is the engine of the Llama Guard checkpoint, `chat` its format."""

    def __init__(self, policy: Policy, guard: "Engine | None" = None, chat: "ChatFormat | None" = None) -> None:
        self.policy, self._guard, self._chat = policy, guard, chat
        self.prompts: prompt_guard.PromptGuard = prompt_guard
        if policy.prompt_guard:
            self.prompts = prompt_guard.open_folder(Path(policy.prompt_guard))
        self._patterns = [(one.name, re.compile(one.pattern)) for one in policy.patterns]
        self._seen: OrderedDict[tuple[str, str], Any] = OrderedDict()
        self._lock = threading.Lock()

    def prompt(self, text: str, where: Where, check: Check) -> list[Fired]:
        """Injections and jailbreaks, by the head of the place."""
        third = where == "result"
        pieces = [text[i : i + _PIECE] for i in range(0, len(text), _PIECE)] if third else [text]
        guard = self.prompts
        scores = [self._once("third" if third else "user", piece, lambda p: guard.score([p], third)[0]) for piece in pieces]  # fmt: skip
        worst = max(scores, key=lambda s: guard.hostile(s, third), default=None)
        if worst is None or guard.hostile(worst, third) < (check.threshold or guard.limit(third)):
            return []
        kind = "jailbreak" if worst.jailbreak > worst.injection else "injection"
        return [Fired(where=where, check="prompt_guard", action=check.action, score=round(guard.hostile(worst, third), 4), detail=kind)]  # fmt: skip

    def hazards(self, text: str, where: Where, check: Check) -> list[Fired]:
        """Harmful content, by the embedded classifier."""
        scores = self._once("hazards", text, lambda t: hazards.score([t])[0])
        if scores["unsafe"] < (check.threshold or hazards.STRICTNESS["medium"]):
            return []
        likeliest = max((name for name in scores if name != "unsafe"), key=lambda name: float(scores[name]))
        return [Fired(where=where, check="hazards", action=check.action, score=round(scores["unsafe"], 4), detail=likeliest)]  # fmt: skip

    def llama_guard(self, dialog: Sequence[Message], where: Where, check: Check) -> list[Fired]:
        """Harmful content, by the policy's Llama Guard checkpoint; the last message is judged."""
        if self._guard is None:
            raise RuntimeError("no Llama Guard model is loaded")
        model = self.policy.llama_guard
        (found,) = llama_guard.judge(
            [alternating(dialog)], self._guard, model.categories or llama_guard.CATEGORIES, exclude=model.exclude,
            threshold=check.threshold or 0.5, small=model.small, chat=self._chat,
        )  # fmt: skip
        if not found.flagged:
            return []
        named = ",".join(found.categories)
        return [Fired(where=where, check="llama_guard", action=check.action, score=round(found.unsafe, 4), detail=named)]  # fmt: skip

    def patterns(self, text: str, where: Where, check: Check) -> list[Fired]:
        """The policy's own expressions."""
        found = [name for name, expression in self._patterns if any(map(expression.search, text.split("\n")))]
        return [Fired(where=where, check="patterns", action=check.action, detail=name) for name in found]

    def redacted(self, text: str) -> str:
        """The text with `[name]` in place of what the policy's expressions match."""
        for name, expression in self._patterns:
            text = "\n".join(expression.sub(f"[{name}]", line) for line in text.split("\n"))
        return text

    def without_orders(self, text: str, check: Check) -> str:
        """A third party's text without the sentences that fire."""
        for sentence in sentences(text):
            if self.prompt(sentence, "result", check):
                text = text.replace(sentence, WITHHELD)
        return WITHHELD if self.prompt(text.replace(WITHHELD, ""), "result", check) else text

    def call(self, call: ToolCall) -> list[Fired]:
        """What a call would do; `ask` where that is the policy's and nothing worse is seen."""
        verdict = judge_call(call.name, call.arguments)
        check = self.policy.calls.shell
        if verdict.action == "allow":
            return []
        if check.action == "annotate" or (check.action == "block" and verdict.action == "ask"):
            action = "annotate"
        else:
            action = verdict.action
        return [Fired(where="call", check="shell", action=action, detail=f"{call.name}: {verdict.reason}")]

    def stream(self) -> Stream:
        """What looks for insecure code in one answer."""
        check = self.policy.output.code_shield
        return Stream(minimum=check.minimum, rules=tuple(map(Path, check.rules)))

    def code(self, findings: Sequence[Finding]) -> list[Fired]:
        """Findings of Code Shield in an answer."""
        action = self.policy.output.code_shield.action
        return [
            Fired(where="output", check="code_shield", action=action, detail=f"line {f.line}: {f.cwe} {f.rule} ({f.severity})")
            for f in findings
        ]  # fmt: skip

    def _once(self, kind: str, text: str, score: Callable[[str], Any]) -> Any:
        """A score, remembered: every turn of a conversation sends all that was said before."""
        key = (kind, text)
        with self._lock:
            if key in self._seen:
                self._seen.move_to_end(key)
                return self._seen[key]
        found = score(text)
        if len(text) <= 20_000:
            with self._lock:
                self._seen[key] = found
                while len(self._seen) > _REMEMBERED:
                    self._seen.popitem(last=False)
        return found


def alternating(dialog: Sequence[Message]) -> list[Message]:
    """A conversation as Llama Guard reads it: turns of one side that follow each other are one, the user's comes first."""
    turns: list[Message] = []
    for message in dialog:
        if message.role == "system":
            continue
        role: Literal["user", "assistant"] = "assistant" if message.role == "assistant" else "user"
        if turns and turns[-1].role == role:
            before = turns.pop()
            text = "\n\n".join(part for part in (before.content, message.content) if part)
            turns.append(Message(role, text, (*before.tool_calls, *message.tool_calls)))
        else:
            if not turns and role == "assistant":
                turns.append(Message("user", ""))
            turns.append(Message(role, message.content, tuple(message.tool_calls)))
    return turns
