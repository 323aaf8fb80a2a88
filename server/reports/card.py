"""README.md of an exported adapter, a model card as the Hub reads it, and reporting.md, from what may leave alone."""

from __future__ import annotations

import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from pydantic import TypeAdapter

from common import wilson
from common.config import TINY
from common.toml import Strict
from server.reports.beside import by_study, compared, fairness
from server.reports.outward import AUTHORS, FEWEST, Outward, Share, cell, interval
from server.reports.report import LIBRARIES
from server.reports.spent import epsilons, taken
from server.reports.studied import OWN

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData


class Item(Strict):
    """One item of a reporting guideline: its number, what it is about, and where and how a run answers it."""

    number: str
    about: str
    where: str = ""
    text: str = ""


def write_card(folder: Path, run: Outward, *, merged: bool) -> None:
    """Write README.md and reporting.md into the folder of an adapter, or of a model that it is merged into."""
    texts = _texts(run, merged=merged)
    body = _template("card.md").substitute(texts)
    metadata = _metadata(run, merged=merged).to_yaml()
    (folder / "README.md").write_text(f"---\n{metadata}\n---\n\n{body}", encoding="utf-8")
    (folder / "reporting.md").write_text(reporting(texts), encoding="utf-8")


def reporting(texts: dict[str, str]) -> str:
    """Return the answers to both guidelines, item by item."""
    guidelines = tomllib.loads((files("server") / "templates" / "reporting.toml").read_text(encoding="utf-8"))
    parts = [
        f"# Reporting of {texts['name']}\n\nWhat the run knows of itself, item by item; what it cannot know is marked "
        f"{AUTHORS}. What an item is about is said in short: the guideline's own words hold."
    ]
    for guideline in guidelines["guidelines"]:
        parts.append(f"## {guideline['name']}\n\n{guideline['source']}")
        lines = ["| item | about | where | text |", "|---|---|---|---|"]
        for item in TypeAdapter(list[Item]).validate_python(guideline["items"]):
            told = Template(item.text).substitute(texts) if item.text else AUTHORS
            lines.append(f"| {item.number} | {item.about} | {item.where or '-'} | {' '.join(told.split())} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _template(name: str) -> Template:
    return Template((files("server") / "templates" / name).read_text(encoding="utf-8"))


def _metadata(run: Outward, *, merged: bool) -> ModelCardData:
    from huggingface_hub import EvalResult, ModelCardData

    whole = run.whole
    results = [
        EvalResult(
            task_type="question-answering",
            dataset_type="private",
            dataset_name=f"{run.registry}, held-out patients{_of(run)}",
            metric_type="accuracy",
            metric_name=name,
            metric_value=round(share, 4),
        )
        for name, share in (
            [("free-form", whole.share(whole.free)), ("choice forced", whole.share(whole.forced))] if whole else []
        )
    ]
    tags = ["federated-learning", "grpo", "clinical", *([] if merged else ["lora"])]
    if run.config.privacy is not None:
        tags.append("differential-privacy")
    return ModelCardData(
        language="en",
        library_name="transformers" if merged else "peft",
        pipeline_tag="text-generation",
        tags=tags,
        model_name=run.config.name,
        eval_results=results or None,
        base_model=run.base if run.on_hub else None,
        base_model_relation=("finetune" if merged else "adapter") if run.on_hub else None,
    )


def _texts(run: Outward, *, merged: bool) -> dict[str, str]:
    """Return every text that the templates name."""
    config, federation, grpo = run.config, run.config.federation, run.config.grpo
    words = grpo.prompt
    base = f"the embedded model `{TINY}`" if run.base == TINY else f"`{run.base}`"
    sites = sorted({site for row in run.rows.rounds for site in row.sites})
    kind = "A language model" if merged else "A LoRA adapter"
    return {
        "authors": AUTHORS,
        "name": config.name,
        "lead": f"{kind} made from {base}, trained by {len(sites)} hospitals together on multiple-choice questions "
        "about patients' records, which stayed where they were.",
        "use": _use(run, merged=merged),
        "prompt": f"Record, question and lettered choices, one a line, after the system turn *{words.system}* and "
        f"before an answer that begins *{words.opening}*; for a base without a chat template the text and *Answer:*.",
        "answer": "the letter" if words.answer == "letter" else "the text of the choice",
        "prompt_tokens": str(grpo.max_prompt_tokens),
        "completion_tokens": str(grpo.max_completion_tokens),
        "registry": cell(run.registry),
        "population": str(federation.population),
        "description": _description(run),
        "sites": _sites(run, sites),
        "site_names": cell(", ".join(sites)) or "none yet",
        "training": _training(run, base),
        "federation": _federation(run, len(sites)),
        "privacy": _privacy(run),
        "evaluation": _evaluation(run),
        "outcome": _outcome(run),
        "memorised": "The noise bounds what these weights tell of one patient, by the epsilon above."
        if config.privacy
        else "Without noise nothing bounds what these weights tell of one patient: text may be memorised.",
        "compared": compared(run),
        "fairness": fairness(run),
        "compute": f"The rounds took {run.seconds} in all, the sites' waiting for each other among them: at the most "
        f"{run.site_time} of all sites together, a site with several devices counted once. Sent were {run.traffic}.",
        "energy": "No site sends what its devices use: that tells how many of its patients were drawn, and how long "
        "the completions were.",
        "round": str(run.round),
        "rounds": str(federation.rounds),
        "config_sha256": config.sha256,
        "codebook_sha256": config.questions.codebook_sha256 or "",
        "adapter_sha256": run.sha256,
        "base_short": base,
        "base_long": _base_long(run, base),
        "versions": ", ".join(f"{name} {version(name)}" for name in LIBRARIES),
        "held_out": f"{config.questions.held_out:.0%}",
    }


def _use(run: Outward, *, merged: bool) -> str:
    if merged:
        return (
            "```python\nfrom transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
            'model = AutoModelForCausalLM.from_pretrained("FOLDER")\n'
            'tokenizer = AutoTokenizer.from_pretrained("FOLDER")\n```'
        )
    dtype = f", dtype=torch.{run.config.model.dtype}"
    return (
        "```python\nimport torch\nfrom peft import AutoPeftModelForCausalLM\n\n"
        f'model = AutoPeftModelForCausalLM.from_pretrained("FOLDER"{dtype})\n```\n\n'
        "The tokenizer is the base model's. `python -m server generate --adapter FOLDER` answers a question that is "
        "given as an argument or on standard input, with the prompt that was trained on, greedily."
    )


def _description(run: Outward) -> str:
    if run.codebook is None:
        return f"What is recorded, and in which terms: {AUTHORS}."
    view = run.codebook.view(run.config.questions.view)
    asked = sum(run.codebook.by_name[name].asked for name in view.features)
    told = f"The public codebook describes {len(run.codebook.features)} columns; {len(view.features)} are shown"
    return f"{told}, {asked} may be asked for, and {len(run.codebook.tasks)} outcomes or later values with them."


def _sites(run: Outward, sites: list[str]) -> str:
    done = len(run.rows.rounds)
    rows = [f"| {cell(site)} | {sum(site in row.sites for row in run.rows.rounds)} of {done} |" for site in sites]
    return "\n".join(["| site | rounds with its part |", "|---|---|", *rows]) if rows else "No round is finished yet."


def _training(run: Outward, base: str) -> str:
    config, grpo = run.config, run.config.grpo
    targets = config.adapter.target_modules
    modules = targets if isinstance(targets, str) else ", ".join(targets)
    return (
        f"Group-relative policy optimisation (GRPO): {grpo.group_size} completions of a question at temperature "
        f"{grpo.temperature:g}, reward 1 where the boxed answer is right, else 0. A LoRA of rank {config.adapter.rank} "
        f"and alpha {config.adapter.alpha} on {modules} of {base}; A is public and frozen, B is trained "
        f"(FFA-LoRA). {config.optimizer.name}, learning rate {config.optimizer.learning_rate:g}, seed {config.seed}; "
        f"{config.questions.per_patient} questions a patient, {config.federation.sampling_rate:.3g} of the patients a "
        "round."
    )


def _federation(run: Outward, sites: int) -> str:
    federation = run.config.federation
    told = {
        "fedsgd": "Each round sums the sites' gradients, in integers, and takes one optimizer step",
        "fedavg": f"Each round takes {federation.local_steps} steps at each site and averages the changes",
    }[federation.protocol]
    return (
        f"{told} ({federation.protocol}). {sites} sites took part, at least {run.config.quorum} in a round; "
        f"{len(run.rows.rounds)} of {federation.rounds} rounds were finished. Sums: {run.promises[0]}."
    )


def _privacy(run: Outward) -> str:
    privacy = run.config.privacy
    if privacy is None:
        return "No noise was added (`[privacy]` is not in the configuration): no epsilon holds for any site or patient."
    lines = [
        f"The unit is one patient: every gradient is clipped to {privacy.clip_norm:g}, and the noise on a sum has "
        f"{privacy.noise_multiplier:g} times that ({privacy.noise}). Epsilon at delta {privacy.delta:g}, for one "
        "patient of the site, by the rounds and evaluations that this model stands on and those that were taken back; "
        "each site's own ledger, which also charges what came too late, has the last word, and other runs on the same "
        "patients add to it.",
        "",
        "| site | rounds | epsilon, gradients (patients that train) | epsilon, counts (patients held out) |",
        "|---|---|---|---|",
    ]
    for site, (rounds, evaluations) in taken(run.rows).items():
        if not rounds and not evaluations:
            continue
        spent = epsilons(run.config, rounds, evaluations)
        assert spent is not None
        counts = "no counts leave" if spent[1] is None else f"{spent[1]:.3g}"
        lines.append(f"| {cell(site)} | {rounds} | {spent[0]:.3g} | {counts} |")
    return "\n".join(
        [
            *lines,
            "",
            "What the run stated beforehand of its noise, all rounds taken together, beside the other ways:",
            "",
            *(f"- {told}" for told in run.promises[1:]),
        ]
    )


def _evaluation(run: Outward) -> str:
    return "\n\n".join([*_by_sites(run), by_study(run)])


def _by_sites(run: Outward) -> list[str]:
    """Return what the sites' counts say."""
    after = run.by_site(run.evaluated)
    if not after:
        return [f"No site let its counts out, or fewer than {FEWEST} questions were asked: {AUTHORS}."]
    parts = [
        f"Held-out patients of {run.partly or 'the sites'}, after round {run.evaluated}. Free-form counts what the "
        "model boxes itself; choice forced takes the likeliest where it boxes none. "
        f"In brackets the {wilson.NAME} (Wilson score), which takes the questions as independent"
        + (" and leaves out the noise that the counts hold for privacy." if run.noised else "."),
        _table("site", after),
    ]
    before = run.by_site(0) if run.evaluated else []
    if before:
        parts += ["Before training:", _table("site", before)]
    if run.by_feature:
        parts += [f"By what is asked for, over {run.among}:", _table("asked for", run.by_feature)]
    return [*parts, f"Rows on fewer than {FEWEST} questions are added up."]


def _table(head: str, shares: list[Share]) -> str:
    lines = [f"| {head} | questions | free-form | choice forced |", "|---|---|---|---|"]
    lines += [f"| {cell(s.name)} | {s.asked} | {interval(s, s.free)} | {interval(s, s.forced)} |" for s in shares]
    return "\n".join(lines)


def _outcome(run: Outward) -> str:
    whole, study = run.whole, run.study
    if whole is None and study is not None:
        free = study.accuracy[OWN].free
        return f"{free} right free-form of {study.questions} questions of held-out patients, over the study's seeds"
    if whole is None:
        return AUTHORS
    return f"{interval(whole, whole.free)} right free-form of {whole.asked} questions of held-out patients{_of(run)}"


def _of(run: Outward) -> str:
    """Say of how many sites the last counts are, where they are not of all."""
    return f" of {run.partly}" if run.partly else ""


def _base_long(run: Outward, base: str) -> str:
    model = run.config.model
    told = [base, f"revision `{model.revision}`" if model.revision else "", f"computed with in {model.dtype}"]
    told += [f"packed to {model.quantization}" if model.quantization != "none" else ""]
    told += [f"files' SHA-256 `{model.manifest_sha256}`" if model.manifest_sha256 else ""]
    return ", ".join(part for part in told if part)
