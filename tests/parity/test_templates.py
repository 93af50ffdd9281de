"""Chat templates of 51 public models against transformers' apply_chat_template: text, tokens, loss masks."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from herd.errors import RequestError
from herd.text.messages import Message, Tool, ToolCall
from herd.text.template import CallsForm, ChatTemplate, message_dicts, tool_dict

TEMPLATES = {
    path.stem: path.read_text() for path in sorted((Path(__file__).parents[1] / "data/templates").glob("*.jinja"))
}
TOKENS = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>"}

HI = Message("user", "Hi, 'you' & \"me\"  ")
SONGS = Tool("songs", "Songs \n that trend", {"type": "object", "properties": {"n": {"type": "integer", "description": "How many"}, "genre": {"type": "string", "description": "Which", "enum": ["pop", "all"]}}, "required": ["n"]})  # fmt: skip
CALLS = (ToolCall("songs", {"n": 10, "genre": "é"}),)
DIALOGS = {
    "question": [HI],
    "system": [Message("system", " Be brief. "), HI],
    "turns": [Message("system", "Be brief."), HI, Message("assistant", " Hello.\n"), Message("user", "Bye")],
    "answered": [HI, Message("assistant", "Hello <b>you</b>")],
    "thought": [HI, Message("assistant", "<think>\nHm.\n</think>\n\nHello"), Message("user", "Bye"), Message("assistant", "Bye")],
    "called": [HI, Message("assistant", "", CALLS), Message("ipython", '{"songs": []}')],
    "called twice": [
        HI, Message("assistant", "Let me look.", CALLS * 2), Message("ipython", "[1]"), Message("ipython", "[2]"),
        Message("assistant", "None."), Message("user", "Thanks"),
    ],
    "empty": [Message("user", "")],
    "two users": [HI, HI],
}  # fmt: skip


@pytest.fixture(scope="module")
def library(smollm):
    import tokenizers

    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(smollm.tokenizer.to_json()), **TOKENS)


def theirs(library, template, plain, tools, reply, **more):
    try:
        return library.apply_chat_template(
            plain, chat_template=template, tools=tools, add_generation_prompt=reply, **{"tokenize": False, **more}
        )
    except Exception as error:  # a template can raise anything
        return f"refused: {type(error).__name__}"


@pytest.mark.parametrize("arguments", ["object", "string"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_text_is_transformers(name, arguments, library):
    template = ChatTemplate(TEMPLATES[name], tokens=TOKENS)
    written = 0
    for dialog in DIALOGS.values():
        plain = message_dicts(dialog, CallsForm(arguments, results=True))
        for tools in (None, [tool_dict(SONGS)]):
            for reply in (True, False):
                expected = theirs(library, TEMPLATES[name], plain, tools, reply)
                if expected.startswith("refused: "):
                    with pytest.raises(RequestError):
                        template.render(plain, tools=tools, reply=reply)
                else:
                    written += 1
                    assert template.render(plain, tools=tools, reply=reply) == expected
    assert written >= 8


@pytest.mark.parametrize("name", [name for name in TEMPLATES if "generation %}" in TEMPLATES[name].replace("-", "")])
def test_loss_masks_are_transformers(name, library, smollm):
    template = ChatTemplate(TEMPLATES[name], tokens=TOKENS)
    counted = 0
    for dialog in DIALOGS.values():
        plain = message_dicts(dialog, CallsForm("object", results=True))
        expected = theirs(
            library,
            TEMPLATES[name],
            plain,
            None,
            False,
            tokenize=True,
            return_dict=True,
            return_assistant_tokens_mask=True,
        )
        if isinstance(expected, str):
            continue
        ours = template.encode(smollm.tokenizer, plain, reply=False)
        assert ours.tokens == expected["input_ids"]
        assert ours.loss_mask == [bool(m) for m in expected["assistant_masks"]]
        counted += sum(ours.loss_mask)
    assert counted > 20


def test_the_documents_name_every_template():
    page = (Path(__file__).parents[2] / "docs/reference/formats.md").read_text()
    assert f"Of {len(TEMPLATES)} public ones" in page
    assert all(name in page for name in TEMPLATES)
