"""Personal data and secrets in a text -> `<EMAIL>`, `<PHONE>`, `<IBAN>`, `<CARD>`, `<IP>`, `<KEY>`.

A table of shapes, each with a check of what it found: check digits (ISO 13616, ISO/IEC 7812), lengths by country, the word before it.
Numbers that only some countries would read as a telephone's need a word that says so.
"""

import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

Check = Callable[[str, int, int], int]
"""(text, start, end) of what has the shape -> where what was looked for ends; `start`: it is something else."""

_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "BY": 28, "CH": 21, "CR": 22, "CY": 28,
    "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18,
    "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LC": 32,
    "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15,
    "PK": 24, "PL": 28, "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SC": 31, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "ST": 25,
    "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
}  # fmt: skip
"""Characters of an IBAN by its country (SWIFT's registry)."""


def _luhn(digits: str) -> bool:
    """The check digit of card numbers (ISO/IEC 7812-1)."""
    numbers = [int(c) for c in reversed(digits)]
    return sum(numbers[::2]) % 10 == -sum(sum(divmod(2 * n, 10)) for n in numbers[1::2]) % 10


def _card(text: str, start: int, end: int) -> int:
    digits = re.sub(r"\D", "", text[start:end])
    good = 13 <= len(digits) <= 19 and digits[0] in "23456" and len(set(digits)) > 1 and _luhn(digits)
    return end if good else start


def _iban(text: str, start: int, end: int) -> int:
    """ISO 13616: letters as numbers, the first four characters last, modulo 97 is 1. What follows may look like more of it."""
    length, at, plain = _IBAN_LENGTHS.get(text[start : start + 2], 0), start, ""
    while at < end and len(plain) < length:
        plain += text[at].strip()
        at += 1
    good = plain and len(plain) == length and int("".join(str(int(c, 36)) for c in plain[4:] + plain[:4])) % 97 == 1
    return at if good and not text[at : at + 1].isalnum() else start


_NUMBERED = re.compile(r"(?:versions?|release|build|firmware|section|chapter|table|figure|clause|kapitel|abschnitt|rfc|\bv|§)\.? ?$", re.I)  # fmt: skip


def _ip(text: str, start: int, end: int) -> int:
    """A public address (those for documentation too), not a version's or a section's number."""
    found = text[start:end]
    try:
        address = ipaddress.ip_address(found)
    except ValueError:
        return start
    four = address.version == 4
    inside = address.is_loopback or address.is_link_local or address.is_multicast or address.is_unspecified
    private = any(address in network for network in _PRIVATE if network.version == address.version)
    if inside or private or (not four and (len(found) < 8 or not any(c.isdigit() for c in found))):
        return start
    heading = text[end : end + 2] == ". " and not text[max(0, start - 12) : start].rpartition("\n")[2].strip(" •#*")
    return start if four and (heading or _NUMBERED.search(text[max(0, start - 12) : start])) else end


_PRIVATE = [ipaddress.ip_network(n) for n in ("0.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "240.0.0.0/4", "fc00::/7", "::/16")]  # fmt: skip


def _phone(text: str, start: int, end: int) -> int:
    return end if 7 <= sum(map(str.isdigit, text[start:end])) <= 15 else start


_SAYS_PHONE = re.compile(
    r"(?<!\w)(?:tel(?:[eé]fono?|efone?|[eé]phone)?|phone|fone?|mobile?|m[oó]vil|handy|cell(?:ulare|ular|phone)?|celular|portable|fax|ring|call|"
    r"appelez|reach|whats ?app|โทร(?:ศัพท์)?|เบอร์|มือถือ|फ़ोन|फोन|मोबाइल)[^\w(+]{0,4}(?:[a-zà-ü]{2,6} (?:on )?)?$", re.I,
)  # fmt: skip


def _called(text: str, start: int, end: int) -> int:
    """A number behind a word that says it is a telephone's."""
    return _phone(text, start, end) if _SAYS_PHONE.search(text[max(0, start - 26) : start]) else start


def _secret(text: str, start: int, end: int) -> int:
    """Letters of both cases and digits mixed, as no word is."""
    return end if all(re.search(kind, text[start:end]) for kind in ("[a-z]", "[A-Z]", "[0-9]")) else start


class Shape(NamedTuple):
    """A kind, how it looks (where there is a group, that part of it), what a text must hold to have it (nothing: a line with digits), and a check."""

    kind: str
    pattern: re.Pattern[str]
    needs: tuple[str, ...]
    check: Check = lambda _text, _start, end: end


_DIGITS = re.compile(r"\d[\d .()/-]{4,}\d")  # in every card, address and telephone number
_SHAPES = (
    Shape("email", re.compile(r"(?<![\w.+-])(?!git@)[\w.%+'-]{1,64}@(?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])(?!:[\w/])"), ("@",)),
    Shape(
        "key",
        re.compile(
            r"(?<!\w)(?:(?:AKIA|ASIA)[0-9A-Z]{16}|gh[pousr]_[A-Za-z0-9]{36}|github_pat_\w{82}|glpat-[\w-]{20}|npm_[A-Za-z0-9]{36}|pypi-AgEI[\w-]{50,}|"
            r"[srp]k_(?:live|test)_[A-Za-z0-9]{16,}|sk-(?=[\w-]*\d)[A-Za-z0-9_-]{32,}|xox[abeprs]-[A-Za-z0-9-]{10,}|AIza[\w-]{35}|hf_[A-Za-z]{34}|"
            r"SG\.[\w-]{22}\.[\w-]{43}|ya29\.[\w-]{20,}|shpat_[0-9a-f]{32}|dop_v1_[0-9a-f]{64}|eyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{20,})(?![\w-])"
        ),
        ("AKIA", "ASIA", "gh", "glpat-", "npm_", "pypi-", "k_", "sk-", "xox", "AIza", "hf_", "SG.", "ya29.", "shpat_", "dop_v1_", "eyJ"),
    ),
    Shape("key", re.compile(r"-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[^-]{1,8000}-----END [A-Z ]{0,20}PRIVATE KEY-----"), ("-----BEGIN ",)),
    Shape(
        "key",
        re.compile(r"(?i:secret\w{0,20}|passw(?:or)?d|api_?key|token)[\"']?\s{0,3}[:=]\s{0,3}[\"']?([A-Za-z0-9/+=_-]{16,128})(?![\w/+-])"),
        ("ecret", "assw", "oken", "key", "SECRET", "PASSW", "TOKEN", "KEY"),
        _secret,
    ),
    Shape("iban", re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b"), (), _iban),
    Shape("card", re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d.-]\d|\d)"), (), _card),
    Shape("ip", re.compile(r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?![\d.]\d|\d)"), (), _ip),
    Shape("ip", re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{1,4}:){1,7}[0-9A-Fa-f:]{1,25}(?![\w:])"), (":",), _ip),
    Shape(
        "phone",
        re.compile(
            r"(?<![\w.+/-])(?<!\d )(?:(?:\+|00)[1-9]\d{0,2}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"  # with its country
            r"|(?:1[ .-])?\(\d{3}\) ?\d{3}[.-]\d{4}|(?:1-)?[2-9]\d{2}-\d{3}-\d{4}|[2-9]\d{2}\.\d{3}\.\d{4}"  # North America
            r"|0[1-9](?:[ .]\d{2}){4}"  # France
            r"|0(?:20 \d{4}|1\d{2} \d{3}|[17]\d{3} \d{3}|1\d{3} \d{2}) ?\d{3,4}"  # Britain
            r"|\(\d{2}\) ?9?\d{4}-\d{4}"  # Brazil
            r"|0(?:2|[3-9]\d)-\d{3}-\d{4}"  # Thailand
            r"|[6-9]\d{4} \d{5})(?![\w/]|[.-]\d)"  # India
        ),
        (),
        _phone,
    ),
    Shape("phone", re.compile(r"(?<![\w.+/-])(?<!\d )[+(0-9][\d ()./-]{5,18}\d(?![\w/]|[.-]\d)"), (), _called),
)  # fmt: skip


def redact(text: str) -> tuple[str, dict[str, int]]:
    """The text with what is personal or secret put as its kind, and how many of each there were."""
    counts: dict[str, int] = {}
    for shape in _SHAPES:
        if shape.needs and any(beginning in text for beginning in shape.needs):
            text = _put(text, shape, counts)
    pieces, at = [], 0
    for found in _DIGITS.finditer(text):  # the rest is looked for in lines that have them
        if found.start() >= at:
            start = text.rfind("\n", 0, found.start()) + 1
            end = text.find("\n", found.end())
            line = text[start : (end := len(text) if end < 0 else end)]
            for shape in _SHAPES:
                if not shape.needs:
                    line = _put(line, shape, counts)
            pieces += [text[at:start], line]
            at = end
    return "".join([*pieces, text[at:]]), counts


def _put(text: str, shape: Shape, counts: dict[str, int]) -> str:
    def replace(found: re.Match[str]) -> str:
        start, end = found.span(shape.pattern.groups)
        stop = shape.check(found.string, start, end)
        if stop == start:
            return found[0]
        counts[shape.kind] = counts.get(shape.kind, 0) + 1
        return f"{found.string[found.start() : start]}<{shape.kind.upper()}>{found.string[stop : found.end()]}"

    return shape.pattern.sub(replace, text)
