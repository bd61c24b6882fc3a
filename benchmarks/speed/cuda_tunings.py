"""Ways to run the CUDA kernel `tiles` from bytes to bytes, for benchmarks.speed.cuda to compare."""

from __future__ import annotations

KIB = 1024


def tunings(processors: int) -> dict[str, tuple[int, int, int, bool, int]]:
    """Each a Tuning of csrc/cuda/tuning.h (threads of a thread block, bytes wanted of a tile, least tiles,
    whether vectors are set apart, tiles ahead by asynchronous copies), for a device of that many
    multiprocessors.

    A tile is a power of two of strips, so a batch cut into at least so many tiles has fewer than twice as
    many. "default again" is what runs untuned: how far it is from that is the error of the measurement.
    """
    half = processors // 2 + 1  # so that there is at most about one tile a multiprocessor
    return {
        "default again": (256, 24 * KIB, 1, False, 0),
        "spread": (256, 24 * KIB, half, False, 0),
        "spread twice": (256, 24 * KIB, processors + 1, False, 0),
        "12 KiB": (256, 12 * KIB, 1, False, 0),
        "padded": (256, 24 * KIB, 1, True, 0),
        "padded, spread": (256, 24 * KIB, half, True, 0),
        "padded, 12 KiB": (256, 12 * KIB, 1, True, 0),
        "padded, 192 threads, 12 KiB": (192, 12 * KIB, 1, True, 0),
        "padded, 384 threads": (384, 24 * KIB, 1, True, 0),
        "async": (256, 24 * KIB, 1, False, 1),
        "async, 12 KiB": (256, 12 * KIB, 1, False, 1),
        "async 2, 12 KiB": (256, 12 * KIB, 1, False, 2),
        "padded, async": (256, 24 * KIB, 1, True, 1),
        "padded, async, 12 KiB": (256, 12 * KIB, 1, True, 1),
        "padded, async, 384 threads": (384, 24 * KIB, 1, True, 1),
        "padded, async 2, 192 threads, 12 KiB": (192, 12 * KIB, 1, True, 2),
    }
