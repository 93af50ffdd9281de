"""Which language a text is in, by a small rule: its script, then its commonest words or letters. No model to fetch, and honest about its limits:

texts of a few words, and languages that are not listed, are not told apart. Good enough to see whether a reply is in the language that was
asked for, and which of Llama 3.1's eight a question is in; not language identification.
"""

import re
from collections import Counter

from herd.errors import ConfigError

# script -> (code points, languages that are written in it)
_SCRIPTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "latin": ("A-Za-zÀ-ɏḀ-ỿ", ("en", "de", "fr", "it", "es", "pt", "nl", "pl", "fi", "sv", "sw", "vi", "tr", "id", "ro", "cs")),
    "cyrillic": ("Ѐ-ԯ", ("ru", "bg", "uk")),
    "arabic": ("؀-ۿݐ-ݿ", ("ar", "fa", "ur")),
    "devanagari": ("ऀ-ॿ", ("hi", "mr", "ne")),
    "japanese": ("ぁ-ヿ", ("ja",)),
    "han": ("一-鿿", ("zh",)),
    "hangul": ("ᄀ-ᇿ가-힯", ("ko",)),
    "thai": ("฀-๿", ("th",)),
    "greek": ("Ͱ-Ͽ", ("el",)),
    "hebrew": ("֐-׿", ("he",)),
    "bengali": ("ঀ-৿", ("bn",)),
    "gurmukhi": ("਀-੿", ("pa",)),
    "gujarati": ("઀-૿", ("gu",)),
    "tamil": ("஀-௿", ("ta",)),
    "telugu": ("ఀ-౿", ("te",)),
    "kannada": ("ಀ-೿", ("kn",)),
    "malayalam": ("ഀ-ൿ", ("ml",)),
}  # fmt: skip
# Words that make up a good part of any text, and letters that only one language of a script has (after "+").
_WORDS: dict[str, str] = {
    "en": "the of and to a in is that it for was on are as with you be this have at by not or your from i can will my we but do so use into me about write tell make what how why which who these does when where please explain has any",
    "de": "der die und das ist in den von zu mit sich auf für nicht ein eine ich es dem auch wie wir sie im des werden aus geht dir mir einen einer warum welche wer du bitte schreibe erkläre kann wann oder hat sind jeder seine ihre + ß",
    "fr": "le la les et des est un une du dans que qui pour pas sur au avec ce il vous nous plus sont par je en cette être de pourquoi quelle quel quels aux écris explique comment où quand ou sa son ses ne elle tout toute + œ",
    "it": "il di che è la e un per non una sono del con le della si dei come anche più nel gli questo alla lo i ha da ed perché quale chi io nella sul scrivi spiega cosa quando dove dello delle degli dal dalla al ai ogni loro suo sua puoi o",
    "es": "el la de que y los en un una es por con para las del se no al lo su como más está muy pero este yo qué cuál quién escribe explica cómo dónde cuándo son puedes o u sus ser tiene todos a ni sin sobre entre hay fue ha esta + ñ ¿ ¡",
    "pt": "o de que e do da em um uma para é com não os as no na por mais dos como se foi ao você são eu das a quem nos nas aos à escreva explique onde quando qual ou seu sua seus suas pelo pela ser tem todos + ã õ",
    "nl": "de het een en van is dat niet op te zijn voor met die in er aan ook als bij maar om wordt ik je",
    "pl": "i w nie na się jest to z że do jak o co tak ale za jego od po przez są dla był + ł ą ę ż ś ć ź",
    "fi": "ja on ei se että oli hän ovat mutta kun niin myös olla tai kuin ole minä sen joka voi tämä + ää yö",
    "sv": "och att det är en som på för av med den till inte om ett jag har de i var kan",
    "sw": "na ya wa kwa ni katika la za kuwa cha ili hii yake au si kama lakini watu sana hiyo mimi huu",
    "vi": "và của là có không được cho một các trong với người này đã những để về khi tôi bạn + ơ ư ạ ế ộ",
    "tr": "ve bir bu için ile çok olarak da daha ne gibi olan ama değil en ben var kadar + ğ ı ş",
    "id": "yang dan di untuk dengan ini itu dari dalam tidak adalah pada akan ke saya anda bisa kami juga",
    "ro": "și de în la cu nu este un o pe că din care pentru mai sunt să au + ț ș ă",
    "cs": "a je se na v že to z do si jsem ale jako by jak pro za tak + ě ř ů",
    "ru": "и в не на я что с как это по но он она все так для от мы его + ы э ё",
    "bg": "и на да се в за не от е са с как това по но ще като към или във бъде",
    "uk": "і в не на що з як це та до за але він вона для від ми + ї є ґ і",
    "ar": "في من على إلى أن هذا هذه التي الذي عن ما لا مع كان هو هي أو كل + ة ى أ إ ك ي",
    "fa": "و در به از که این را با است برای آن یک می های خود تا بر + پ چ ژ گ ک ی",
    "ur": "کے میں کی ہے اور سے کا کو نے پر یہ ہیں کہ اس ایک نہیں + ے ٹ ڈ ڑ ں ہ ھ",
    "hi": "के में है की और से का को हैं पर यह कि एक ने नहीं था इस भी जो हम लिए",
    "mr": "आहे आणि या च्या हे ते मध्ये आहेत एक नाही ची होते मी तुम्ही आपण साठी + ळ",
    "ne": "छ र को मा हो लाई भएको गर्न छन् यो पनि एक गरेको का तपाईं हामी",
}  # fmt: skip
_COMMON = {name: frozenset(words.partition("+")[0].split()) for name, words in _WORDS.items()}
_MARKS = {name: words.partition("+")[2].split() for name, words in _WORDS.items()}
_KNOWN = {name for _, names in _SCRIPTS.values() for name in names}
LLAMA = ("de", "en", "es", "fr", "hi", "it", "pt", "th")
"""The eight languages of Llama 3.1."""
_WORD = re.compile(r"[^\W\d_]+(?:[\u0900-\u0dff\u064b-\u0652]+[^\W\d_]*)*")
_NO_CODE = re.compile(r"(?<![\w.])[^\W\d_]+(?![\w(;=]|\.\w)")  # not what looks like code: os.path, print(


def language(text: str) -> str:
    """Which of Llama 3.1's eight languages a question is in, "" where the rule cannot tell: what looks like code does not count."""
    letters = sum(map(str.isalpha, text))
    for name, script in (("hi", "devanagari"), ("th", "thai")):
        if len(re.findall(f"[{_SCRIPTS[script][0]}]", text)) * 2 > letters > 0:
            return name
    words = Counter(_NO_CODE.findall(text.lower()))
    counts = sorted(((_sum(words, name), name) for name in LLAMA if name not in ("hi", "th")), reverse=True)
    (most, name), (next_most, _) = counts[:2]
    return name if most > next_most else ""


def _sum(words: Counter[str], name: str) -> int:
    return sum(count for word, count in words.items() if word in _COMMON[name])


def language_of(text: str) -> str | None:
    """The code (ISO 639-1) of the language of `text`; None where the rule cannot tell."""
    letters = {name: len(re.findall(f"[{points}]", text)) for name, (points, _) in _SCRIPTS.items()}
    if letters["japanese"] * 5 >= letters["han"]:  # Japanese writes with Chinese characters too
        letters["japanese"] += letters["han"] if letters["japanese"] else 0
    script = max(letters, key=lambda name: letters[name])
    if not letters[script]:
        return None
    candidates = _SCRIPTS[script][1]
    if len(candidates) == 1:
        return candidates[0]
    words, small = Counter(_WORD.findall(text.lower())), text.lower()
    points = {name: _sum(words, name) + sum(map(small.count, _MARKS[name])) / 2 for name in candidates}
    best = max(points, key=lambda name: points[name])
    return best if points[best] else None


def speaks(text: str, language: str) -> bool:
    """Whether a text is in a language, by its code. What the rule cannot tell, such as a reply of one name, counts as being so."""
    code = language.lower().partition("-")[0]
    if code not in _KNOWN:
        raise ConfigError(f"language {language!r}; herd can tell {', '.join(sorted(_KNOWN))}")
    return language_of(text) in (None, code)
