"""Where source tensors are while merges read them: mapped from disk, or held by an accelerator."""

from __future__ import annotations

from typing import Literal

import torch

#: `auto` keeps as many as half of the memory that is free at the start holds.
Resident = Literal["auto", "always", "never"]
_AUTO_SHARE = 0.5
#: Bytes of each of the two pinned buffers through which other tensors stream.
_STAGE_BYTES = 64 << 20


class Residence:
    """Brings source tensors to a device and keeps them there as far as they fit.

    On the CPU tensors stay what they are: views of files that all processes of a node share. On
    an accelerator those that do not fit pass through two pinned buffers, one being filled while
    the other is sent.
    """

    def __init__(self, device: str, resident: Resident = "auto") -> None:
        self.device = torch.device(device)
        self._held: dict[tuple[str, str], torch.Tensor] = {}
        self._left_bytes = _budget(self.device, resident)
        self._stages: list[torch.Tensor] = []
        self._sent: list[torch.cuda.Event | None] = [None, None]

    def bring(self, model: str, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """Returns a model's tensor on the device."""
        if tensor.device == self.device:
            return tensor
        key = (model, name)
        if key in self._held:
            return self._held[key]
        need_bytes = tensor.numel() * tensor.element_size()
        arrived = self._send(tensor) if self.device.type == "cuda" else tensor.to(self.device)
        if need_bytes <= self._left_bytes:
            self._left_bytes -= need_bytes
            self._held[key] = arrived
        return arrived

    def _send(self, tensor: torch.Tensor) -> torch.Tensor:
        arrived = torch.empty_like(tensor, device=self.device)
        if not self._stages:
            self._stages = [
                torch.empty(_STAGE_BYTES, dtype=torch.uint8, pin_memory=True) for _ in range(2)
            ]
        source = tensor.contiguous().view(-1).view(torch.uint8)
        target = arrived.view(-1).view(torch.uint8)
        for turn, start in enumerate(range(0, source.numel(), _STAGE_BYTES)):
            part = source[start : start + _STAGE_BYTES]
            sent = self._sent[turn % 2]
            if sent is not None:
                sent.synchronize()  # until the device has read the buffer, it may not be refilled
            stage = self._stages[turn % 2][: part.numel()]
            stage.copy_(part)
            target[start : start + part.numel()].copy_(stage, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._sent[turn % 2] = event
        return arrived


def _budget(device: torch.device, resident: Resident) -> float:
    if device.type == "cpu" or resident == "never":
        return 0.0
    if resident == "always":
        return float("inf")
    free_bytes, _ = torch.cuda.mem_get_info(device) if device.type == "cuda" else (0, 0)
    return free_bytes * _AUTO_SHARE
