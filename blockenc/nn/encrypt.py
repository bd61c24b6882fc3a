"""Encryption as the first layer of a model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from blockenc.backends import aten
from blockenc.cipher import Cipher
from blockenc.data.collate import check_output
from blockenc.ops import result_dtype

FORMS = ("op", "aten")


class Encrypt(torch.nn.Module):
    """Encrypts the images it is given, [N, C, H, W] or [C, H, W]; the arguments are EncryptCollate's.

    form: "op" applies the registered operator: any backend, torch.compile(fullgraph=True) and
        torch.export. "aten" is made of plain torch operations only: slower, and what
        torch.onnx.export writes; the results are identical.
    decrypt: decrypt instead; then without mean and std.

    There is no parameter and nothing in a state_dict, so a checkpoint holds neither key nor plan. The
    plan is a buffer that is not saved (or, in the "aten" form, constants): a pickle of the whole
    module, a saved torch.export program and an ONNX file do carry it, and whoever reads one of those
    can encrypt and decrypt under this scheme.
    """

    plan: torch.Tensor | None

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
        self.dtype = check_output(cipher, dtype, mean, std)
        self.scheme, self.fingerprint, self.backend = cipher.scheme, cipher.fingerprint, cipher.backend
        self.form = form
        plan = cipher.plan(decrypt=decrypt).with_output(mean, std)
        _ = plan.output  # computed now: a trace cannot enter the lock of a cached property
        self._sizes = (plan.block_size, len(plan.tables), plan.flags)
        self._constants = plan if form == "aten" else None
        packed = torch.from_numpy(plan.packed.copy()) if form == "op" else None
        self.register_buffer("plan", packed, persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The encrypted images. Raises as Cipher.encrypt does, but looks at no values of floats."""
        if self._constants is not None:
            return aten.transform(x, self._constants, result_dtype(x.dtype, self._sizes[2], self.dtype))
        return torch.ops.blockenc.apply(x, self.plan, *self._sizes, self.dtype, self.backend)  # type: ignore[no-any-return]

    def extra_repr(self) -> str:
        return f"fingerprint={self.fingerprint!r}, scheme={self.scheme!r}, form={self.form!r}"
