"""A function over many jobs: in this process, in several, or on a Ray cluster whose machines see the same folders."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from herd.errors import MissingDependencyError

Job = tuple[Any, ...]


def each(function: Callable[..., Any], jobs: Sequence[Job], workers: int = 1, ray: str | None = None) -> Iterator[Any]:
    """What the function gives of each job, on a cluster in the order in which they end. The first error ends it.

    `ray` is the address of a cluster, or "local": one of `workers` processes on this machine.
    """
    if not jobs:
        return
    if ray is not None:
        yield from _on_ray(function, jobs, workers, ray)
    elif workers <= 1:
        yield from (function(*job) for job in jobs)
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            for waiting in [pool.submit(function, *job) for job in jobs]:
                yield waiting.result()


def _on_ray(function: Callable[..., Any], jobs: Sequence[Job], workers: int, address: str) -> Iterator[Any]:
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError("--ray needs Ray; install it: pip install 'llama-herd[ray]'") from error
    here: dict[str, Any] = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    ray.init(address=address, log_to_driver=False, **here)
    try:
        task = ray.remote(function)  # a machine that is lost has its parts made elsewhere
        waiting = [task.remote(*job) for job in jobs]
        while waiting:
            (done, *_), waiting = ray.wait(waiting)
            yield ray.get(done)
    finally:
        ray.shutdown()
