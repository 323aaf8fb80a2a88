"""The HTML report of a run, from its folder alone: what was run, who took part, curves, privacy, what failed."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from common.config import RunConfig
from common.errors import Code, FedReasonError
from common.mechanisms import mechanism_lines
from common.pages.page import Section, facts, html_table, page, paragraph
from common.pages.plots import COLOURS, CROSS, Line, lines
from server.amounts import duration_text, size_text
from server.reports.curves import accuracy_section, reward_section, traffic_section
from server.reports.forecast import delta_of
from server.reports.looks import looks_section
from server.reports.rows import RunRows, read_rows, read_stages
from server.reports.spent import Taken, epsilons, taken
from server.reports.stages import stages_section
from server.rounds.attempts import begun
from server.rounds.claim import claim_of
from server.rounds.runs import record_of
from server.rounds.store import RoundRow, write_durably

LIBRARIES = ("fedreason", "torch", "transformers", "peft", "flwr")


def write_run_report(folder: Path) -> Path:
    """Write `report.html` into a run folder and return its path.

    Raises
    ------
    FedReasonError
        Where the folder holds no run, or a file of it cannot be read.
    """
    rows, stages, claim = read_rows(folder), read_stages(folder), claim_of(folder)
    config = config_of(claim)
    wanted = config.federation.rounds if config else None
    done = f"{len(rows.rounds)} of {wanted}" if wanted else str(len(rows.rounds))
    run = facts(
        {
            **(config_facts(config) if config else {}),
            "Sites": ", ".join(rows.sites) or None,
            "Rounds finished": done,
            **traffic_facts(rows.rounds),
            "Configuration SHA-256": claim.get("sha256"),
            "Codebook SHA-256": config.questions.codebook_sha256 if config else None,
            "Adapter SHA-256": rows.rounds[-1].adapter_sha256 if rows.rounds else None,
        }
    )
    path = folder / "report.html"
    title = f"FedReason: {config.name if config else folder.resolve().name}"
    lead = f"A federated run, {done} rounds finished."
    content = [
        Section("The run", run),
        Section("Who took part", sites_section(rows)),
        *sections(rows),
        *([Section("Bytes and seconds by stage and site", stages_section(stages))] if stages else []),
        Section("Begun again", repeats_section(folder)),
        *([Section("Privacy spent", privacy_section(config, taken(rows)))] if config else []),
        Section("Made with", facts(made_with())),
    ]
    write_durably(path, page(title, lead, content))
    return path


def config_of(claim: Mapping[str, Any]) -> RunConfig | None:
    """Return a run's configuration where this version can read it."""
    try:
        return RunConfig.model_validate(claim["config"])
    except (ValidationError, LookupError, TypeError):
        return None


def config_facts(config: RunConfig) -> dict[str, object]:
    """Return what was run, as its configuration says."""
    federation, grpo, adapter = config.federation, config.grpo, config.adapter
    targets = adapter.target_modules if isinstance(adapter.target_modules, str) else ", ".join(adapter.target_modules)
    return {
        "Federation": federation.name,
        "Protocol": f"{federation.protocol}, sums {federation.aggregation}",
        "Base model": f"{Path(config.model.base).name}, {config.model.dtype}, quantization {config.model.quantization}",
        "Adapter": f"rank {adapter.rank}, alpha {adapter.alpha}, {targets}",
        "Questions": f"view {config.questions.view}, {config.questions.per_patient} a patient, "
        f"{config.questions.held_out:.0%} of the patients held out",
        "GRPO": f"{grpo.group_size} completions of at most {grpo.max_completion_tokens} tokens, "
        f"temperature {grpo.temperature:g}",
        "Optimizer": f"{config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}",
        "Population": f"{federation.population} patients stated, {federation.sampling_rate:g} of them a round",
        "Quorum": f"{config.quorum} of {federation.sites} sites",
        "Seed": config.seed,
    }


def traffic_facts(rounds: Sequence[RoundRow]) -> dict[str, object]:
    """Bytes and seconds of all rounds, and of one on average."""
    if not rounds:
        return {}
    up, down, seconds = (sum(getattr(row, name) for row in rounds) for name in ("bytes_up", "bytes_down", "seconds"))
    return {
        "Sent to the server": f"{size_text(up)}, {size_text(up // len(rounds))} a round",
        "Sent to the sites": f"{size_text(down)}, {size_text(down // len(rounds))} a round",
        "Time of the rounds": f"{duration_text(seconds)}, {seconds / len(rounds):.3f} s a round",
    }


def made_with() -> dict[str, object]:
    """Versions and machine of whoever writes the page."""
    versions = {name: version(name) for name in LIBRARIES}
    return {
        **versions,
        "Python": platform.python_version(),
        "System": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
    }


def sections(rows: RunRows, accuracy: str | None = None) -> list[Section]:
    """Return the sections that every run has, simulated or not; `accuracy` in place of what `rows` say of it."""
    accuracy = accuracy_section(rows.evaluations) if accuracy is None else accuracy
    return [
        Section("Reward by round", reward_section(rows.rounds)),
        Section("Held-out accuracy by round and site", accuracy),
        *([Section("The guard's public questions", looks_section(rows.looks))] if rows.looks else []),
        Section("Bytes and seconds by round", traffic_section(rows.rounds)),
        Section("Refusals", refusal_section(rows.rounds)),
    ]


def sites_section(rows: RunRows) -> str:
    """How many rounds hold each site's part, and how many went on without it."""
    if not rows.rounds:
        return paragraph("No round is finished yet.")
    numbers: dict[str, list[int]] = {site: [] for site in rows.sites}
    without = dict.fromkeys(numbers, 0)
    for row in rows.rounds:
        for site in row.sites:
            numbers[site].append(row.round)
        for site in row.refused:
            without[site] += 1
    table = [
        (site, len(held), *((held[0], held[-1]) if held else (None, None)), without[site])
        for site, held in numbers.items()
    ]
    return html_table(["site", "rounds with its part", "first", "last", "refused or failed"], table)


def privacy_section(config: RunConfig, taken: Mapping[str, Taken]) -> str:
    """Epsilon by site, and what the run promises of its sums."""
    promised = facts(dict(_numbered(mechanism_lines(config, delta_of(config)))))
    if config.privacy is None:
        return paragraph("No noise was added: no epsilon holds for any site or patient.") + promised
    table = []
    for site, (rounds, evaluations) in taken.items():
        spent = epsilons(config, rounds, evaluations)
        assert spent is not None
        counts = "no counts leave" if spent[1] is None else f"{spent[1]:.3g}"
        table.append((site, rounds, f"{spent[0]:.3g}", counts))
    told = (
        f"Epsilon at delta {config.privacy.delta:g} by the rounds and evaluations that are here, those that were taken "
        "back with them. A site's own ledger has the last word: it also charges answers that came too late, and other "
        "runs on the same patients."
    )
    head = ["site", "rounds", "epsilon, gradients (patients that train)", "epsilon, counts (patients held out)"]
    return paragraph(told) + html_table(head, table) + promised


def _numbered(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Tell labels that come more than once apart."""
    names = [name for name, _ in pairs]
    return [
        (f"{name} {names[: i + 1].count(name)}" if names.count(name) > 1 else name, told)
        for i, (name, told) in enumerate(pairs)
    ]


def refusal_section(rounds: Sequence[RoundRow]) -> str:
    """Which sites were left out of which rounds, and the numbers they gave."""
    left_out: dict[tuple[str, int], list[int]] = {}
    for row in rounds:
        for site, code in sorted(row.refused.items()):
            left_out.setdefault((site, code), []).append(row.round)
    if not left_out:
        return paragraph("No site refused or failed in any round." if rounds else "No round is finished yet.")
    sites = sorted({site for site, _ in left_out}, reverse=True)
    series = [
        Line(
            f"{site}: E{code}",
            [(number, sites.index(site)) for number in numbers],
            COLOURS[(i + 1) % len(COLOURS)],
            mark=CROSS + i,
            joined=False,
        )
        for i, ((site, code), numbers) in enumerate(sorted(left_out.items()))
    ]
    drawn = lines(
        "refusals",
        "Rounds that went on without a site",
        series,
        x="round",
        y="",
        rows=sites,
        span=(1, rounds[-1].round),
    )
    rows = [(site, code_text(code), len(n), n[0], n[-1]) for (site, code), n in sorted(left_out.items())]
    return drawn + html_table(["site", "refusal (docs/errors.md)", "rounds", "first", "last"], rows)


def code_text(code: int) -> str:
    """Text of a refusal's number, with its name where this version knows it."""
    return f"E{code} {Code(code).name}" if code in set(Code) else f"E{code}"


def repeats_section(folder: Path) -> str:
    """Secure sums that were begun anew, and how often the run was handed over again; empty where neither is known."""
    record = record_of(folder)
    told = []
    if record is not None and record.restarts:
        told.append(paragraph(f"In round {record.round} the run was brought back {record.restarts} times."))
    try:
        again = [(int(number), times) for number, times in begun(folder).items() if times > 0]
    except FedReasonError:
        again = []
    if again:
        told.append(html_table(["round", "times its secure sum was begun anew"], sorted(again)))
    return "\n".join(told)
