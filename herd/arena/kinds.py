"""What a prompt is about, by plain rules; and whether a reply tells who wrote it."""

import re
from collections.abc import Iterable
from functools import lru_cache

_KINDS = (
    ("code", r"```|\b(python|java|javascript|typescript|rust|golang|c\+\+|sql|html|css|regex|bash|json|api|compile|debug|codes?|coding|"
             r"funktion|fonction|función|funzione|função|programm\w*|algorithm\w*|quellcode|código|codice)\b|\bdef \w+\(|कोड|प्रोग्राम|โค้ด|โปรแกรม"),
    ("math", r"\d\s*[-+*/×÷^=]\s*\d|\b(solve|calculate|equation|integral|derivative|probability|prove|theorem|percent|sum of|"
             r"how (?:many|much)|berechne|gleichung|löse|wie ?viele?|calcule[rz]?|résou\w+|combien|calcola|risolvi|quant[eio]|calcula|"
             r"resuelve|cuánt[ao]s?|resolva|quantos?|quantas?)\b|कितन|गणना|समीकरण|คำนวณ|สมการ|เท่าไร|กี่"),
    ("writing", r"\b(write|compose|draft|rewrite|poem|story|essay|letter|email|lyrics|schreib\w*|gedicht|geschichte|brief|aufsatz|"
                r"écri[st]\w*|poème|histoire|lettre|scrivi|poesia|storia|lettera|escrev\w*|poema|história|carta|escribe|historia|redacta)\b|"
                r"लिख|कविता|कहानी|पत्र|เขียน|แต่ง|บทกวี|จดหมาย"),
)  # fmt: skip
_PATTERNS = tuple((kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _KINDS)
KINDS = ("code", "math", "writing", "other")


def kind(text: str) -> str:
    """One of KINDS; the first whose words are there."""
    return next((name for name, pattern in _PATTERNS if pattern.search(text)), "other")


# How a model says who it is, in the eight languages, and names that it may say.
_SELF = (
    r"\b(?:i am|i['’]m|i was|my name is|my creators?|language model|ai (?:model|assistant)|ich bin|ich wurde|ich hei(?:ß|ss)e|mein name|"
    r"sprachmodell|je suis|j['’]ai été|je m['’]appelle|mon nom|modèle de langage|sono (?:una?|stat[oa])|mi chiamo|il mio nome|modello "
    r"linguistico|sou|fui|(?:me )?chamo|meu nome|modelo de linguagem|soy|me llamo|mi nombre|modelo de lenguaje)\b|मैं|मेरा नाम|मुझे|ฉัน|ผม"
)
_KNOWN = (
    r"llama|smol ?lm|meta ai|chat ?gpt|gpt-?\d\w*|open ?ai|claude|anthropic|gemini|gemma|bard|deepmind|google|mistral|mixtral|"
    r"qwen|alibaba|deep ?seek|grok|x\.?ai|hugging ?face|vicuna|alpaca|falcon|command[- ]r|cohere|phi-?\d|microsoft|yi-\d+|chat ?glm|kimi"
)
_TELLS = re.compile(rf"(?:{_SELF})[^.!?\n।]{{0,80}}?\b(?:{_KNOWN})", re.IGNORECASE)


def reveals(reply: str, names: Iterable[str]) -> bool:
    """Whether a reply tells who wrote it: it has a name such as mistral-7b, or says of itself what models say.

    Names that are plain words count only where a reply speaks of itself, and those of one or two letters never: a file may be called
    `a` or `base`.
    """
    return bool(_TELLS.search(reply)) or any(_named(name).search(reply) for name in names)


@lru_cache(maxsize=1000)
def _named(name: str) -> re.Pattern[str]:
    """A name as a reply may spell it: other case, other marks between its parts."""
    parts = re.findall(r"[^\W_]+", name)
    whole = "".join(parts)
    if len(whole) < 3:
        return re.compile(r"(?!)")
    spelled = r"[\W_]*".join(parts)
    distinct = len(whole) > 3 and any(map(str.isdigit, whole)) and any(map(str.isalpha, whole))
    before = r"" if distinct else rf"(?:{_SELF})[^.!?\n।]{{0,80}}?"
    return re.compile(rf"{before}(?<![^\W_]){spelled}(?![^\W_])", re.IGNORECASE)
