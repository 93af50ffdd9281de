from pathlib import Path

import pytest

from herd.arena.kinds import kind, reveals
from herd.text.language import language

UDHR = Path(__file__).parents[1] / "data" / "udhr"


@pytest.mark.parametrize("name", ["de", "en", "es", "fr", "hi", "it", "pt", "th"])
def test_paragraphs_of_the_declaration_of_human_rights_are_known_by_their_language(name):
    paragraphs = [p for p in (UDHR / f"{name}.txt").read_text("utf-8").splitlines() if len(p) > 80]
    assert len(paragraphs) >= 20
    right = sum(language(p) == name for p in paragraphs)
    assert right >= 0.95 * len(paragraphs), [p for p in paragraphs if language(p) != name][:3]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("How do I sort a list in Python?", "code"), ("Schreibe eine Funktion, die zählt", "code"), ("What is 12 * 7?", "math"),
        ("Résous cette équation pour x", "math"), ("Write a poem about rain", "writing"), ("Escribe un cuento corto", "writing"),
        ("एक कविता लिखें", "writing"), ("ช่วยแต่งบทกวีให้หน่อย", "writing"), ("Who was Ada Lovelace?", "other"),
    ],
)  # fmt: skip
def test_kinds(text, expected):
    assert kind(text) == expected


def test_what_no_rule_knows_has_no_language():
    assert language("xyzzy 123") == ""
    assert language("") == ""


@pytest.mark.parametrize(
    "reply",
    [
        "I am ChatGPT, a model by OpenAI.", "Ich bin ein Modell, trainiert von Meta AI.", "Je suis Claude.", "Soy Llama, creado por Meta AI.",
        "मैं जेमिनी नहीं, Gemini हूँ", "ผมคือ Qwen", "As you ask: my name is SmolLM2.", "This is Night Heron 7B speaking.", "night_heron-7b!",
    ],
)  # fmt: skip
def test_replies_that_tell_their_model(reply):
    assert reveals(reply, ["night-heron-7b"])


@pytest.mark.parametrize(
    "reply",
    [
        "A llama is an animal of the Andes.", "Google was founded in 1998.", "Herons fly at night; 7 of them were seen.",
        "I am happy to help. Llamas eat grass.", "TensorFlow was developed by Google.", "Il motore è di Google, sono in molti.", "",
    ],
)  # fmt: skip
def test_replies_that_do_not(reply):
    assert not reveals(reply, ["night-heron-7b"])


def test_names_that_are_plain_words_count_only_where_a_reply_speaks_of_itself():
    assert not reveals("A team of a base camp. I am a helper.", ["a", "base", "team"])
    assert reveals("I am the model Narwhal.", ["narwhal"])
    assert not reveals("A narwhal is a whale.", ["narwhal"])
