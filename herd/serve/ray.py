"""The server as a Ray Serve deployment, for many machines: `serve run herd.serve.ray:app model=/path/model.gguf replicas=2`.

`safety` is a policy's name or file, as for `herd serve`; off is none.
"""

from pathlib import Path
from typing import Any

from ray import serve


def app(arguments: dict[str, str]) -> Any:
    """A Ray application: `replicas` engines of `threads` cores each, behind one address, on the `model` at a path."""
    threads = int(arguments.get("threads", "1"))

    def build() -> Any:
        from herd.engine.open import open_engine
        from herd.safety.policy import read_policy
        from herd.serve.app import create_app
        from herd.serve.gate import GateSettings
        from herd.serve.models import Models
        from herd.serve.served import Served
        from herd.serve.settings import called
        from herd.serve.start import open_shield
        from herd.weights.open import open_checkpoint
        from herd.weights.presets import preset_for

        checkpoint = open_checkpoint(Path(arguments["model"]))
        name = arguments.get("safety", "annotate")
        policy = None if name == "off" else read_policy(name)

        def load(metrics: Any) -> Models:
            chat = checkpoint.chat_format()
            engine = open_engine(checkpoint, threads=threads)
            guard = None
            if policy is not None and policy.uses("llama_guard"):
                guard = open_checkpoint(Path(policy.llama_guard.model))
            shield = None if policy is None else open_shield(policy, guard, metrics)
            name = called(arguments["model"])
            return Models.of(Served(name, engine, chat, preset_for(checkpoint), metrics, shield=shield))

        return create_app(load, GateSettings(loopback=False), ready_first=True)

    @serve.deployment(num_replicas=int(arguments.get("replicas", "1")), ray_actor_options={"num_cpus": threads})
    @serve.ingress(build)
    class Herd:
        """One replica."""

    made: Any = Herd
    return made.bind()
