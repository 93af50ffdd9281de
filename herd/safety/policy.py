"""What a Shield is told, as TOML: which checks look where, their thresholds, what they do, and what a failure means.

Two policies come with the package: `annotate` tells what it sees and stops nothing, `block` stops.
"""

import re
from pathlib import Path
from typing import Any, Literal

import msgspec

from herd.config import read
from herd.errors import ConfigError
from herd.safety.code_shield.rules import load

Action = Literal["off", "annotate", "ask", "redact", "block"]
POLICIES = ("annotate", "block")
_HERE = Path(__file__).parent / "policies"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One check: what it does when it fires. `threshold` is a probability; None is the check's own."""

    action: Action = "off"
    threshold: float | None = None


class CodeCheck(msgspec.Struct, frozen=True, kw_only=True):
    """Code Shield: the least severity that counts, and files of further rules."""

    action: Action = "off"
    minimum: Literal["low", "medium", "high"] = "high"
    rules: tuple[str, ...] = ()


class InputChecks(msgspec.Struct, frozen=True, kw_only=True):
    """What users write."""

    prompt_guard: Check = Check()
    hazards: Check = Check()
    llama_guard: Check = Check()
    patterns: Check = Check()


class OutputChecks(msgspec.Struct, frozen=True, kw_only=True):
    """What the model answers."""

    code_shield: CodeCheck = CodeCheck()
    hazards: Check = Check()
    llama_guard: Check = Check()
    patterns: Check = Check()


class CallChecks(msgspec.Struct, frozen=True, kw_only=True):
    """What the model calls tools with: shell commands, paths and addresses in the arguments.

    `block` refuses what would do harm; `ask` also asks about what may, and where nobody can be asked refuses it.
    """

    shell: Check = Check()


class ResultChecks(msgspec.Struct, frozen=True, kw_only=True):
    """What tools give: `block` withholds a result from the model, `redact` the sentences that fired."""

    prompt_guard: Check = Check()
    patterns: Check = Check()


class Pattern(msgspec.Struct, frozen=True, kw_only=True):
    """A regular expression (Python's) for the `patterns` checks; it is looked for within lines."""

    name: str
    pattern: str


class GuardModel(msgspec.Struct, frozen=True, kw_only=True):
    """The Llama Guard checkpoint of the `llama_guard` checks. `categories` replace Meta's where they are given."""

    model: str = ""
    small: bool = False
    categories: dict[str, str] = {}
    exclude: tuple[str, ...] = ()


class Audit(msgspec.Struct, frozen=True, kw_only=True):
    """A hash-chained log of what fired; of `all` answers if asked, with the `text` of what was asked if asked."""

    path: str = ""
    all: bool = False
    text: bool = False


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. `fail` is what a check that fails means; `timeout` seconds that the checks of one look may take together;
    `every` the tokens between two looks at an answer; `refusals` texts by language in place of herd's own. `prompt_guard` is the folder
    of a Prompt Guard of Meta's, in place of the embedded one.
    """

    fail: Literal["closed", "open"] = "closed"
    timeout: float = 5.0
    every: int = 24
    input: InputChecks = InputChecks()
    output: OutputChecks = OutputChecks()
    calls: CallChecks = CallChecks()
    results: ResultChecks = ResultChecks()
    patterns: tuple[Pattern, ...] = ()
    prompt_guard: str = ""
    llama_guard: GuardModel = GuardModel()
    audit: Audit = Audit()
    language: str = "auto"
    refusals: dict[str, str] = {}

    def checks(self) -> dict[str, Check | CodeCheck]:
        """Every check by its name in the file."""
        sections: dict[str, Any] = {
            "input": self.input, "output": self.output, "calls": self.calls, "results": self.results,
        }  # fmt: skip
        return {f"{s}.{name}": getattr(part, name) for s, part in sections.items() for name in part.__struct_fields__}

    def uses(self, name: str) -> bool:
        """Whether a check is on anywhere."""
        return any(key.endswith(f".{name}") and check.action != "off" for key, check in self.checks().items())


_ALSO = {
    "input.patterns": {"redact"}, "output.patterns": {"redact"}, "results.patterns": {"redact"},
    "results.prompt_guard": {"redact"}, "calls.shell": {"ask"},
}  # fmt: skip


def read_policy(name: str) -> Policy:
    """A policy that comes with herd, or one of a file; ConfigError naming what in it is wrong."""
    policy = read(Policy, _HERE / f"{name}.toml" if name in POLICIES else Path(name))
    for key, check in policy.checks().items():
        allowed = {"off", "annotate", "block"} | _ALSO.get(key, set())
        if check.action not in allowed:
            raise ConfigError(
                f"{name}: {key}.action is {check.action}; expected one of {', '.join(sorted(allowed))} there"
            )
        threshold = getattr(check, "threshold", None)
        if threshold is not None and not 0 < threshold < 1:
            raise ConfigError(f"{name}: {key}.threshold is {threshold}; expected a probability between 0 and 1")
    if not 0 < policy.timeout <= 600 or not 1 <= policy.every <= 4096:
        raise ConfigError(f"{name}: expected a timeout of at most 600 seconds, and every of 1 to 4096 tokens")
    for pattern in policy.patterns:
        try:
            re.compile(pattern.pattern)
        except re.error as error:
            raise ConfigError(f"{name}: patterns: {pattern.name} is no regular expression ({error})") from error
    if policy.uses("patterns") and not policy.patterns:
        raise ConfigError(f"{name}: a patterns check is on, and [[patterns]] has none; add name and pattern")
    if policy.patterns and not policy.uses("patterns"):
        raise ConfigError(
            f'{name}: there are [[patterns]], and no patterns check is on; as in input = {{patterns = {{action = "block"}}}}'
        )
    if all(check.action == "off" for check in policy.checks().values()):
        raise ConfigError(
            f'{name}: no check is on; give one an action, as in input = {{prompt_guard = {{action = "block"}}}}'
        )
    if policy.output.code_shield.action != "off":
        load("", tuple(map(Path, policy.output.code_shield.rules)))
    if policy.prompt_guard and not (Path(policy.prompt_guard) / "config.json").is_file():
        raise ConfigError(
            f"{name}: prompt_guard is {policy.prompt_guard}; expected a folder with a Prompt Guard, whose path "
            "herd pull hf:meta-llama/Prompt-Guard-86M prints"
        )
    if policy.prompt_guard and not policy.uses("prompt_guard"):
        raise ConfigError(f"{name}: prompt_guard names a model, and no prompt_guard check is on")
    if policy.uses("llama_guard") and not policy.llama_guard.model:
        raise ConfigError(f"{name}: a llama_guard check is on; name its checkpoint: llama_guard.model")
    return policy
