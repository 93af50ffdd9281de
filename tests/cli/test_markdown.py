"""Markdown that is shown while it is written."""

import io
import time

from rich.console import Console

from herd.cli.markdown import finished, show_markdown

LONG_LIST = "".join(f"{i}. item number {i} with some words\n" for i in range(1, 400))
CODE = "Here:\n\n```python\n" + "".join(f"x{i} = {i}\n" for i in range(400)) + "```\n\nDone.\n"


def pieces(text: str, size: int = 7):
    return (text[i : i + size] for i in range(0, len(text), size))


def test_a_block_is_finished_when_it_cannot_change():
    assert finished("one\n\ntwo") == ("one\n\n", "two")
    assert finished("one\ntwo") == ("", "one\ntwo")
    assert finished("```\na\n\nb\n") == ("", "```\na\n\nb\n")
    done, rest = finished("```c\n" + "x;\n" * 20 + "y")
    assert (done, rest) == ("```c\n" + "x;\n" * 20 + "```\n", "```c\ny")
    done, rest = finished(LONG_LIST)
    assert done + rest == LONG_LIST
    assert rest.count("\n") <= 2


def test_everything_is_shown_once_and_the_cost_grows_with_the_length_alone():
    for text, words in (
        (LONG_LIST, [f"item number {i} " for i in (1, 57, 399)]),
        (CODE, ["x0 = 0", "x399 = 399", "Done."]),
    ):
        out = io.StringIO()
        show_markdown(Console(file=out, width=80), pieces(text))
        for word in words:
            assert out.getvalue().count(word) == 1, word

    def seconds(times: int) -> float:
        begun = time.process_time()
        show_markdown(Console(file=io.StringIO(), width=80, force_terminal=True), pieces(LONG_LIST * times))
        return time.process_time() - begun

    one, eight = seconds(1), seconds(8)
    assert eight < 5 * 8 * max(one, 0.05)
