"""Units of work as Ray tasks, on this machine or a cluster that shares the file system of SRC and DST.

The ciphers, compiled plans without the key, go to the workers once, through Ray's object store. A unit whose
worker dies is done again by another one: its output is renamed into place whole, so it makes no difference.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from blockenc.datasets.engine import WAITING, Done, Engine, Outcome, hand_out
from blockenc.datasets.work import Job, Unit, do
from blockenc.errors import BlockencError

RETRIES = 10  # of a unit whose worker died; an error that the work raises is not tried again


def in_ray(address: str | None = None) -> Engine:
    """The engine that joins the cluster at `address`; default: RAY_ADDRESS, else a local one for this job.

    A Ray that is running in this process is used as it is. Raises BlockencError without Ray.
    """
    try:
        import ray
    except ImportError:
        raise BlockencError("--engine ray needs Ray: pip install 'blockenc[ray]'") from None

    def engine(job: Job, units: Iterable[Unit], workers: int | None) -> Iterator[Done]:
        if any(cipher.per_image or not cipher.takes_any_size for cipher in job.ciphers.values()):
            raise BlockencError(
                "--engine ray: workers have no key, and keys for each image (--per-image) or image size "
                "(period=image) are derived from it; use --engine threads, and --shard on several machines"
            )
        ours = not ray.is_initialized()
        if ours:
            ray.init(
                address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
            )
        try:
            yield from _tasks(ray, job, units, workers)
        finally:
            if ours:
                ray.shutdown()

    return engine


def _tasks(ray: Any, job: Job, units: Iterable[Unit], workers: int | None) -> Iterator[Done]:
    task = ray.remote(do).options(max_retries=RETRIES, retry_exceptions=False, num_cpus=1)
    # Workers need not have this process's working folder.
    places = {name: getattr(job, name).absolute() for name in ("source", "folder", "temporary")}
    shared = ray.put(dataclasses.replace(job, **places))
    limit = workers or WAITING * int(ray.cluster_resources().get("CPU", 1))

    def finished(pending: list[Any]) -> Iterator[tuple[Any, Outcome]]:
        for reference in ray.wait(pending)[0]:
            try:
                yield reference, ray.get(reference)
            except ray.exceptions.TaskCancelledError:
                yield reference, None
            except ray.exceptions.RayTaskError as error:
                yield reference, error.cause
            except ray.exceptions.RayError as error:
                yield reference, BlockencError(f"Ray gave up a unit: {error}")

    yield from hand_out(job, units, limit, lambda unit: task.remote(shared, unit), finished, ray.cancel)
