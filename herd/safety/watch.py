"""One answer under a Shield, from the question to the last word. Pure bookkeeping: a driver (`herd.safety.guarded`) does the waiting.

`clean` the conversation, `question` while the prompt is computed, then `take` each piece of the answer; where that gives a look, make it and
`settle` it; `ready` gives what may be shown. `tool` runs a tool between its own checks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec

from herd.engine.agent import Part
from herd.safety.checks import WITHHELD
from herd.safety.code_shield import Stream, scan
from herd.safety.look import Fired, Job, Look
from herd.safety.policy import Check
from herd.text.messages import Message, ToolCall

if TYPE_CHECKING:
    from herd.safety.shield import Shield

_LOOK_BACK = 4_000  # characters of an answer that a look reads again
_LONG_LINE = 400  # characters after which a line is judged though it has not ended


@dataclass
class _Answer:
    """One reply as it comes."""

    text: str = ""
    fed: int = 0  # characters that Code Shield has seen
    line: int = 0  # characters since the last look
    pieces: int = 0  # since the last look
    held: list[Part] = field(default_factory=list)
    free: list[Part] = field(default_factory=list)
    calls: list[ToolCall] = field(default_factory=list)
    last: bool = False
    fenced: bool = False
    stopped: bool = False
    shown: bool = False
    code: "Stream | None" = None


class Watch:
    """What is known of one request. `ask` decides about a call that may do harm; without it such a call is refused."""

    def __init__(
        self,
        shield: "Shield",
        messages: Sequence[Message],
        *,
        prefill: str = "",
        ask: Callable[[ToolCall, str], bool] | None = None,
    ) -> None:
        self.shield, self.policy, self.checks = shield, shield.policy, shield.checks
        self.fired: list[Fired] = []
        self.about: dict[str, str] = {}  # what the audit log says of the request
        self._messages, self._ask, self._prefill = list(messages), ask, prefill
        self._answers: dict[int, _Answer] = {}
        self._broken: set[str] = set()  # checks that failed: told once, and not asked again
        self._told = False
        out, policy = self.policy.output, self.policy
        self.asks = any(c.action != "off" for c in (policy.input.prompt_guard, policy.input.hazards, policy.input.llama_guard, policy.input.patterns))  # fmt: skip
        self.waits = "block" in {policy.input.prompt_guard.action, policy.input.hazards.action, policy.input.llama_guard.action, policy.input.patterns.action}  # fmt: skip
        self._holds_text = bool({"block", "redact"} & {out.code_shield.action, out.hazards.action, out.llama_guard.action, out.patterns.action})  # fmt: skip
        self._holds_calls = policy.calls.shell.action in ("ask", "block")
        self._by_line = out.patterns.action in ("redact", "block")

    # The question.

    def clean(self) -> list[Message]:
        """The conversation as the model may see it: results of tools without what was withheld, patterns redacted. It takes a moment."""
        redact = self.policy.input.patterns.action == "redact"
        found = []
        for message in self._messages:
            text = message.content
            if message.role == "ipython":
                text = self._result(text)
            elif message.role == "user" and redact:
                text = self._redacted(text, "input")
            found.append(message if text == message.content else msgspec.structs.replace(message, content=text))
        self._messages = found
        return found

    def question(self) -> Look:
        """The checks of what the user wrote, in every turn: earlier ones came from the client too."""
        checks, policy = self.checks, self.policy.input
        texts = [m.content for m in self._messages if m.role == "user" and m.content]

        def each(work: Callable[[str], list[Fired]]) -> Callable[[], list[Fired]]:
            return lambda: next((found for text in reversed(texts) if (found := work(text))), [])

        jobs: list[tuple[str, Check, Callable[[], Sequence[Fired]]]] = [
            ("prompt_guard", policy.prompt_guard, each(lambda t: checks.prompt(t, "input", policy.prompt_guard))),
            ("hazards", policy.hazards, each(lambda t: checks.hazards(t, "input", policy.hazards))),
            ("llama_guard", policy.llama_guard, lambda: checks.llama_guard(self._messages, "input", policy.llama_guard)),
        ]  # fmt: skip
        if policy.patterns.action != "redact":
            jobs.append(("patterns", policy.patterns, each(lambda t: checks.patterns(t, "input", policy.patterns))))
        return self._look([Job(name, "input", self._failed(check.action), work) for name, check, work in jobs if check.action != "off"])  # fmt: skip

    def _failed(self, action: str) -> str:
        """What a check that fails does: one that only annotates protects nothing, and stops nothing."""
        return "block" if self.policy.fail == "closed" and action != "annotate" else "annotate"

    def _look(self, jobs: Sequence[Job]) -> Look:
        return Look([job for job in jobs if f"{job.where}.{job.name}" not in self._broken], self.policy.timeout)

    def settle(self, found: Sequence[Fired], index: int | None = None) -> None:
        """Take what a look found; for the answer `index`, or for the question."""
        for one in found:
            if one.failure:
                self._broken.add(f"{one.where}.{one.check}")
            one = msgspec.structs.replace(one, index=index or 0)
            if not any(_same(one, told) for told in self.fired):
                self.fired.append(one)
                self.shield.tell(one)
        blocked = any(one.action == "block" for one in found)
        if index is None:
            self.refused = self.refused or blocked
        else:
            self._settled(self._answers[index], blocked, any(one.action == "redact" for one in found))

    refused = False

    # The answer.

    def take(self, part: Part) -> Look | None:
        """The next piece of a reply; a look where one is due before anything more is shown."""
        answer = self._answers.setdefault(part.index, _Answer(self._prefill))
        if answer.stopped:
            return None
        answer.last = part.reason is not None
        answer.text += part.text
        answer.pieces += bool(part.text)
        calling = bool(part.opens or part.arguments or (part.call is not None and not part.ours))
        if part.call is not None and not part.ours:
            answer.calls.append(part.call)
        if self._holds_text or (calling and self._holds_calls) or (answer.held and not part.ours):
            answer.held.append(part)
        else:
            answer.free.append(part)
        answer.line += len(part.text)
        due = answer.pieces >= self.policy.every or "\n" in part.text or answer.line > _LONG_LINE
        if not (answer.last or answer.calls or (due and self._holds_text)):
            return None
        answer.pieces = answer.line = 0
        return self._output(answer)

    def _output(self, answer: _Answer) -> Look:
        """The checks of what has come of an answer."""
        out, checks = self.policy.output, self.checks
        near = answer.text if answer.last else answer.text[-_LOOK_BACK:]
        dialog = [*self._messages, Message("assistant", answer.text)]
        calls, answer.calls = answer.calls, []
        jobs = []
        due = {"block", "redact"} | ({"annotate"} if answer.last else set())  # what only annotates has time
        if out.code_shield.action in due:
            fresh, answer.fed = answer.text[answer.fed :], len(answer.text)
            jobs.append(Job("code_shield", "output", self._failed(out.code_shield.action), partial(self._code, answer, fresh)))  # fmt: skip
        if answer.text.strip():
            unshown = "".join(part.text for part in answer.held) if self._by_line else answer.text
            for name, check, work in (
                ("hazards", out.hazards, lambda: checks.hazards(near, "output", out.hazards)),
                ("llama_guard", out.llama_guard, lambda: checks.llama_guard(dialog, "output", out.llama_guard)),
                ("patterns", out.patterns, lambda: checks.patterns(unshown, "output", out.patterns)),
            ):
                if check.action in due:
                    jobs.append(Job(name, "output", self._failed(check.action), work))
        if calls and self.policy.calls.shell.action != "off":
            failed = self._failed(self.policy.calls.shell.action)
            jobs.append(Job("shell", "call", failed, lambda: [self._asked(call, one) for call in calls for one in checks.call(call)]))  # fmt: skip
        return self._look(jobs)

    def _code(self, answer: _Answer, fresh: str) -> list[Fired]:
        """Insecure code in what is new; fence by fence, and in an answer without fences anywhere."""
        if answer.code is None:
            answer.code = self.checks.stream()
        found = answer.code.feed(fresh) + (answer.code.close() if answer.last else [])
        answer.fenced |= answer.code.inside
        if not answer.fenced and not found:
            found = scan(answer.text[-_LOOK_BACK:], minimum=self.policy.output.code_shield.minimum, rules=answer.code.rules)  # fmt: skip
        return self.checks.code(found)

    def _asked(self, call: ToolCall, found: Fired) -> Fired:
        """A call that is to be asked about: what the user says, where there is one."""
        if found.action != "ask":
            return found
        allowed = self._ask is not None and self._ask(call, found.detail)
        return msgspec.structs.replace(found, action="annotate" if allowed else "block")

    def _settled(self, answer: _Answer, blocked: bool, redact: bool) -> None:
        """After a look: drop what is held, or let it go, all but a line that is not complete where lines are judged."""
        if blocked:
            answer.held.clear()
            answer.stopped = True
            return
        go, answer.held = answer.held, []
        at = len(go)
        if self._holds_calls:
            at = _after_calls(go)  # a call is shown when it is whole; one that was cut off was not judged
        inside = answer.code is not None and answer.code.inside and self.policy.output.code_shield.action == "block"
        if not answer.last and (inside or self._by_line):
            at = min(at, _after_line(go, 1 << 30 if inside else _LONG_LINE))
        rest = [p for p in go[at:] if not answer.last or not (p.opens or p.arguments)]
        go, answer.held = (go[:at] + rest, []) if answer.last else (go[:at], rest)
        if redact and go:
            text = self.checks.redacted("".join(p.text for p in go))
            rest = [msgspec.structs.replace(p, text="", logprobs=()) for p in go]
            go = [Part(go[0].index, text), *(p for p in rest if p != Part(p.index))]
        answer.free += go

    def ready(self, index: int) -> Iterator[Part]:
        """What may be shown of a reply."""
        answer = self._answers.get(index)
        if answer is not None:
            go, answer.free = answer.free, []
            answer.shown |= any(part.text for part in go)
            yield from go

    def stopped(self, index: int) -> bool:
        """Whether a reply was stopped, or the question refused."""
        return self.refused or (index in self._answers and self._answers[index].stopped)

    def ending(self, index: int, usage: Any) -> Part:
        """The last part of a reply that was stopped: what the user is told, in their language."""
        users = [m.content for m in self._messages if m.role == "user"]
        shown = not self.refused and index in self._answers and self._answers[index].shown
        text = self.shield.refusal(users[-1] if users else "", "answer" if shown else "question")
        return Part(index, f"\n\n{text}" if shown else text, reason="content_filter", usage=usage)

    # Tools.

    def tool(self, call: ToolCall, run: Callable[[], str]) -> str:
        """What a tool gives, checked before it runs and after; it takes the caller's thread."""
        shell = self.policy.calls.shell.action
        if shell != "off":
            job = Job("shell", "call", self._failed(shell), lambda: self.checks.call(call))
            found = [self._asked(call, one) for one in self._look([job]).wait()]
            self._note(found)
            if any(one.action == "block" for one in found):
                return "error: the safety policy refused this call"
        return self._result(run())

    def _note(self, found: Sequence[Fired]) -> None:
        refused, self.refused = self.refused, False
        self.settle(found)
        self.refused = refused

    def _result(self, text: str) -> str:
        """A third party's text as the model may see it."""
        policy = self.policy.results
        guard, patterns = policy.prompt_guard, policy.patterns
        jobs = []
        if guard.action != "off":
            jobs.append(Job("prompt_guard", "result", self._failed(guard.action), lambda: self.checks.prompt(text, "result", guard)))  # fmt: skip
        if patterns.action != "off":
            jobs.append(Job("patterns", "result", self._failed(patterns.action), lambda: self.checks.patterns(text, "result", patterns)))  # fmt: skip
        if not jobs or not text.strip():
            return text
        found = self._look(jobs).wait()
        self._note(found)
        if any(one.action == "block" for one in found):
            return WITHHELD
        for one in found:
            if one.action == "redact" and one.check == "prompt_guard":
                text = self.checks.without_orders(text, guard)
            elif one.action == "redact":
                text = self.checks.redacted(text)
        return text

    def _redacted(self, text: str, where: Any) -> str:
        check = self.policy.input.patterns
        job = Job("patterns", where, self._failed(check.action), lambda: self.checks.patterns(text, where, check))
        found = self._look([job]).wait()
        self.settle(found)
        return self.checks.redacted(text) if any(not one.failure for one in found) else text

    # What is told of it.

    def report(self) -> dict[str, Any] | None:
        """What fired, for the response's `safety` field; None when nothing did."""
        if not self.fired:
            return None
        order = ("annotate", "redact", "block")
        worst = max((one.action for one in self.fired), key=lambda a: order.index(a) if a in order else 0)
        return {"action": worst, "fired": [msgspec.to_builtins(one) for one in self.fired]}

    def close(self) -> None:
        """The request is over: into the audit log, once."""
        if not self._told:
            self._told = True
            self.shield.record(self, self._messages)


def _after_line(parts: Sequence[Part], longest: int) -> int:
    """How many parts lie before a line that has not ended; all where it has grown too long to wait for."""
    tail = 0
    for at in range(len(parts) - 1, -1, -1):
        text = parts[at].text
        if "\n" in text:
            return at + 1 if text.endswith("\n") else at
        tail += len(text)
        if tail > longest:
            return len(parts)
    return 0


def _after_calls(parts: Sequence[Part]) -> int:
    """How many parts lie before a call that is not whole yet."""
    whole = max((i for i, part in enumerate(parts) if part.call is not None), default=-1)
    return next((i for i, p in enumerate(parts) if i > whole and (p.opens or p.arguments)), len(parts))


def _same(one: Fired, other: Fired) -> bool:
    return (one.where, one.check, one.action, one.detail, one.failure, one.index) == (
        other.where, other.check, other.action, other.detail, other.failure, other.index,
    )  # fmt: skip
