"""The models of a server by name: loaded when they are asked for, dropped when others need their place.

At most so many are in memory at a time. Requests for one that is not wait in its own line, with a bound; it comes in as soon as one
that nobody uses can go, the longest unused first. Where all are busy, the one that has been there longest takes no new
requests until it is idle and gone; they wait in its line, so that no model keeps another out.
"""

import asyncio
import contextlib
import gc
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import msgspec

from herd.errors import HerdError, QueueFullError
from herd.safety.shield import Shield
from herd.serve.errors import ApiError
from herd.serve.metrics import Metrics
from herd.serve.pools import Pools
from herd.serve.served import Served
from herd.text.messages import Tool
from herd.tools import ToolBox
from herd.weights.memory import free_memory, used_memory
from herd.weights.presets import Preset

_AGAIN = 10.0  # seconds after a load that failed in which the next requests get its error


class Card(msgspec.Struct, kw_only=True):
    """What is known of a model that need not be in memory."""

    name: str
    context: int  # tokens
    preset: Preset
    use_preset: bool = True
    tools: list[Tool]
    needs: int = 0  # bytes of memory, as far as that is known
    left_out: dict[str, str] = {}
    created: int = msgspec.field(default_factory=lambda: int(time.time()))


@dataclass
class _Place:
    card: Card
    served: Served | None = None
    users: int = 0  # requests that have it
    line: "deque[asyncio.Future[Served]]" = field(default_factory=deque)
    since: float = 0.0  # when it came in
    used: float = 0.0  # when its last request ended
    took: float = 0.0  # seconds to load
    leaving: bool = False
    unused: float = -1.0  # `used` as it was when it had been idle for too long
    failed: tuple[float, Exception] | None = None

    @property
    def state(self) -> str:
        """loaded, loading, unloaded, failed or stopped."""
        if self.served is not None:
            return "loaded" if self.served.engine.healthy else "stopped"
        return "loading" if self.line else "failed" if self.failed else "unloaded"


class Models:
    """`load` makes the model of a name; it takes seconds and runs on a thread. All else is the event loop's."""

    def __init__(
        self,
        cards: Sequence[Card],
        load: Callable[[str], Served],
        *,
        resident: int = 1,
        max_waiting: int = 512,
        idle: float | None = None,
        pools: Pools,
        metrics: Metrics,
        toolbox: ToolBox | None = None,
        shield: Shield | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        self._places = {card.name: _Place(card) for card in cards}
        self._load, self._resident, self._most, self._idle, self._say = load, resident, max_waiting, idle, say
        self.pools, self.metrics, self._toolbox, self.shield = pools, metrics, toolbox, shield
        self._thread = ThreadPoolExecutor(1, "herd-load")
        self._wanted: deque[_Place] = deque()  # in the order in which they were first asked for
        self._changed = asyncio.Event()  # somebody let go of a model
        self._work: asyncio.Task[None] | None = None

    @classmethod
    def of(cls, served: Served) -> "Models":
        """One model that is there already."""
        card = Card(
            name=served.name, context=served.engine.max_length, preset=served.preset, use_preset=served.use_preset,
            tools=served.toolbox.tools,
        )  # fmt: skip
        models = cls(
            [card], lambda _: served, pools=served.pools, metrics=served.metrics, toolbox=served.toolbox,
            shield=served.shield,
        )  # fmt: skip
        models.begin()
        return models

    def begin(self) -> None:
        """Load the first model, on the caller's thread, before anybody asks. An error is the only model's, or is kept for its requests."""
        first = next(iter(self._places.values()))
        try:
            self._bring(first)
        except Exception as error:
            if len(self._places) == 1:
                raise
            self._failed(first, error)

    @property
    def cards(self) -> list[Card]:
        """All models, in the order in which they were given."""
        return [place.card for place in self._places.values()]

    @property
    def states(self) -> dict[str, str]:
        """loaded, loading, unloaded, failed or stopped, by name."""
        return {name: place.state for name, place in self._places.items()}

    @property
    def loaded(self) -> list[Served]:
        """Those in memory."""
        return [place.served for place in self._places.values() if place.served is not None]

    def card(self, name: str | None) -> Card:
        """The model of a name; the first where none is given. ApiError for one that is not served here."""
        return self._place(name).card

    def _place(self, name: str | None) -> _Place:
        if not name:
            return next(iter(self._places.values()))
        place = self._places.get(name) or self._places.get(name.removesuffix(":latest"))  # Ollama's clients add it
        if place is None:
            here = ", ".join(map(repr, self._places))
            raise ApiError(
                404, f"the model {name[:200]!r} is not served here; expected {here}", param="model", code="model_not_found"
            )  # fmt: skip
        return place

    async def take(self, name: str | None) -> Served:
        """The model of a name, when it is in memory; it stays there until it is given back with `give`."""
        place = self._place(name)
        if place.served is not None and not place.leaving:
            if not place.served.engine.healthy:
                raise ApiError(503, "the engine has stopped", code="stopped")
            place.users += 1
            return place.served
        if place.failed is not None and time.monotonic() < place.failed[0] + _AGAIN:
            raise self._told(place, place.failed[1])
        if len(place.line) >= self._most:
            raise QueueFullError(
                f"the queue of {place.card.name} is full ({self._most} requests wait); try again later"
            )
        coming: asyncio.Future[Served] = asyncio.get_running_loop().create_future()
        place.line.append(coming)
        self._want(place)
        try:
            return await coming
        except asyncio.CancelledError:
            if coming.done() and not coming.cancelled() and coming.exception() is None:
                self.give(place.card.name)
            raise
        finally:
            with contextlib.suppress(ValueError):
                place.line.remove(coming)
            self._changed.set()

    def give(self, name: str) -> None:
        """A request for this model is over."""
        place = self._places[name]
        place.users -= 1
        place.used = time.monotonic()
        self._changed.set()
        if self._idle is not None and not place.users:
            asyncio.get_running_loop().call_later(self._idle, self._rest, place, place.used)

    def _rest(self, place: _Place, used: float) -> None:
        """A model has been idle for too long, if nobody has asked for it since."""
        place.unused = used
        self._want(place)

    def _want(self, place: _Place) -> None:
        """Something is to be done for a model: bring it in, or out."""
        if place not in self._wanted:
            self._wanted.append(place)
        if self._work is None or self._work.done():
            self._work = asyncio.create_task(self._manage())

    async def _manage(self) -> None:
        while self._wanted:
            place = self._wanted[0]
            try:
                await self._serve(place)
            except Exception as error:
                self._failed(place, error)
                while place.line:
                    if not (coming := place.line.popleft()).done():
                        coming.set_exception(self._told(place, error))
            self._wanted.popleft()

    async def _serve(self, place: _Place) -> None:
        """Have a model in memory for those in its line; without any, drop it if it is idle for too long."""
        if not place.line and not place.users and place.unused == place.used:
            await self._drop(place)
        while place.line and place.served is None:
            if len(self.loaded) >= self._resident or self._must_go(place.card):
                await self._make_room()
            else:
                await asyncio.get_running_loop().run_in_executor(self._thread, self._bring, place)
        for other in self._places.values():
            other.leaving = False
        while place.line and place.served is not None:
            if not (coming := place.line.popleft()).done():
                place.users += 1
                coming.set_result(place.served)

    def _must_go(self, card: Card) -> bool:
        """Whether a model has room in memory only when others are gone. What these may still come to use is not free."""
        there = sum(place.card.needs for place in self._places.values() if place.served is not None)
        missing = card.needs - (free_memory() - max(0, there - used_memory()))
        return 0 < missing <= there  # with more missing it would be in vain: loading says so

    async def _make_room(self) -> None:
        """Drop the longest unused of the models that nobody uses; where all are in use, the oldest as soon as it can go."""
        there = [place for place in self._places.values() if place.served is not None]
        idle = [place for place in there if not place.users]
        if idle:
            await self._drop(min(idle, key=lambda place: place.used))
            return
        place = min(there, key=lambda place: place.since)
        stays = place.since + place.took - time.monotonic()  # at least as long as it took to come
        if stays <= 0:
            place.leaving = True
        self._changed.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._changed.wait(), None if stays <= 0 else stays)

    def _bring(self, place: _Place) -> None:
        begun = time.monotonic()
        served = self._load(place.card.name)
        card = place.card
        card.context, card.tools, card.left_out = served.engine.max_length, served.toolbox.tools, served.left_out
        place.since = place.used = time.monotonic()
        place.took, place.failed = place.since - begun, None
        place.served = served
        _settle()
        self.metrics.loads.labels(card.name, "loaded").inc()

    async def _drop(self, place: _Place) -> None:
        served, place.served = place.served, None
        if served is not None:
            await asyncio.get_running_loop().run_in_executor(self._thread, _close, served)

    def _failed(self, place: _Place, error: Exception) -> None:
        place.failed = time.monotonic(), error
        self.metrics.loads.labels(place.card.name, "failed").inc()
        self._say(f"{place.card.name} cannot be loaded: {error if isinstance(error, HerdError) else repr(error)}")

    def _told(self, place: _Place, error: Exception) -> ApiError:
        why = str(error) if isinstance(error, HerdError | OSError) else "the server's log has the details"
        return ApiError(
            503, f"the model {place.card.name!r} cannot be loaded: {why}", code="model_not_loaded",
            retry_after=int(_AGAIN),
        )  # fmt: skip

    def observe(self) -> None:
        """Note for the metrics how full each engine is."""
        for name, place in self._places.items():
            served = place.served
            self.metrics.observe(name, None if served is None else served.engine, len(place.line))

    def close(self) -> None:
        """Stop everything; called when no request is left, off the event loop."""
        self._thread.shutdown(cancel_futures=True)
        self.pools.close()
        for served in self.loaded:
            served.close()
        if self._toolbox is not None:
            self._toolbox.close()
        if self.shield is not None:
            self.shield.close()


def _close(served: Served) -> None:
    served.close()
    _settle()


def _settle() -> None:
    """Leave what is there to stay out of later garbage collections: looking through a tokenizer's tables stops all threads for 0.1 s."""
    gc.unfreeze()
    gc.collect()
    gc.freeze()
