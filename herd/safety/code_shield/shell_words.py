"""A shell line -> its simple commands: quotes taken off, pipes, redirections and here-documents told apart. Nothing is expanded."""

import re
from dataclasses import dataclass

SHELLS = {"sh", "bash", "zsh", "dash", "ksh", "fish", "ash"}
RUNNERS = SHELLS | {
    "python",
    "python2",
    "python3",
    "perl",
    "ruby",
    "node",
    "php",
    "lua",
    "deno",
    "bun",
    "source",
    ".",
    "eval",
    "pwsh",
    "powershell",
}


@dataclass
class Command:
    """One simple command: its words with quotes taken off, where it writes, what is fed to it and whether a pipe leads to it."""

    words: list[str]
    writes: list[str]
    piped_from: "Command | None" = None
    text: str = ""


_TOKEN = re.compile(
    r"""(?P<space>[ \t]+|\\\n)|(?P<comment>(?<![^\s;&|(])\#[^\n]*)|(?P<here><<-?\s*(?P<q>['"]?)(?P<tag>\w+)(?P=q))|(?P<redirect>&?[0-9]?>{1,2}\|?&?|[0-9]?<(?![(<])|<<<)"""
    r"""|(?P<end>\|\||&&|;;|\|&|[|;&\n]|[(){}](?=[\s;]|$)|^[({])|(?P<word>(?:\\.|'[^']*'?|"(?:\\.|[^"\\])*"?|\$\([^()]*(?:\([^()]*\)[^()]*)*\)?|`[^`]*`?|\$\{[^}]*\}?|[<>]\([^()]*\)?|[^\s;&|<>'"`\\$()]|\$|[()])+)""",
    re.DOTALL,
)


def parse(text: str) -> list[Command]:
    """The simple commands of a line or script, in order, pipes remembered. A here-document's text is fed to its command."""
    commands: list[Command] = []
    current = Command([], [])
    pending: list[tuple[str, Command]] = []
    at, expect_file = 0, False

    def finish(pipe: bool) -> None:
        nonlocal current
        done = current
        if done.words or done.writes:
            commands.append(done)
        current = Command([], [], piped_from=done if pipe else None)

    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            at += 1
            continue
        at = max(match.end(), at + 1)
        kind = match.lastgroup
        if match["here"]:
            pending.append((match["tag"], current))
        elif match["redirect"]:
            expect_file = not match["redirect"].endswith("&") or match["redirect"].startswith("&")
            if "<" in match["redirect"]:
                expect_file = False
        elif match["end"]:
            token = match["end"]
            if token == "\n" and pending:
                at = _take_documents(text, at, pending)
                pending = []
            finish(token in ("|", "|&"))
        elif match["word"]:
            word = _unquote(match["word"])
            current.text += " " + match["word"]
            if expect_file:
                current.writes.append(word)
                expect_file = False
            else:
                current.words.append(word)
        elif kind is None:
            continue
    finish(False)
    return commands


def _take_documents(text: str, at: int, pending: list[tuple[str, Command]]) -> int:
    for tag, command in pending:
        close = re.compile(rf"^[ \t]*{re.escape(tag)}[ \t]*$", re.MULTILINE).search(text, at)
        end = close.start() if close else len(text)
        command.text += "\n" + text[at:end]
        if command.words and command.words[0] in RUNNERS:
            command.words.append("\0" + text[at:end])
        at = close.end() if close else len(text)
    return at


def _unquote(word: str) -> str:
    return re.sub(
        r"\\(.)|'([^']*)'?|\"((?:\\.|[^\"\\])*)\"?", lambda m: m[1] or m[2] or m[3] or "", word, flags=re.DOTALL
    )
