"""All steps by name, and what can be set for each."""

from collections.abc import Callable
from typing import Any

import msgspec

from herd.errors import ConfigError
from herd.synth.step import Asking, Prompts, Row
from herd.synth.steps.code import Code, code
from herd.synth.steps.dialogs import LANGUAGES, Tools, Translation, personas, safety, tools, translation
from herd.synth.steps.documents import Instructions, Labels, Questions, instructions, labels, questions
from herd.synth.steps.mathematics import Mathematics, mathematics
from herd.synth.steps.preferences import Preferences, preferences

STEPS: dict[str, Callable[[Row, Prompts, Any], Asking]] = {
    "instructions": instructions,
    "questions": questions,
    "labels": labels,
    "code": code,
    "mathematics": mathematics,
    "personas": personas,
    "translation": translation,
    "tools": tools,
    "safety": safety,
    "preferences": preferences,
}


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """A section for each step that has settings."""

    instructions: Instructions = Instructions()
    questions: Questions = Questions()
    labels: Labels = Labels()
    code: Code = Code()
    mathematics: Mathematics = Mathematics()
    translation: Translation = Translation()
    tools: Tools = Tools()
    preferences: Preferences = Preferences()

    def check(self) -> None:
        """ConfigError naming what cannot be."""
        counts = {
            "code.attempts": (self.code.attempts, 1, 20),
            "mathematics.answers": (self.mathematics.answers, 1, 256),
            "mathematics.agree": (self.mathematics.agree, 1, self.mathematics.answers),
            "preferences.answers": (self.preferences.answers, 2, 256),
            "labels.best": (self.labels.best, 1, 100),
            "instructions.least": (self.instructions.least, 1, 5),
        }
        for key, (value, low, high) in counts.items():
            if not low <= value <= high:
                raise ConfigError(f"options.{key} is {value}; expected {low} to {high}")
        if unknown := set(self.translation.languages) - set(LANGUAGES):
            raise ConfigError(
                f"options.translation.languages: {', '.join(sorted(unknown))}; expected some of {', '.join(LANGUAGES)}"
            )
