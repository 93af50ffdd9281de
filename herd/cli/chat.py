"""Talk with a model in the terminal, or answer what is piped in.

\b
Examples:
  herd chat
  herd chat Llama-3.1-8B-Instruct --temperature 0.6
  herd chat --tools code_interpreter,calculator --documents notes/
  echo "What is the capital of France?" | herd chat
"""

import sys
from typing import Annotated, Optional

import typer

from herd.cli.common import (
    BackendFlag,
    ContextFlag,
    DeviceFlag,
    DocumentsFlag,
    DtypeFlag,
    KvCacheFlag,
    MaxTokensFlag,
    McpFlag,
    Model,
    SeedFlag,
    TemperatureFlag,
    ThreadsFlag,
    ToolsFlag,
    TopKFlag,
    TopPFlag,
    open_model,
    open_tools,
    show_call,
    state_home,
)
from herd.config import read
from herd.engine.conversation import Conversation
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.errors import RequestError
from herd.text.chat import chat_format
from herd.text.messages import Message
from herd.weights.hub import DEFAULT_MODEL
from herd.weights.presets import preset_for


def command(
    model: Model = DEFAULT_MODEL,
    system: Annotated[Optional[str], typer.Option(help="System message. Default: the model's preset.")] = None,
    temperature: TemperatureFlag = None,
    top_p: TopPFlag = None,
    top_k: TopKFlag = None,
    seed: SeedFlag = None,
    max_tokens: MaxTokensFlag = None,
    speed: Annotated[bool, typer.Option("--speed", help="Print tokens per second after each reply.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="No Markdown, no colours.")] = False,
    backend: BackendFlag = "auto",
    device: DeviceFlag = None,
    dtype: DtypeFlag = None,
    threads: ThreadsFlag = None,
    context: ContextFlag = None,
    kv_cache: KvCacheFlag = None,
    tools: ToolsFlag = None,
    mcp: McpFlag = None,
    documents: DocumentsFlag = None,
) -> None:
    box = open_tools(tools, mcp, documents)
    checkpoint = open_model(model)
    preset = preset_for(checkpoint.config)
    params = read(
        SamplingParams,
        None,
        {
            "temperature": preset.temperature if temperature is None else temperature,
            "top_p": preset.top_p if top_p is None else top_p,
            "repetition_penalty": preset.repetition_penalty,
            "top_k": top_k,
            "seed": seed,
            "max_tokens": max_tokens,
        },
    )
    params.check(checkpoint.config.vocab)
    spoken = preset.system if system is None else system
    dialog = chat_format(checkpoint.tokenizer, checkpoint.chat_template)
    opened = open_engine(
        checkpoint, backend, device=device, dtype=dtype, threads=threads, cache_tokens=context, kv_cache=kv_cache
    )
    with opened as engine, box:
        conversation = Conversation(engine, dialog, params, [Message("system", spoken)] if spoken else [])
        if box.runners:
            conversation.run = box.run
            conversation.tools, conversation.builtin = box.offered(dialog.show_special)
        if sys.stdin.isatty() and sys.stdout.isatty():
            from herd.cli.terminal import Terminal

            Terminal(conversation, checkpoint.name or model, state_home(), preset.note, speed=speed, plain=plain).run()
            return
        question = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
        if not question:
            raise RequestError(
                "nothing to answer: standard input is empty; pipe a question in, or run it in a terminal"
            )
        for part in conversation.say(question):
            print(part if isinstance(part, str) else f"\n{show_call(part)}\n", end="", flush=True)
        print()
