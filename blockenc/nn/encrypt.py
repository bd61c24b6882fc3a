"""Encryption as the first layer of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from blockenc.backends import aten
from blockenc.cipher import Cipher, torch_operations
from blockenc.images import as_tensor, fitted
from blockenc.loading.collate import check_output
from blockenc.ops import check_no_derivative, check_size, result_dtype
from blockenc.plan import Plan

FORMS = ("op", "aten")


class Encrypt(torch.nn.Module):
    """Encrypts the images it is given, [N, C, H, W] or [C, H, W]; the arguments are EncryptCollate's.

    form: "op" applies the registered operator: any backend, torch.compile(fullgraph=True) and
        torch.export. "aten" is made of plain torch operations only: slower, and what
        torch.onnx.export writes; the results are identical.
    decrypt: decrypt instead; then without mean and std.

    There is no parameter and nothing in a state_dict, so a checkpoint holds neither key nor plan, and
    nothing that is done to a model's state (an average of it, `half`, `to_empty`, `from_pretrained`)
    changes what the layer does. A pickle of the whole module, a saved torch.export program and an ONNX
    file do carry the plan, and whoever reads one of those can encrypt and decrypt under this scheme.
    """

    _place: torch.Tensor
    _plan: torch.Tensor

    def __init__(
        self,
        cipher: Cipher,
        *,
        dtype: torch.dtype | np.dtype | str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        form: str = "op",
        decrypt: bool = False,
    ) -> None:
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {form!r}")
        if decrypt and (mean is not None or std is not None):
            raise ValueError("mean, std: go with encryption only")
        self.dtype = check_output(cipher, dtype, mean, std, decrypt=decrypt)
        if self.dtype == torch.float64:
            raise TypeError("dtype: expected float32, float16, bfloat16 or integers, got torch.float64")
        self.scheme, self.fingerprint, self.backend = cipher.scheme, cipher.fingerprint, cipher.backend
        self.form, self.fit = form, "error" if decrypt else cipher.fit
        plan = cipher.plan(decrypt=decrypt).with_output(mean, std)
        self._sizes = (plan.block_size, len(plan.tables), plan.flags)
        # The plan proper is these bytes, which nothing writes to; what is computed with is made of them.
        self._bytes = plan.packed.tobytes()
        self._digest = hashlib.sha256(self._bytes).digest()
        # No value, but a place: this follows the model to its device, and the plan follows this.
        self.register_buffer("_place", torch.empty(0, dtype=torch.uint8), persistent=False)
        self._unpack()

    @property
    def plan(self) -> torch.Tensor:
        """A copy of the plan, `Plan.packed`: what is written on it changes nothing."""
        return self._plan.clone()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The encrypted images. Raises as Cipher.encrypt does, but looks at no values of floats."""
        images, back = as_tensor(x, self.scheme.channels)
        if self.fit != "error":
            with torch_operations():
                images = fitted(images, self.scheme.block_size, self.fit)
        return back(self._encrypted(images))  # type: ignore[no-any-return]

    def _encrypted(self, x: torch.Tensor) -> torch.Tensor:
        if self._constants is not None:
            check_no_derivative("x", x)
            if torch._C._functorch.peek_interpreter_stack() is not None:
                # Of transforms within each other only the operator sees all: it checks an image of no pixels.
                torch.ops.blockenc.apply(x[..., :0], self._plan, *self._sizes, None, self.backend)
            check_size(x, self.scheme.block_size)
            with torch_operations():
                return aten.transform(x, self._constants, result_dtype(x.dtype, self._sizes[2], self.dtype))
        # A graph takes the tensor as an input, so that other layers of the same scheme need no other graph.
        plan = self._plan if self._plan.device == x.device else self._plan_on(x.device, self._digest)
        return torch.ops.blockenc.apply(x, plan, *self._sizes, self.dtype, self.backend)  # type: ignore[no-any-return]

    def _plan_on(self, device: torch.device, digest: bytes) -> torch.Tensor:
        """A new tensor of the plan. Outside the modes of a trace and of inference: it outlives them.

        digest: the plan's, by which a trace, for which this is a constant, tells layers apart.
        """
        with torch.utils._python_dispatch._disable_current_modes(), torch.inference_mode(False):
            return torch.from_numpy(np.frombuffer(self._bytes, np.uint8).copy()).to(device)

    # What torch.compiler.assume_constant_result sets; calling that would import torch._dynamo, for a second.
    _plan_on._dynamo_marked_constant = True  # type: ignore[attr-defined]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> Encrypt:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._follow()
        return self

    def _follow(self) -> None:
        """The plan to the module's device; where that is "meta", which holds nothing, to the CPU."""
        device = torch.device("cpu") if self._place.device.type == "meta" else self._place.device
        if "_plan" not in self.__dict__ or self._plan.device != device:
            self._plan = self._plan_on(device, self._digest)

    def _unpack(self) -> None:
        """What the layer computes with: the plan as a tensor and, in the "aten" form, as constants."""
        block_size, *rest = self._sizes
        packed = np.frombuffer(self._bytes, np.uint8).copy()
        plan = Plan.unpack(packed, block_size, self.scheme.channels, *rest)
        self._constants = plan if self.form == "aten" else None
        self._follow()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_plan", "_constants")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Raises ValueError for a pickle whose plan is not the one that was saved."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]
        if hashlib.sha256(self._bytes).digest() != self._digest:
            raise ValueError("plan: its bytes are not those that the layer was made with; make it anew")
        self._unpack()

    def extra_repr(self) -> str:
        return f"fingerprint={self.fingerprint!r}, scheme={self.scheme!r}, form={self.form!r}"
