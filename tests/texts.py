"""Texts that tokenizers get wrong: every parity test of a tokenizer runs over all of them."""

from pathlib import Path

DATA = Path(__file__).parent / "data"
LANGUAGES = ("en", "de", "fr", "it", "pt", "hi", "es", "th")

PIECES = {
    "python": "def f(x: int = 0) -> dict[str, int]:\n    '''Doc.'''\n    return {f\"{x!r}\": x ** 2 // 3}\n\n\n# comment\n",
    "c": '#include <stdio.h>\nint main(void) {\n\tprintf("%d\\n", 0x1F + 1e-5);\r\n\treturn 0;\n}\n',
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 😀😃 ✈️ 🇧🇷🇹🇭 é́ 한국어 日本語 العربية",
    "controls": "a\x01\x02b\x7f\x85c\u200b\u200d\ufeff\t\v\f\x1c\x1dd\u2028e\u3000f",
    "numbers": "3.14159 1,234,567 ٣٤٥ १२३ ½ Ⅷ 2024-12-31 00001111",
    "spaces": "  two  three   four    \n\n\n  \t x \n y\r\n\r\nz   ",
    "quotes": "it's I'VE they'Re don't 'S s' '' \"hi\" l'été O'Neil",
    "special": "<|eot_id|> <|begin_of_text|><|im_end|> <|python_tag|> <|im_start|>user\n<|endoftext|>",
    "empty": "",
    "space": " ",
    "run_short": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa" * 10,
    "run_spaces": " " * 700 + "x" + "\n" * 300,
    "run_digits": "1234567890" * 60,
    "run_punctuation": "=" * 500 + "-" * 500 + "!?" * 200,
}


def texts() -> dict[str, str]:
    """Name -> text: the declarations in eight languages and the pieces above."""
    declarations = {code: (DATA / "udhr" / f"{code}.txt").read_text() for code in LANGUAGES}
    return {**declarations, **PIECES}
