"""Callers in many threads, and DataLoader workers forked or spawned after threads have run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from blockenc import Cipher, Key, encrypt
from blockenc.nn import Encrypt
from tests import oracle


def test_python_threads(backend: str) -> None:
    """Many callers at once, each with a batch large enough for several native threads."""
    cipher = Cipher(oracle.KEY, backend=backend)
    batches = [oracle.image((16, 3, 128, 128), seed=n) for n in range(8)]
    want = [cipher.encrypt(batch) for batch in batches]
    results: list[bool] = []

    def work(n: int) -> None:
        results.extend(torch.equal(cipher.encrypt(batches[n]), want[n]) for _ in range(5))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 40


class EncryptedSet(torch.utils.data.Dataset):
    def __init__(self, cipher: Cipher) -> None:
        self.cipher = cipher
        self.images = [oracle.image((16, 3, 128, 128), seed=n) for n in range(6)]
        self.images += [oracle.image((4, 3, 128, 128), torch.float32)]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, n: int) -> torch.Tensor:
        torch.set_num_threads(2)  # a worker starts with one
        return self.cipher.encrypt(self.images[n])


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_loader_workers(backend: str, start: str) -> None:
    """After the parent has used its threads, forked and spawned workers encrypt as it does."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of any fork beside threads
        data = EncryptedSet(Cipher(oracle.KEY, backend=backend))
        want = [data[n] for n in range(len(data))]
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=None,
            num_workers=2,
            timeout=60,
            multiprocessing_context=multiprocessing.get_context(start),
        )
        assert all(torch.equal(got, expected) for got, expected in zip(loader, want, strict=True))


def told_by_a_process(images: tuple[int, ...], threads: int, code: str) -> list[str]:
    """What the code prints, in words. It has a cipher, zeros x of that shape, and `tasks`, the threads now;
    `before` are those that were there before the first call, torch's own included."""
    setup = (
        "import os, torch, blockenc; cipher = blockenc.Cipher(bytes(32), backend='native'); "
        f"torch.set_num_threads({threads}); x = torch.zeros({images}, dtype=torch.uint8); "
        "tasks = lambda: set(os.listdir('/proc/self/task')); before = tasks(); "
    )
    done = subprocess.run([sys.executable, "-c", setup + code], capture_output=True, text=True, check=True)
    return done.stdout.split()


tells_threads = pytest.mark.skipif(
    not os.path.isdir("/proc/self/task"), reason="nothing here tells a process's threads"
)


@tells_threads
def test_no_more_threads_than_there_is_work() -> None:
    (new,) = told_by_a_process((8, 3, 224, 224), 64, "cipher.encrypt(x); print(len(tasks() - before))")
    assert 1 <= int(new) <= 4  # 1.2 MB are work for four threads beside the caller's


@tells_threads
def test_small_batches_wake_no_thread() -> None:
    code = (
        "[cipher.encrypt(x) for _ in range(50)]; few = len(tasks() - before); "
        "cipher.encrypt(x.repeat(3, 1, 1, 1)); print(few, len(tasks() - before))"
    )
    assert told_by_a_process((128, 3, 32, 32), 2, code) == ["0", "1"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinities are Linux's")
def test_threads_keep_off_the_processor_of_the_caller() -> None:
    """Where it may run on another; the program's own threads are left alone."""
    code = (
        "allowed = os.sched_getaffinity(0); cipher.encrypt(x); new = tasks() - before; "
        "off = [allowed - os.sched_getaffinity(int(task)) for task in new]; "
        "assert [len(processors) for processors in off] == [len(allowed) > 1]; "
        "assert all(os.sched_getaffinity(int(task)) == allowed for task in before); "
        "one = min(allowed); os.sched_setaffinity(0, {one}); cipher.encrypt(x); "
        "assert torch.equal(cipher.decrypt(cipher.encrypt(x)), x)"
    )
    told_by_a_process((8, 3, 224, 224), 2, code)


def test_threads_share_a_new_key() -> None:
    """Threads that meet at a key nobody has compiled yet all get the right answer."""
    x = oracle.image((4, 3, 32, 32))
    want = Cipher(oracle.KEY).encrypt(x)
    key, start, results = Key(oracle.KEY), threading.Barrier(8), []

    def work() -> None:
        start.wait(60)
        results.append(torch.equal(encrypt(x, key), want))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == [True] * 8


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_forks_beside_threads_that_encrypt(backend: str) -> None:
    """A fork at any instant of other threads' calls leaves the child no lock that nobody will open.

    Locks that a fork does not take into account hang 1 child of 300 or so: many runs of this test find them.
    """
    cipher = Cipher(oracle.KEY, backend=backend, steps=("shuffle", "np"))
    small = oracle.image((1, 3, 16, 16))
    images = [small, oracle.image((8, 3, 256, 256)), oracle.image((1, 3, 16, 16), torch.float32)]
    want = [cipher.encrypt(image) for image in images]
    padding = Cipher(oracle.KEY, backend=backend, fit="pad")
    layers = [Encrypt(padding), Encrypt(padding, form="aten")]
    floats = oracle.image((4, 3, 254, 255), torch.float32)
    torch.aminmax(floats)  # torch has threads now, which a child waits for in vain
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            cipher.encrypt(small)
            Cipher(oracle.KEY, backend=backend, steps=("np",)).encrypt(small)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for n in range(30):
            child = os.fork()
            if child == 0:
                signal.alarm(60)  # what hangs dies of it
                # Compared by NumPy: torch would wait for threads that stayed in the parent.
                same = np.array_equal(cipher.encrypt(images[n % 3]).numpy(), want[n % 3].numpy())
                fresh = Cipher(oracle.KEY, backend=backend).encrypt(small) is not None
                layers[n % 2](floats)
                os._exit(0 if same and fresh else 3)
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
