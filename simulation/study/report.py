"""The page of a study: what was run, what its table says, with what it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.pages.page import Section, facts, page
from server.reports.report import config_facts, made_with
from server.rounds.store import write_durably
from simulation.statistics.page import sections, size_of
from simulation.study.config import Study

REPORT = "report.html"


def write_study_report(folder: Path, study: Study, results: Mapping[str, Any]) -> Path:
    """Write a study's page beside its results and return its path.

    Parameters
    ----------
    results
        Content of `results.json`.
    """
    config, federation = study.config, study.plain.federation
    run = {name: value for name, value in config_facts(study.plain).items() if name not in ("Seed", "Quorum")}
    stated = facts(
        {
            "Arms": ", ".join(config.arms),
            "Seeds": ", ".join(map(str, config.seeds)),
            "Sites": federation.sites,
            "Rounds": federation.rounds,
            **run,
            "Resamples of an interval": config.resamples,
            "Study SHA-256": study.sha256,
            "Configuration SHA-256": study.plain.sha256,
            "Codebook SHA-256": study.plain.questions.codebook_sha256,
        }
    )
    content = [*sections(results), Section("What was run", stated), Section("Made with", facts(made_with()))]
    path = folder / REPORT
    write_durably(path, page(f"FedReason study: {config.name}", size_of(results), content))
    return path
