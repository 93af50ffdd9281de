"""Which of the eight languages of Llama 3.1 a text is in, by plain rules: scripts and function words. No model to fetch."""

import re

_SCRIPTS = {"hi": re.compile(r"[ऀ-ॿ]"), "th": re.compile(r"[฀-๿]")}
# Function words that are frequent in one of the six languages written in Latin letters; where two share one it counts for both.
_WORDS = {
    "en": "a in on at it as do so use into your me about from write tell make the is are of and what how why which who with this that these can you write does was for to when where please explain my be has have by or not any",
    "de": "es geht dir mir der die das ist und nicht ein eine einen einer den dem des wie warum welche wer mit ich du sie auf für von zu im bitte schreibe erkläre kann wann oder auch hat sind jeder seine ihre",
    "fr": "le les est et une un des du de la pourquoi quelle quel quels qui avec je vous dans sur pour au aux écris explique comment ce cette où quand ou par sa son ses ne pas il elle tout toute",
    "it": "il lo gli la è e ed una un di perché quale chi con io nel nella sul per che scrivi spiega come cosa quando dove sono del dello della delle degli dei dal dalla al alla ai ogni loro suo sua puoi non o",
    "pt": "o os a as é e uma um por não quem com eu você em no na nos nas dos das do da ao aos à que escreva explique como onde quando são qual ou seu sua seus suas pelo pela ser tem todos para de mais",
    "es": "el los la las es y una un de del por qué cuál quién con yo en para que escribe explica cómo dónde cuándo son puedes o u su sus no se al ser tiene todos más",
}
_WORD = re.compile(r"(?<![\w.])[^\W\d_]+(?![\w(;=]|\.\w)")  # not what looks like code: os.path, print(
_LATIN = {language: frozenset(words.split()) for language, words in _WORDS.items()}


def language(text: str) -> str:
    """One of the eight languages of Llama 3.1, or "" where rules cannot tell."""
    letters = sum(map(str.isalpha, text))
    for name, script in _SCRIPTS.items():
        if len(script.findall(text)) * 2 > letters > 0:
            return name
    words = _WORD.findall(text.lower())
    counts = sorted(((sum(word in known for word in words), name) for name, known in _LATIN.items()), reverse=True)
    (most, name), (next_most, _) = counts[:2]
    return name if most > next_most else ""
