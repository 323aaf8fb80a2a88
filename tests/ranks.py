"""Mechanisms that do something to the rank that computes a patient: they travel to it, and are known there by name."""

from __future__ import annotations

import os
import signal

from client.privacy.mechanism import Exact
from common.arrays import Integers, Vector
from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.questions.question import Patient


class Fatal(Exact):
    """Kills the process that has computed one of the patients, unless it is the one that made this."""

    def __init__(self, config: RunConfig, victim: str) -> None:
        super().__init__(config, 1, 0, 0)
        self._victim, self._maker = victim, os.getpid()

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        if patient.id == self._victim:
            assert os.getpid() != self._maker
            os.kill(os.getpid(), signal.SIGKILL)
        return super().integers(gradient, patient)


class Refusing(Exact):
    """Refuses one of the patients, by a number or unforeseen."""

    def __init__(self, config: RunConfig, victim: str, *, foreseen: bool) -> None:
        super().__init__(config, 1, 0, 0)
        self._victim, self._foreseen = victim, foreseen

    def integers(self, gradient: Vector, patient: Patient) -> Integers:
        if patient.id == self._victim:
            if self._foreseen:
                raise FedReasonError(Code.LATTICE_RANGE, "A gradient is not finite.", "Lower the rate.")
            raise KeyError(patient.values["lactate"])
        return super().integers(gradient, patient)
