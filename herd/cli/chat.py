"""Talk with a model in the terminal, or answer what is piped in.

\b
Examples:
  herd chat
  herd chat Llama-3.1-8B-Instruct --temperature 0.6
  herd chat --tools code_interpreter,calculator --documents notes/
  herd chat --safety --tools code_interpreter
  echo "..." | herd chat --safety     # exit status 1 when an answer was stopped, with the reason on stderr
  echo "What is the capital of France?" | herd chat
"""

import json
import sys
from pathlib import Path
from typing import Any

import click

from herd.cli.common import (
    cache_options,
    context_option,
    documents_option,
    draft_option,
    engine_options,
    mcp_option,
    model_argument,
    open_model,
    open_shield,
    open_tools,
    sampling_options,
    show_call,
    state_home,
    system_option,
    tools_option,
    warn,
)
from herd.config import read
from herd.engine.agent import Agent
from herd.engine.conversation import Conversation
from herd.engine.open import open_engine
from herd.engine.request import SamplingParams
from herd.errors import RequestError
from herd.safety.look import Fired
from herd.text.messages import Message, ToolCall
from herd.weights.presets import preset_for


@click.command(help=__doc__)
@model_argument
@system_option
@sampling_options
@click.option("--speed", is_flag=True, help="Print tokens per second after each reply.")
@click.option("--plain", is_flag=True, help="No Markdown, no colours.")
@context_option
@engine_options
@draft_option
@cache_options
@tools_option
@mcp_option
@documents_option
@click.option(
    "--safety",
    is_flag=False,
    flag_value="block",
    help="A Shield: block, annotate, or a policy's TOML file. Alone: block.",
)
def command(
    model: str,
    system: str | None,
    temperature: float | None,
    top_p: float | None,
    top_k: int | None,
    seed: int | None,
    max_tokens: int | None,
    speed: bool,
    plain: bool,
    cache_tokens: int | None,
    tools: str | None,
    mcp: Path | None,
    documents: Path | None,
    safety: str | None,
    **backend: Any,
) -> int:
    shield = None if safety is None else open_shield(safety)
    stopped: list[Fired] = []
    box = open_tools(tools, mcp, documents)
    checkpoint = open_model(model)
    preset = preset_for(checkpoint)
    params = read(
        SamplingParams,
        flags={"temperature": temperature, "top_p": top_p, "top_k": top_k, "seed": seed, "max_tokens": max_tokens},
        values=preset.params(),
    )
    params.check(checkpoint.config.vocab)
    spoken = preset.system if system is None else system
    dialog = checkpoint.chat_format()
    with open_engine(checkpoint, cache_tokens=cache_tokens, warn=warn, **backend) as engine, box:
        agent = Agent(engine, dialog, box)
        conversation = Conversation(agent, params, [Message("system", spoken)] if spoken else [])
        typed = sys.stdin.isatty() and sys.stdout.isatty()
        if shield is not None:
            conversation.reply = lambda turns: shield.reply(agent, turns, _ask if typed else None)
            shield.on_fired = lambda fired: (
                stopped.append(fired) if fired.action == "block" and fired.where in ("input", "output") else None
            )
        if typed:
            from herd.cli.terminal import Terminal

            Terminal(conversation, checkpoint.name or model, state_home(), preset.note, speed=speed, plain=plain).run()
            return 0
        question = sys.stdin.buffer.read().decode("utf-8", "replace").strip()
        if not question:
            raise RequestError(
                "nothing to answer: standard input is empty; pipe a question in, or run it in a terminal"
            )
        for part in conversation.say(question):
            print(part if isinstance(part, str) else f"\n{show_call(part)}\n", end="", flush=True)
        print()
    for fired in stopped:
        warn(f"stopped by the Shield: {fired.where}.{fired.check}: {fired.detail or fired.failure}")
    return int(bool(stopped))


def _ask(call: ToolCall, why: str) -> bool:
    """Whether the user allows a call that may do harm."""
    return click.confirm(f"\n{why}. Run {json.dumps(call.arguments, ensure_ascii=False)[:500]}?", err=True)
