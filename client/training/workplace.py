"""Where a site works: its patients, what makes their questions, the engine, the ledger and the log of training.

All that lives from task to task in the one process that computes. What may be asked of it is decided by the gate
(`client.training.gate`), and what is asked goes one way (`client.training.walk`). Torch is loaded with the engine: who
looks at patients and questions alone does without.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from client.privacy.budget import claim_registry, open_ledger
from client.privacy.ledger import Ledger
from client.questions.fitted import Fitted, fit
from client.site.exclusions import without_excluded
from client.site.opened import Opened, open_registry, reading_records, reopened
from client.site.secret import split_secret
from client.site.split import held_out
from client.training.allowed import OpenSession
from client.training.held_out import held_out_questions
from client.training.launch import launched
from client.training.log import TrainingLog
from client.training.maker import require_made
from client.training.states import Attempts
from common.config import RunConfig
from common.questions.question import Patient, Question, QuestionMaker

if TYPE_CHECKING:
    from client.training.engine import Engine
    from client.training.team import Team


class Workplace:
    """One site's: opened from its folder, ready to take part in runs."""

    def __init__(self, folder: Path, opened: Opened | None = None) -> None:
        opened = opened or open_registry(folder)
        self.folder, self.config, self.codebook, self._opened = folder, opened.config, opened.codebook, opened
        self.name = opened.config.name
        self._fitted: tuple[frozenset[str], Fitted] | None = None
        self._log: TrainingLog | None = None
        launch = launched()
        self._device = launch.device(self.config) if launch else self.config.own_devices[0]
        self._team: Team | None = None
        if launch is not None or len(self.config.own_devices) > 1:
            from client.training.team import Team

            self._team = Team(folder, self.config, launch)
        self.session: OpenSession | None = None
        """What is open of a secure sum."""

    @cached_property
    def ledger(self) -> Ledger:
        """The site's ledger, every line checked when it is first needed."""
        return open_ledger(self.folder, self.config)

    @cached_property
    def attempts(self) -> Attempts:
        """How far the site's charged attempts came."""
        return Attempts(self.folder)

    @property
    def patients(self) -> list[Patient]:
        """Patients who have not opted out, by the list as it stands now; a list that names a stranger is refused."""
        config = self.config
        with reading_records():
            return without_excluded(
                self._opened.registry.patients,
                self.folder,
                required=config.federation is not None,
                whole_hospital=config.exclusions.whole_hospital,
                column=self.codebook.patient,
            )

    def look_again(self) -> None:
        """Read the registry again where it changed since it was read: whoever was erased from it is gone now."""
        opened = reopened(self.folder, self._opened)
        if opened is not self._opened:
            if "ledger" in vars(self):  # before it is this site's: refused once, it is read and refused again
                claim_registry(self.folder, self.config, self.ledger)
            self._opened, self._fitted = opened, None

    def training(self, config: RunConfig) -> list[Patient]:
        """Patients that training may draw from."""
        secret = split_secret(self.folder, self.config.federation)
        return [patient for patient in self.patients if not held_out(patient, config, secret)]

    def held_out(self, config: RunConfig) -> list[Patient]:
        """Patients that are kept for evaluation."""
        secret = split_secret(self.folder, self.config.federation)
        return [patient for patient in self.patients if held_out(patient, config, secret)]

    def questions(self, config: RunConfig) -> list[Question]:
        """Held-out questions of this site, the same for every adapter."""
        return list(held_out_questions(self.held_out(config), self.maker(config), config))

    def maker(self, config: RunConfig) -> QuestionMaker:
        """Return what makes this run's questions."""
        questions = config.questions
        if questions.choices == "codebook":
            return QuestionMaker(self.codebook, questions.view, weights=questions.weights)
        fitted = self._fitted_on(self.training(config))
        return QuestionMaker(
            self.codebook, questions.view, weights=questions.weights, choices=fitted.choices, leaks=fitted.leaks
        )

    def _fitted_on(self, patients: Sequence[Patient]) -> Fitted:
        """Fit choices and leaks, anew only where the patients have changed."""
        of = frozenset(patient.id for patient in patients)
        if self._fitted is None or self._fitted[0] != of:
            self._fitted = of, fit(self.codebook, patients)
        return self._fitted[1]

    def engine(self, config: RunConfig) -> Engine:
        """Return the resident model for a run; in a federation it is made aside, and refused until it is there."""
        if self.config.federation is not None:
            require_made(config, self.codebook)
        from client.training.engine import resident_engine

        return resident_engine(config, self.codebook, self._device, self.config.rollouts, self.config.models)

    @property
    def ranks(self) -> int:
        """How many processes compute a round's patients."""
        return 1 if self._team is None else self._team.size

    def team(self, config: RunConfig) -> Team | None:
        """Return the ranks that compute with this process, ready for a run; None where it is the only one."""
        if self._team is None:
            return None
        self._team.prepare(self.engine(config), config, self.codebook)
        return self._team

    def close(self) -> None:
        """End what computes beside this process."""
        if self._team is not None:
            self._team.stop()

    def log(self, config: RunConfig) -> TrainingLog:
        """Return the log of a run, opened anew where it is another's."""
        if self._log is None or self._log.config.sha256 != config.sha256:
            if self._log is not None:
                self._log.close()
            self._log = TrainingLog(self.folder, self.config.log, config)
        return self._log
