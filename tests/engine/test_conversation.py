"""A conversation in which the model calls tools: its turns, the results, and how many of them there may be."""

from herd.engine.conversation import MAX_STEPS, Conversation, ToolResult
from herd.engine.grammar import Grammars, forced_calls
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.text.chat_format import chat_format
from herd.text.messages import Tool, ToolCall

ADD = Tool("add", "Add", {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"], "additionalProperties": False})  # fmt: skip


class _Forced:
    """An engine whose next `left` replies are held to a call of the tool, as the small model by itself would seldom call, and
    the others to an answer, as it would call again once it has seen calls."""

    def __init__(self, engine, grammars):
        self._engine, self.max_length = engine, engine.max_length
        self._call = grammars.constraint(forced_calls([ADD], several=False))
        self._answer = grammars.constraint('start: "Done."')
        self.left = 2

    def generate(self, request):
        self.left -= 1
        constraint = self._call if self.left >= 0 else self._answer
        return self._engine.generate(type(request)(prompt=request.prompt, params=request.params, constraint=constraint))


def test_tools_are_run_and_their_results_given_back(smollm):
    with open_engine(smollm) as engine:
        grammars = Grammars(engine.tokenizer, engine.backend.config.vocab)
        dialog = chat_format(smollm.tokenizer, smollm.chat_template)
        forced, ran = _Forced(engine, grammars), []

        def run(call: ToolCall) -> str:
            ran.append(call)
            return str(call.arguments["a"] + 40)

        params = SamplingParams(temperature=0, max_tokens=40)
        conversation = Conversation(forced, dialog, params, tools=[ADD], run=run)
        parts = list(conversation.say("Add one."))
        assert len(ran) == 2
        results = [part for part in parts if isinstance(part, ToolResult)]
        assert [result.call for result in results] == ran
        assert [m.role for m in conversation.messages] == [
            "user",
            "assistant",
            "ipython",
            "assistant",
            "ipython",
            "assistant",
        ]
        assert conversation.messages[2].content == results[0].output
        forced.left = 100
        list(conversation.say("Again."))
        assert len(ran) == 2 + MAX_STEPS
        grammars.close()
