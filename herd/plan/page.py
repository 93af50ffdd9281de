"""`herd plan --page`: a page of sliders over the planner. Every figure on it is computed here, by what the command computes with."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from herd.errors import HerdError
from herd.family import SHAPES, shape
from herd.plan import inference
from herd.plan.constants import GPUS, STACKS, gpu, stack
from herd.plan.faults import Cluster, daly, simulate, young
from herd.plan.layout import Work
from herd.plan.search import search

PAGE = Path(__file__).parent / "page"
SHOWN = 8  # layouts
_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"

Count = Annotated[int, Meta(ge=1, le=1 << 40)]
Positive = Annotated[float, Meta(gt=0, le=1e18)]


class Train(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `herd plan MODEL` is asked; `dollars` an hour and GPU, the GPU's own if None."""

    model: str
    gpus: Annotated[int, Meta(ge=1, le=1 << 20)]
    gpu: str = "h100"
    stack: str = "meta"
    context: Count = 8192
    batch: Count = 1 << 22
    tokens: Positive = 15.6e12
    precision: str | None = None
    dollars: Positive | None = None


class Serve(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `herd plan serve MODEL` is asked."""

    model: str
    gpu: str = "h100"
    context: Count = 8192
    sequences: Count = 8


class Faults(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What `herd plan faults` is asked."""

    gpus: Annotated[int, Meta(ge=1, le=1 << 20)] = 16384
    days: Annotated[float, Meta(gt=0, le=365)] = 54.0
    detection: float = 60.0
    restart: float = 360.0
    interval: Annotated[float, Meta(ge=10)] = 600.0
    stall: float = 3.0
    spares: int = 64


def plan_training(asked: Train) -> dict[str, Any]:
    """The best layouts, why the others were rejected, what it rests on."""
    accelerator, software = gpu(asked.gpu), stack(asked.stack)
    if asked.dollars is not None:
        accelerator = dataclasses.replace(accelerator, dollars_per_hour=asked.dollars)
    work = Work(shape(asked.model), asked.context, asked.batch, asked.precision or software.precision)
    found = search(work, asked.gpus, accelerator, software)
    plans = [
        {
            "layout": str(plan.layout), "mfu": plan.mfu, "tflops": plan.tflops_per_gpu, "step": plan.time.total,
            "time": dataclasses.asdict(plan.time), "memory": dataclasses.asdict(plan.memory), "used": plan.memory.total,
            **plan.cost(work, accelerator, asked.tokens),
        }
        for plan in found.plans[:SHOWN]
    ]  # fmt: skip
    rests = [f"{software.name}'s efficiency of {software.efficiency:.1%}: {software.fitted_to}", accelerator.source]
    if software.precision != work.precision:
        rests.append(f"that efficiency was measured in {software.precision}, not in {work.precision}: a guess here")
    rests.append(f"{accelerator.dollars_per_hour} dollars a GPU hour: an assumption")
    return {
        "plans": plans, "rejected": [(kind, count, str(example)) for kind, count, example in found.reasons()],
        "rests": rests, "room": accelerator.memory,
    }  # fmt: skip


def plan_serving(asked: Serve) -> dict[str, Any]:
    """The fewest GPUs that serve a model, by number format."""
    accelerator = gpu(asked.gpu)
    found = []
    for numbers in ("bf16", *(("fp8",) if accelerator.fp8 else ())):
        one = inference.serve(
            shape(asked.model), accelerator, context=asked.context, sequences=asked.sequences, numbers=numbers
        )
        found.append({"numbers": numbers, "servers": -(-one.gpus // accelerator.node), **dataclasses.asdict(one)})
    return {"services": found}


def plan_faults(asked: Faults) -> dict[str, Any]:
    """Effective time over 100 simulated runs, and the checkpoint intervals of Young and Daly."""
    values = msgspec.structs.asdict(asked)
    cluster = Cluster(hours=values.pop("days") * 24, **values)
    found = simulate(cluster, 100)
    return {
        "effective": [found.effective.value, found.effective.low, found.effective.high], "failures": found.failures,
        "lost": found.lost, "young": young(cluster), "daly": daly(cluster),
    }  # fmt: skip


_ASKED: dict[str, tuple[type[Any], Callable[[Any], dict[str, Any]]]] = {
    "train": (Train, plan_training),
    "serve": (Serve, plan_serving),
    "faults": (Faults, plan_faults),
}


def create_page(shared: Path) -> Starlette:
    """The application. `shared` is the folder of what all pages of herd use."""

    def answer(request: Request) -> Response:
        what = request.path_params["what"]
        if what not in _ASKED:
            return _json({"error": f"{what}: expected one of {', '.join(_ASKED)}"}, 404)
        kind, plan = _ASKED[what]
        try:
            found = plan(msgspec.convert(dict(request.query_params), kind, strict=False))
        except (HerdError, msgspec.ValidationError) as error:
            return _json({"error": str(error)}, 400)
        return _json(found)

    def choices(_: Request) -> Response:
        gpus = {one.name: {"dollars": one.dollars_per_hour, "fp8": bool(one.fp8)} for one in GPUS.values()}
        contexts = {name: model.context for name, model in SHAPES.items()}
        return _json({"models": contexts, "gpus": gpus, "stacks": {s.name: s.precision for s in STACKS.values()}})

    def index(_: Request) -> Response:
        return FileResponse(PAGE / "index.html", headers={"Content-Security-Policy": _POLICY})

    routes = [
        Route("/", index), Route("/api/choices", choices), Route("/api/{what}", answer),
        Mount("/page", StaticFiles(directory=shared)), Mount("/plan", StaticFiles(directory=PAGE)),
    ]  # fmt: skip
    return Starlette(routes=routes)


def _json(value: Any, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")
