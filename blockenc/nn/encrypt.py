"""Encryption as the first layer of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from blockenc.backends import aten
from blockenc.cipher import Cipher, Passes, as_cipher, torch_operations
from blockenc.dtypes import result_dtype
from blockenc.gradient import differentiates, straight_through
from blockenc.hidden import hide
from blockenc.images import as_tensor, fitted
from blockenc.loading.collate import check_output
from blockenc.ops import check_no_derivative, check_size
from blockenc.plan import Plan
from blockenc.plan.packing import DECIMAL_IN, DECIMAL_OUT, QUANTISES

FORMS = ("op", "aten")


class Encrypt(torch.nn.Module):
    """Encrypts the images it is given, [N, C, H, W] or [C, H, W]; the arguments are EncryptCollate's.

    form: "op" applies the registered operator: any backend, torch.compile(fullgraph=True) and
        torch.export. "aten" is made of plain torch operations only: slower, and what
        torch.onnx.export writes; the results are identical.
    decrypt: decrypt instead; then without mean and std.
    cipher: one with gradient="straight-through" makes a layer with the same gradients by floating images that
        require grad; compiled and exported graphs refuse these images, as with any other cipher.
    size: (height, width) of the images in pixels, of a scheme whose plan depends on it (a step has the whole
        image as its period); of others it need not be given.

    There is no parameter and nothing in a state_dict, so a checkpoint holds neither key nor plan, and
    nothing that is done to a model's state (an average of it, `half`, `to_empty`, `from_pretrained`)
    changes what the layer does. A pickle of the whole module, a saved torch.export program and an ONNX
    file do carry the plan, and whoever reads one of those can encrypt and decrypt under this scheme. A cipher
    with per_image=True is refused: the layer holds no key to derive others from.

    >>> from blockenc import Cipher, Key
    >>> layer = Encrypt(Cipher(Key.generate()), dtype=torch.float32, mean=(0.5,) * 3, std=(0.25,) * 3)
    >>> layer(torch.zeros(2, 3, 32, 32, dtype=torch.uint8)).shape
    torch.Size([2, 3, 32, 32])
    """

    _place: torch.Tensor
    _packed: tuple[torch.Tensor, ...]
    _linear_bytes: tuple[bytes, ...] = ()  # of plans for gradients
    _std: Sequence[float] | None = None

    def __init__(
        self,
        cipher: Cipher,
        *,
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        form: str = "op",
        decrypt: bool = False,
        size: tuple[int, int] | None = None,
    ) -> None:
        cipher = hide(cipher)
        super().__init__()
        cipher = as_cipher(cipher)
        if form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
        if decrypt and (mean is not None or std is not None):
            raise ValueError("mean, std: go with encryption only")
        self.dtype = check_output(cipher, dtype, mean, std, decrypt=decrypt)
        if self.dtype == torch.float64:
            raise TypeError("dtype: expected float32, float16, bfloat16 or integers, got torch.float64")
        if cipher.per_image:
            raise ValueError(
                "cipher: has per_image=True, and a layer holds no key; encrypt where images are loaded"
            )
        if size is None and not cipher.takes_any_size:
            raise ValueError(
                "size: expected (height, width) in pixels, since the plan of this scheme depends on it"
            )
        self.scheme, self.fingerprint, self.backend = cipher.scheme, cipher.fingerprint, cipher.backend
        self.form, self.fit = form, "error" if decrypt else cipher.fit
        self._size = None if cipher.takes_any_size else _checked_size(size)
        size = self._size or (self.scheme.side,) * 2
        plans = cipher.plans(*size, decrypt=decrypt)
        plans = [*plans[:-1], plans[-1].with_output(mean, std)]
        # The plans proper are these bytes, which nothing writes to; what is computed with is made of them.
        self._bytes = tuple(plan.packed.tobytes() for plan in plans)
        if cipher.gradient is not None:
            linear = cipher._linear_plans(*size)[decrypt]
            self._linear_bytes, self._std = tuple(plan.packed.tobytes() for plan in linear), plans[-1].std
        self._digest = _digest((*self._bytes, *self._linear_bytes))
        # No value, but a place: this follows the model to its device, and the plan follows this.
        self.register_buffer("_place", torch.empty(0, dtype=torch.uint8), persistent=False)
        self._unpack()

    @property
    def plan(self) -> torch.Tensor:
        """A copy of the plan (of the last one, where there are several), `Plan.packed`: what is written on it
        changes nothing."""
        return self._packed[-1].clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The encrypted images. Raises as Cipher.encrypt does, but looks at no values of floats."""
        images, back = as_tensor(x, self.scheme.channels)
        if self.fit != "error":
            with torch_operations():
                images = fitted(images, self.scheme.side, self.fit)
        return back(self._encrypted(images))  # type: ignore[no-any-return]

    def _encrypted(self, x: torch.Tensor) -> torch.Tensor:
        check_size(x.shape, self.scheme.side)
        if self._size is not None and (x.shape[-2], x.shape[-1]) != self._size:
            raise ValueError(
                f"x: the layer was made for images of {self._size[0]} x {self._size[1]} pixels (size=), got "
                f"{x.shape[-2]} x {x.shape[-1]}"
            )
        dtype = result_dtype(x.dtype, self._flags, self.dtype)
        if self._linear and not torch.compiler.is_compiling() and differentiates(x, dtype):
            return straight_through(x, lambda v: self._transformed(v, dtype), self._linear, self._std)
        return self._transformed(x, dtype)

    def _transformed(self, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        if self.form == "aten":
            check_no_derivative("x", x)
            if torch._C._functorch.peek_interpreter_stack() is not None:
                # Of transforms within each other only the operator sees all: it checks no image at all.
                Passes(self._plans, self._packed).apply(x[:0], dtype, self.backend)
            with torch_operations():
                for plan, between in zip(
                    self._plans, Passes(self._plans, self._packed).dtypes(x.dtype, dtype)
                ):
                    x = aten.transform(x, plan, between)
                return x
        # A graph takes the tensors as inputs, so that other layers of the same scheme need no other graph.
        packed = self._packed if self._packed[0].device == x.device else self._on(x.device, self._digest)
        return Passes(self._plans, packed).apply(x, dtype, self.backend)

    def _on(self, device: torch.device, digest: bytes) -> tuple[torch.Tensor, ...]:
        """New tensors of the plans. Outside the modes of a trace and of inference: they outlive them.

        digest: the plans', by which a trace, for which this is a constant, tells layers apart.
        """
        with torch.utils._python_dispatch._disable_current_modes(), torch.inference_mode(False):
            return tuple(
                torch.from_numpy(np.frombuffer(packed, np.uint8).copy()).to(device) for packed in self._bytes
            )

    # What torch.compiler.assume_constant_result sets; calling that would import torch._dynamo, for a second.
    _on._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Encrypt:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._follow()
        return self

    def _follow(self) -> None:
        """The plan to the module's device; where that is "meta", which holds nothing, to the CPU."""
        device = torch.device("cpu") if self._place.device.type == "meta" else self._place.device
        if "_packed" not in self.__dict__ or self._packed[0].device != device:
            self._packed = self._on(device, self._digest)

    def _unpack(self) -> None:
        """What the layer computes with."""
        self._plans, self._linear = (
            [Plan.unpack(np.frombuffer(packed, np.uint8)) for packed in several]
            for several in (self._bytes, self._linear_bytes)
        )
        makes_integers = QUANTISES * any(plan.quantises for plan in self._plans)
        self._flags = self._plans[0].flags & DECIMAL_IN | self._plans[-1].flags & DECIMAL_OUT | makes_integers
        self._follow()

    def __getstate__(self) -> dict[str, Any]:
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("_packed", "_plans", "_linear")
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a pickle whose plan is not the one that was saved."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if _digest((*self._bytes, *self._linear_bytes)) != self._digest:
            raise ValueError("plan: its bytes are not those that the layer was made with; make it anew")
        self._unpack()

    def extra_repr(self) -> str:
        if "form" not in vars(self):  # shown by the traceback of an error within __init__
            return "unfinished"
        return f"fingerprint={self.fingerprint!r}, scheme={self.scheme!r}, form={self.form!r}"


def _checked_size(size: Any) -> tuple[int, int]:
    if not isinstance(size, Sequence) or len(size) != 2 or not all(isinstance(side, int) for side in size):
        raise TypeError(f"size: expected (height, width) in pixels, got {size!r}")
    return size[0], size[1]


def _digest(packed: Sequence[bytes]) -> bytes:
    return hashlib.sha256(b"".join(packed)).digest()
