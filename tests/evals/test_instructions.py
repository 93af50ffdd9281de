import json

import pytest

from herd.errors import ConfigError
from herd.evals.instructions import CHECKERS, follows, pooled, scores, sentences
from herd.evals.source import EMBEDDED
from herd.text.language import language_of
from tests.evals.instruction_cases import CASES


@pytest.mark.parametrize(("kind", "args", "reply", "right"), CASES)
def test_each_kind_on_replies_that_do_and_do_not(kind, args, reply, right):
    assert follows(reply, kind, args) is right


def test_every_kind_has_a_case_of_both():
    for kind in CHECKERS:
        assert {right for k, _, _, right in CASES if k == kind} == {True, False}, kind
    assert len(CHECKERS) == 25


def test_the_embedded_set_has_all_kinds():
    rows = [json.loads(line) for line in (EMBEDDED / "small_ifeval.jsonl").read_text("utf-8").splitlines()]
    assert {kind for row in rows for kind in row["instruction_id_list"]} == set(CHECKERS)
    for row in rows:
        assert scores("x", row["instruction_id_list"], row["kwargs"])["instructions"] == len(row["kwargs"])


def test_strict_and_loose_by_prompt_and_by_instruction():
    kinds, args = ["punctuation:no_comma", "detectable_format:json_format"], [{}, {"num_words": None}]
    first = scores('Sure, here it is:\n{"a": 1}', kinds, args)
    assert (first["prompt_strict"], first["strict"], first["prompt_loose"], first["loose"]) == (0, 0, 1, 2)
    second = scores("a, b", kinds, args)
    assert (second["prompt_loose"], second["loose"]) == (0, 0)
    third = scores("1", kinds[:1], args[:1])
    found = pooled([first, second, third])
    assert found["prompt_loose"] == pytest.approx(2 / 3)
    assert found["instruction_strict"] == pytest.approx(1 / 5)
    assert found["instruction_loose"] == pytest.approx(3 / 5)
    assert found["average"] == pytest.approx((1 / 3 + 2 / 3 + 1 / 5 + 3 / 5) / 4)
    assert scores(" \n", kinds[:1], args[:1])["loose"] == 0


def test_sentences():
    assert sentences("Dr. Smith paid 3.50 at St. Mary. He left! Why?") == 3
    assert sentences("no end") == 1
    assert sentences("") == 0
    assert sentences("एक। दो।") == 2


TEXTS = {
    "en": "The weather will be fine and the children can play in the garden.",
    "de": "Das Wetter wird schön und die Kinder können im Garten spielen, wenn sie wollen.",
    "fr": "Le temps sera beau et les enfants pourront jouer dans le jardin avec nous.",
    "es": "El tiempo será bueno y los niños podrán jugar en el jardín con su perro.",
    "it": "Il tempo sarà bello e i bambini potranno giocare nel giardino con il cane che amano.",
    "pt": "O tempo vai estar bom e as crianças não precisam de ficar em casa com os pais.",
    "ru": "Погода будет хорошей, и дети смогут играть в саду, но не все они хотят.",
    "bg": "Времето ще бъде хубаво и децата могат да играят в градината, но не всички.",
    "hi": "मौसम अच्छा है और बच्चे बगीचे में खेल सकते हैं।",
    "mr": "हवामान चांगले आहे आणि मुले बागेत खेळू शकतात.",
    "ar": "الطقس جميل في هذا اليوم والأطفال يلعبون في الحديقة إلى أن يأتي المساء",
    "fa": "هوا خوب است و بچه‌ها می‌توانند در باغ بازی کنند که این را دوست دارند",
    "ur": "موسم اچھا ہے اور بچے باغ میں کھیل سکتے ہیں",
    "ja": "天気がいいので、子供たちは庭で遊べます。",
    "zh": "天气很好，孩子们可以在花园里玩。",
    "ko": "날씨가 좋아서 아이들이 정원에서 놀 수 있습니다.",
    "th": "อากาศดีและเด็ก ๆ สามารถเล่นในสวนได้",
    "vi": "Thời tiết đẹp và các em có thể chơi trong vườn với bạn của mình.",
    "sw": "Hali ya hewa ni nzuri na watoto wanaweza kucheza katika bustani.",
    "fi": "Sää on hyvä ja lapset voivat leikkiä puutarhassa, mutta se ei ole varmaa.",
    "pl": "Pogoda jest dobra i dzieci mogą się bawić w ogrodzie, ale nie wszystkie.",
    "ta": "வானிலை நன்றாக உள்ளது", "te": "వాతావరణం బాగుంది", "kn": "ಹವಾಮಾನ ಚೆನ್ನಾಗಿದೆ", "gu": "હવામાન સારું છે", "pa": "ਮੌਸਮ ਚੰਗਾ ਹੈ", "bn": "আবহাওয়া ভালো",
}  # fmt: skip


@pytest.mark.parametrize("language", TEXTS)
def test_languages(language):
    assert language_of(TEXTS[language]) == language


@pytest.mark.parametrize("language", ["en", "de", "fr", "it", "pt", "hi", "es", "th"])
def test_languages_of_real_pages(language):
    text = (EMBEDDED / "small_text.jsonl").read_text("utf-8")
    pages = [json.loads(line) for line in text.splitlines()]
    own = [page["page"] for page in pages if page["language"] == language]
    assert own
    assert all(language_of(page) == language for page in own)


def test_what_is_not_known_is_refused_by_name():
    for kind, args, message in (
        ("keywords:rhyme", {}, "instruction 'keywords:rhyme'"),
        ("language:response_language", {"language": "xx"}, "language 'xx'"),
        ("keywords:frequency", {"keyword": "a"}, "keywords:frequency"),
        ("keywords:frequency", {"keyword": "a", "frequency": 1, "relation": "about"}, "relation 'about'"),
    ):
        with pytest.raises(ConfigError, match=message):
            follows("a reply", kind, args)
    with pytest.raises(ConfigError, match="1 instructions with 0"):
        scores("x", ["punctuation:no_comma"], [])
