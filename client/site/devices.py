"""The devices that a site names: whether they are there, and of one kind, so that each computes the same bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from common.errors import Code, FedReasonError


def pick_device(wanted: str) -> str:
    """Turn "auto" into the GPU where there is one."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def require_devices(devices: Sequence[str]) -> str:
    """Return what the devices are, for a person: "2 x cpu", "2 x NVIDIA H200".

    Raises
    ------
    FedReasonError
        RANKS_MISSING where this machine does not have one, RANKS_UNLIKE where they are not of one kind.
    """
    import torch

    there = {"cpu": "cpu"}
    there |= {f"cuda:{number}": torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())}
    if absent := [device for device in devices if device not in there]:
        raise FedReasonError(
            Code.RANKS_MISSING,
            f"devices in site.toml: {', '.join(absent)} is not there; this machine has {', '.join(there)}.",
            "Name what is there, or see why torch does not see the rest (CUDA_VISIBLE_DEVICES, the driver).",
        )
    kinds = Counter(there[device] for device in devices)
    if len(kinds) > 1:
        raise FedReasonError(
            Code.RANKS_UNLIKE,
            f"devices in site.toml: {', '.join(kinds)} are not of one kind, and would compute other bits.",
            "Name devices of one kind.",
        )
    return " and ".join(f"{count} x {kind}" for kind, count in kinds.items())
