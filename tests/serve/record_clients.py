"""Records what official clients send, for tests/serve/test_clients.py to replay. Needs the clients, in any environment:

pip install openai openai-agents langchain-openai litellm anthropic ollama
herd serve --port 8123 --log-prompts --log traffic.jsonl &
python tests/serve/record_clients.py http://127.0.0.1:8123 traffic.jsonl tests/data/clients.jsonl
"""

import asyncio
import contextlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # nothing is fetched
MODEL = "smollm2-135m"
ASK = "What is the weather in Paris?"
FEW = 24  # tokens a reply


def weather(city: str) -> str:
    """Weather of a city."""
    return f"18 degrees in {city}"


TOOL = {
    "type": "function",
    "function": {
        "name": "weather", "description": "Weather of a city", "strict": True,
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 12}}, "required": ["city"], "additionalProperties": False},
    },
}  # fmt: skip


def with_openai(url: str) -> None:
    import openai
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    messages: list = [{"role": "user", "content": ASK}]
    common = {"model": MODEL, "max_tokens": FEW, "user": "u", "seed": 1}
    client.chat.completions.create(messages=messages, **common)
    list(
        client.chat.completions.create(messages=messages, stream=True, stream_options={"include_usage": True}, **common)
    )
    for _ in range(2):
        first = client.chat.completions.parse(
            messages=messages, tools=[TOOL], tool_choice="required", parallel_tool_calls=False, **common
        )
        message = first.choices[0].message
        messages += [message, *({"role": "tool", "tool_call_id": c.id, "content": "18"} for c in message.tool_calls)]
    client.chat.completions.create(messages=messages, tools=[TOOL], **common)
    with client.chat.completions.stream(messages=messages, tools=[TOOL], **common) as events:
        list(events)
    with contextlib.suppress(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            messages=[{"role": "user", "content": "Ann is 30."}], response_format=Person, **{**common, "max_tokens": 60}
        )
    tool = {"type": "function", **TOOL["function"]}
    given: list = [{"role": "user", "content": ASK}]
    for _ in range(2):
        response = client.responses.create(
            model=MODEL,
            input=given,
            tools=[tool],
            tool_choice="required",
            max_output_tokens=60,
            parallel_tool_calls=False,
        )
        given += response.output
        given += [
            {"type": "function_call_output", "call_id": i.call_id, "output": "18"}
            for i in response.output
            if i.type == "function_call"
        ]
    list(client.responses.create(model=MODEL, input=given, tools=[tool], stream=True, max_output_tokens=FEW))
    client.responses.create(
        model=MODEL,
        input="And?",
        instructions="Be brief.",
        max_output_tokens=FEW,
        include=["reasoning.encrypted_content"],
        store=False,
    )


def with_agents(url: str) -> None:
    import openai
    from agents import (
        Agent,
        ModelSettings,
        OpenAIChatCompletionsModel,
        OpenAIResponsesModel,
        Runner,
        function_tool,
        set_tracing_disabled,
    )

    set_tracing_disabled(True)
    client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0)

    async def run() -> None:
        for kind in (OpenAIChatCompletionsModel, OpenAIResponsesModel):
            model = kind(model=MODEL, openai_client=client)
            settings = ModelSettings(max_tokens=FEW, tool_choice="required")
            agent = Agent(
                name="a",
                instructions="Use tools.",
                model=model,
                tools=[function_tool(weather)],
                model_settings=settings,
                tool_use_behavior="stop_on_first_tool",
            )
            given: list = []
            for question in (ASK, "And in Rome?", "Thanks."):
                result = await Runner.run(agent, [*given, {"role": "user", "content": question}], max_turns=4)
                given = result.to_input_list()
            agent.tools = []
            agent.model_settings = ModelSettings(max_tokens=FEW)
            await Runner.run(agent, [*given, {"role": "user", "content": "Goodbye."}])
            result = Runner.run_streamed(agent, "Hello.", max_turns=4)
            async for _ in result.stream_events():
                pass

    asyncio.run(run())


def with_langchain(url: str) -> None:
    from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI
    from pydantic import BaseModel

    class Person(BaseModel):
        name: str
        age: int

    for responses in (False, True):
        chat = ChatOpenAI(
            model=MODEL,
            base_url=url + "/v1",
            api_key="none",
            max_tokens=FEW,
            max_retries=0,
            use_responses_api=responses,
        )
        chat.invoke([SystemMessage("Be brief."), HumanMessage(ASK)])
        list(chat.stream(ASK))
        bound = chat.bind_tools([tool(weather)], tool_choice="any")
        history: list = [HumanMessage(ASK)]
        for _ in range(2):
            answer = bound.invoke(history)
            history += [
                answer,
                *(ToolMessage("18", tool_call_id=call["id"]) for call in answer.tool_calls + answer.invalid_tool_calls),
            ]
        chat.bind_tools([tool(weather)]).invoke(history)
        try:
            chat.with_structured_output(Person, method="json_schema").invoke("Ann is 30.")
        except Exception as error:  # cut off: what was sent is what counts
            print("langchain:", type(error).__name__)


def with_litellm(url: str) -> None:
    import litellm

    common = {
        "model": f"openai/{MODEL}",
        "api_base": url + "/v1",
        "api_key": "none",
        "max_tokens": FEW,
        "num_retries": 0,
    }
    messages: list = [{"role": "user", "content": ASK}]
    litellm.completion(messages=messages, **common)
    list(litellm.completion(messages=messages, stream=True, stream_options={"include_usage": True}, **common))
    answer = litellm.completion(messages=messages, tools=[TOOL], tool_choice="required", **common).choices[0].message
    messages += [
        answer.model_dump(),
        *({"role": "tool", "tool_call_id": c.id, "content": "18", "name": "weather"} for c in answer.tool_calls or ()),
    ]
    litellm.completion(messages=messages, tools=[TOOL], **common)
    anthropic = {**common, "model": f"anthropic/{MODEL}", "api_base": url}
    litellm.completion(messages=messages, tools=[TOOL], **anthropic)


def with_anthropic(url: str) -> None:
    import anthropic

    client = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    common = {
        "model": MODEL,
        "max_tokens": FEW,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}],
    }
    messages: list = [{"role": "user", "content": ASK}]
    tool = {"name": "weather", "description": "Weather of a city", "input_schema": TOOL["function"]["parameters"]}
    client.messages.create(messages=messages, stop_sequences=["\n\n"], metadata={"user_id": "u"}, **common)
    with client.messages.stream(messages=messages, **common) as events:
        assert events.get_final_message().content is not None
    for _ in range(2):
        answer = client.messages.create(
            messages=messages, tools=[tool], tool_choice={"type": "any"}, **{**common, "max_tokens": 60}
        )
        assert answer.stop_reason in ("tool_use", "max_tokens"), answer
        results = [
            {"type": "tool_result", "tool_use_id": b.id, "content": [{"type": "text", "text": "18"}]}
            for b in answer.content
            if b.type == "tool_use"
        ]
        messages += [{"role": "assistant", "content": answer.content}, {"role": "user", "content": results}]
    with client.messages.stream(messages=messages, tools=[tool], **common) as events:
        events.get_final_message()
    assert client.messages.count_tokens(model=MODEL, messages=messages, tools=[tool]).input_tokens > 20


def with_ollama(url: str) -> None:
    import ollama

    client = ollama.Client(host=url)
    assert client.list().models
    messages: list = [{"role": "user", "content": ASK}]
    client.chat(model=MODEL, messages=messages, options={"num_predict": FEW, "temperature": 0})
    list(client.chat(model=MODEL, messages=messages, stream=True, options={"num_predict": FEW}))
    call = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "weather", "arguments": {"city": "Paris"}}}],
    }
    client.chat(
        model=MODEL,
        messages=[*messages, call, {"role": "tool", "content": "18", "tool_name": "weather"}],
        tools=[weather],
        options={"num_predict": FEW},
    )


CLIENTS = {
    "openai": with_openai, "openai-agents": with_agents, "langchain-openai": with_langchain, "litellm": with_litellm,
    "anthropic": with_anthropic, "ollama": with_ollama,
}  # fmt: skip


def main() -> None:
    """Run every client, and keep what each sent."""
    url, log, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    kept, at = [], 0
    for name, run in CLIENTS.items():
        try:
            run(url)
        except Exception as error:
            print(f"{name}: {type(error).__name__}: {str(error)[:400]}")
        lines = log.read_text().splitlines()
        for line in map(json.loads, lines[at:]):
            if line["method"] == "POST" and "body" in line:
                kept.append({"client": f"{name} {version(name)}", "path": line["path"], "body": line["body"]})
                if line["status"] != 200:
                    print(f"{name}: {line['path']} gave {line['status']}: {json.dumps(line['body'])[:600]}")
        at = len(lines)
    out.write_text("".join(json.dumps(one) + "\n" for one in kept))
    print(f"{len(kept)} requests, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
