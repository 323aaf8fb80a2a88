"""A function of buffers that never move: called as it is on a CPU, recorded once and replayed on a CUDA device.

A decoding step of a large model takes a GPU less time than its thousand kernels take to be launched one by one. A
recorded step reads weights where they stand: they may be changed in place, as `common.model.adapter` and
`common.model.policy` do.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM = 3
"""Calls before the recording, on a stream of their own, as torch's notes on CUDA graphs ask."""


class Replayed:
    """Keeps the recording of a function and its result, which every step overwrites.

    The function itself is not kept: whoever owns both would be kept alive by it, with all its buffers.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._graph: torch.cuda.CUDAGraph | None = None
        self._result: Tensor | None = None

    @torch.no_grad()
    def step(self, function: Callable[[], Tensor]) -> Tensor:
        """Return the function's result on what the buffers hold now.

        Parameters
        ----------
        function
            Always the same one. It gives the same when it is called again, changes no shape and waits for no device.
        """
        if self._device.type != "cuda":
            return function()
        with torch.cuda.device(self._device):
            if self._graph is None:
                self._graph = self._record(function)
            self._graph.replay()
        assert self._result is not None
        return self._result

    def _record(self, function: Callable[[], Tensor]) -> torch.cuda.CUDAGraph:
        current, side = torch.cuda.current_stream(), torch.cuda.Stream()
        side.wait_stream(current)
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                function()
        current.wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._result = function()
        return graph
