"""IFEval's checkers against lm-evaluation-harness's: the same verdict on every case, and on replies made of all cases' pieces."""

import importlib
import random

import pytest

from herd.evals.instructions import follows
from tests.evals.instruction_cases import CASES

# Theirs needs data of NLTK that comes from the network.
NOT_HERE = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


@pytest.fixture(scope="module")
def registry():
    for name in ("lm_eval", "langdetect", "immutabledict", "nltk"):
        pytest.importorskip(name)
    import nltk

    download, nltk.download = nltk.download, lambda *_, **__: True
    try:
        return importlib.import_module("lm_eval.tasks.ifeval.instructions_registry").INSTRUCTION_DICT
    finally:
        nltk.download = download


def theirs(registry, kind, args, reply):
    checker = registry[kind](kind)
    checker.build_description(**args)
    return bool(reply.strip()) and bool(checker.check_following(reply))


def test_verdicts_are_the_harness_s(registry):
    generator = random.Random(5)
    kinds = [case for case in CASES if case[0] not in NOT_HERE]
    checked = 0
    for kind, args, reply, _ in kinds:
        assert follows(reply, kind, args) == theirs(registry, kind, args, reply), (kind, reply)
        if kind.startswith(("language", "change_case")):  # theirs guesses a language by chance on scraps
            continue
        for _ in range(40):
            pieces = [generator.choice(CASES)[2] for _ in range(generator.randint(1, 3))]
            mixed = generator.choice(["\n\n", "\n", " ", "\n***\n", "******", "\n* "]).join(
                [*pieces, reply][:: generator.choice([1, -1])]
            )
            assert follows(mixed, kind, args) == theirs(registry, kind, args, mixed), (kind, args, mixed)
            checked += 1
    assert checked > 1000
