"""The Shield: checks of what users ask, models answer, tools are called with and give back, by a policy; with an audit log.

    with Shield(read_policy("block")) as shield:
        for part in shield.reply(agent, agent.turns(messages, params)): ...

The server gives each request a `watch` of its own. Nothing here calls anything outside the machine.
"""

import sys
import threading
import time
import tomllib
from collections.abc import Callable, Generator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from herd import chain
from herd.engine.agent import Agent, Part, Turns
from herd.errors import ConfigError, in_one_line
from herd.safety.checks import Checks
from herd.safety.guarded import guarded
from herd.safety.look import Fired
from herd.safety.policy import Policy
from herd.safety.watch import Watch
from herd.text.language import language
from herd.text.messages import Message, ToolCall

if TYPE_CHECKING:
    from herd.engine.engine import Engine
    from herd.text.chat_format import ChatFormat

LANGUAGES = ("en", "de", "fr", "it", "pt", "es", "hi", "th")


class Shield:
    """A policy at work. `guard` is the engine of its Llama Guard checkpoint, closed with the Shield; `say` tells an operator what
    fails. `on_fired` is called for each finding.
    """

    def __init__(
        self,
        policy: Policy,
        guard: "Engine | None" = None,
        chat: "ChatFormat | None" = None,
        *,
        say: Callable[[str], None] = lambda line: print(f"herd: {line}", file=sys.stderr, flush=True),
        on_fired: Callable[[Fired], None] = lambda _: None,
    ) -> None:
        if policy.uses("llama_guard") and guard is None:
            raise ConfigError("the policy has a llama_guard check, and its model was not opened")
        self.policy, self.checks = policy, Checks(policy, guard, chat)
        self.on_fired = on_fired
        self._guard, self._say = guard, say
        self._said: dict[str, float] = {}
        self._lock = threading.Lock()
        if policy.audit.path and not Path(policy.audit.path).parent.is_dir():
            raise ConfigError(f"audit.path is {policy.audit.path}; its folder does not exist")

    def __enter__(self) -> "Shield":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the guard's engine."""
        if self._guard is not None:
            self._guard.close()

    def looks(self, text: str, third_party: bool) -> float:
        """How hostile a text looks to the prompt guard, 0 to 1: what an attacker knows who knows the Shield."""
        guard = self.checks.prompts
        return guard.hostile(guard.score([text], third_party)[0], third_party)

    def warm_up(self) -> None:
        """Make every check of a question once: what does not work is told before anyone asks."""
        watch = self.watch([Message("user", "Hello.")])
        watch.settle(watch.question().wait())

    def watch(
        self, messages: Sequence[Message], *, prefill: str = "", ask: Callable[[ToolCall, str], bool] | None = None
    ) -> Watch:
        """A request begins."""
        return Watch(self, messages, prefill=prefill, ask=ask)

    def reply(self, agent: Agent, turns: Turns, ask: Callable[[ToolCall, str], bool] | None = None) -> Generator[Part]:
        """`agent.reply` under the Shield, on the caller's thread."""
        watch = self.watch(turns.messages, ask=ask)
        turns.messages = watch.clean()
        try:
            run = lambda call: watch.tool(call, lambda: agent.box.run(call, turns.seconds_left()))  # noqa: E731
            yield from guarded(watch, agent.reply(turns, run), turns.so_far, turns.replies)
        finally:
            watch.close()

    def refusal(self, text: str, kind: str) -> str:
        """What is said in place of an answer to `text`: "question", or in place of the rest of it: "answer"."""
        spoken = self.policy.language
        spoken = (language(text) or "en") if spoken == "auto" else spoken
        own = self.policy.refusals
        return own.get(spoken) or own.get("en") or _refusals()[kind].get(spoken, _refusals()[kind]["en"])

    def tell(self, fired: Fired) -> None:
        """A check fired, or failed: the operator is told of each failing check once a minute."""
        self.on_fired(fired)
        if fired.failure:
            key, now = f"{fired.where}.{fired.check}", time.monotonic()
            if now - self._said.get(key, -60.0) >= 60:
                self._said[key] = now
                meaning = "answers are refused" if fired.action == "block" else "answers go on without it"
                self._say(f"the safety check {key} fails ({fired.failure}); {meaning}")

    def record(self, watch: Watch, messages: Sequence[Message]) -> None:
        """A request's entry in the audit log."""
        audit = self.policy.audit
        if not audit.path or not (watch.fired or audit.all):
            return
        entry = {"time": round(time.time(), 3), **watch.about, **(watch.report() or {"action": "none"})}
        if audit.text:
            entry["messages"] = [{"role": m.role, "content": m.content} for m in messages]
        try:
            with self._lock:
                chain.add(Path(audit.path), entry)
        except Exception as error:  # the answer has been given; what is lost is said
            self._say(f"the audit log {audit.path} misses an entry: {in_one_line(error) or repr(error)}")


@cache
def _refusals() -> dict[str, dict[str, str]]:
    return tomllib.loads((Path(__file__).parent / "refusals.toml").read_text("utf-8"))
