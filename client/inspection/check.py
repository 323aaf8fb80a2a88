"""`python -m client check`: everything that can be known before a site takes part, each check whatever the others say.

The preflight comes first, then the registry in counts, then what a run would ask of this site. Nothing is sent but what
the preflight sends, nothing is downloaded, and no value of a record is told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Generic, TypeVar

from client.inspection.access import exposed
from client.inspection.conversions import unit_hints
from client.inspection.local_model import local_shape, local_tokenizer, missing_model
from client.inspection.memory import device_memory, estimate
from client.inspection.prompt_lengths import prompt_lengths, sampled_questions
from client.inspection.registry import Inspection, explained, inspect_registry
from client.node.preflight import Check, checks
from client.policy.policy import load_policy
from client.policy.unit import require_unit
from client.privacy.validity import require_invariant_rollouts, require_valid_privacy
from client.registry.load import Registry
from client.site.config import SiteConfig
from client.site.devices import require_devices
from client.site.exclusions import EXCLUSIONS_FILE, opted_out, read_exclusions, without_excluded
from client.site.federation import require_named
from client.site.opened import read_registry
from client.site.secret import split_secret
from client.site.split import held_out
from common.cli import unexpected
from common.codebook import Codebook, load_codebook
from common.config import RunConfig, load_config
from common.errors import Code, FedReasonError
from common.mechanisms import WHOLE, drowns, kept_length, mechanism_lines
from common.model.quantization import require_bitsandbytes
from common.questions.question import Patient, QuestionMaker
from common.tiny import Embedded

_Value = TypeVar("_Value")
_NO_RUN = "no run given"


@dataclass(frozen=True)
class Seen(Generic[_Value]):
    """What a check saw, and gives to later ones; with `code` it refuses all the same."""

    text: str
    value: _Value
    warning: bool = False
    code: int | None = None


@dataclass(frozen=True)
class Line:
    """What one check saw; `code` where it refuses."""

    name: str
    text: str
    code: int | None = None
    warning: bool = False


@dataclass
class Checklist:
    """The lines so far; each is told as soon as it is known."""

    tell: Callable[[Line], None]
    lines: dict[str, Line] = field(default_factory=dict)

    def check(self, name: str, make: Callable[[], Seen[_Value]], needs: Sequence[str] = ()) -> _Value | None:
        """Make a check and return what it gives; None where it, or one that it needs, is refused."""
        refused = [need for need in needs if self.refuses(need)]
        value = None
        if refused:
            line = Line(name, f"not looked at: see {' and '.join(refused)}", self.lines[refused[0]].code)
        else:
            try:
                seen = make()
                line, value = Line(name, seen.text, seen.code, seen.warning), seen.value
            except FedReasonError as error:
                line = Line(name, str(error), int(error.code))
            except Exception as error:
                told = unexpected(error)
                line = Line(name, str(told), int(told.code))
        self.lines[name] = line
        self.tell(line)
        return value

    def refuses(self, name: str) -> bool:
        """Whether a check that was made refuses."""
        return self.lines[name].code is not None


@dataclass(frozen=True)
class Asked:
    """A registry, its patients who have not opted out, and what makes their questions."""

    registry: Registry
    patients: Sequence[Patient]
    maker: QuestionMaker


@dataclass(frozen=True)
class Checked:
    """All lines, and what was found in the registry where it could be read."""

    lines: tuple[Line, ...]
    inspection: Inspection | None

    @property
    def well(self) -> bool:
        """Whether nothing refuses."""
        return all(line.code is None for line in self.lines)


def check_site(folder: Path, config: SiteConfig, planned: Path | None, tell: Callable[[Line], None]) -> Checked:
    """Make every check of a site, and of the run whose configuration is at `planned`."""
    checklist = Checklist(tell)
    registry = cache(lambda: read_registry(config, load_codebook(config.codebook)))
    for each in checks(folder, config):
        look = partial(_opt_outs, each, folder, config, registry) if each.name == "opt-outs" else partial(_seen, each)
        checklist.check(each.name, look)
    checklist.check("access", partial(_access, folder, config))
    if config.devices:
        checklist.check("devices", lambda: Seen(require_devices(config.devices), None))
    if config.rollouts == "vllm":
        checklist.check("rollouts", _rollouts)
    run = checklist.check("run", partial(_run, config, planned), needs=("codebook",))
    if run is not None:
        checklist.check("allowed", partial(_allowed, folder, config, run), needs=("policy", "codebook"))
        checklist.check("privacy", partial(_privacy, folder, config, run), needs=("policy", "codebook"))
    records = partial(_records, folder, config, run, registry)
    asked = checklist.check("records", records, needs=("codebook", "registry"))
    inspection = checklist.check("features", partial(_features, config, asked), needs=("records",))
    longest = checklist.check(
        "prompts", partial(_prompts, config, asked, run), needs=("run", "records") if planned else ()
    )
    checklist.check(
        "memory", partial(_memory, folder, config, run, longest), needs=("run", "policy") if planned else ()
    )
    return Checked(tuple(checklist.lines.values()), inspection)


def _seen(check: Check) -> Seen[None]:
    return Seen(check.run(), None)


def _opt_outs(check: Check, folder: Path, config: SiteConfig, registry: Callable[[], Registry]) -> Seen[None]:
    """Hold the list against the registry, where that can be read: a line that names nobody is refused."""
    told = check.run()
    if not read_exclusions(folder, column=None):
        return Seen(told, None)
    try:
        patients = registry().patients
    except FedReasonError:
        return Seen(f"{told}; whom it names is not known before the registry can be read", None, warning=True)
    found = opted_out(patients, folder, column=load_codebook(config.codebook).patient)
    found.refuse(whole_hospital=config.exclusions.whole_hospital)
    told = f"{EXCLUSIONS_FILE} has {found.lines:,} lines, {len(found.gone):,} patients opted out"
    if found.unknown:
        told += f", {len(found.unknown):,} lines name nobody in the registry (whole_hospital = true)"
    return Seen(told, None, warning=not found.gone)


def _access(folder: Path, config: SiteConfig) -> Seen[None]:
    found = exposed(folder, config)
    return Seen("; ".join(found) or "no other user can read the records or change what stands here", None, bool(found))


def _rollouts() -> Seen[None]:
    from importlib.metadata import version

    from client.grpo.vllm import require_vllm

    require_vllm()
    return Seen(f"vLLM {version('vllm')}; whether it samples as it should is tried out when a run starts", None)


def _run(config: SiteConfig, planned: Path | None) -> Seen[RunConfig | None]:
    if planned is None:
        return Seen(_NO_RUN, None)
    run, _ = load_config(planned)
    codebook = load_codebook(config.codebook)
    if run.questions.codebook_sha256 != codebook.sha256:
        raise FedReasonError(
            Code.CODEBOOK_CHANGED,
            f"{planned} states codebook {str(run.questions.codebook_sha256)[:12]}, {config.codebook} has "
            f"{codebook.sha256[:12]}.",
            "Ask the coordinator for the federation's codebook.",
        )
    if config.federation is not None:
        require_named(config.federation, run)
    require_valid_privacy(run, codebook)
    require_invariant_rollouts(run, config.rollouts)
    kind = "not private" if run.privacy is None else "private, by the rules"
    return Seen(f"'{run.name}' ({run.sha256[:12]}), {kind}, the same codebook", run)


def _allowed(folder: Path, config: SiteConfig, run: RunConfig) -> Seen[None]:
    policy = load_policy(folder)
    policy.refuse(run)
    require_unit(policy, run, load_codebook(config.codebook))
    return Seen(f"policy.toml allows it; counts of right answers that leave: {policy.metrics_of(run)}", None)


def _privacy(folder: Path, config: SiteConfig, run: RunConfig) -> Seen[None]:
    """Say what the run costs a patient, what it would under the other ways to noise its sums, and if it can learn."""
    shape = local_shape(run, load_codebook(config.codebook), config.models) if run.privacy else None
    size = None if shape is None else run.adapter.rank * sum(outputs for _, outputs in shape.adapted)
    lines = mechanism_lines(run, load_policy(folder).delta_of(run), size)
    lost = size is not None and (drowns(run, size) or kept_length(run, size) < WHOLE)
    return Seen(". ".join(f"{label} {told}" for label, told in lines), None, warning=lost)


def _records(folder: Path, config: SiteConfig, run: RunConfig | None, read: Callable[[], Registry]) -> Seen[Asked]:
    codebook, registry = load_codebook(config.codebook), read()
    report, patients = registry.report, _staying(registry, folder, codebook.patient)
    told = [f"{report.patients:,} patients", f"{report.records:,} records"]
    told += [f"{report.patients - len(patients):,} opted out"]
    if run is not None:
        secret = split_secret(folder, config.federation)
        kept = sum(held_out(patient, run, secret) for patient in patients)
        told += [f"{len(patients) - kept:,} for training", f"{kept:,} held out"]
    told += [f"{report.without_values:,} without any usable value", f"{report.ignored_columns:,} columns left out"]
    told += [*report.remarks, *report.notes]
    view, weights = (run.questions.view, run.questions.weights) if run is not None else ("full", {})
    asked = Asked(registry, patients, QuestionMaker(codebook, view, weights=weights))
    return Seen(", ".join(told), asked, warning=bool(report.remarks))


def _staying(registry: Registry, folder: Path, column: str) -> Sequence[Patient]:
    """Patients of whom the list says nothing; all of them where it cannot be read, which the opt-outs' line tells."""
    try:
        return without_excluded(registry.patients, folder, whole_hospital=True, column=column)
    except FedReasonError:
        return registry.patients


def _features(config: SiteConfig, asked: Asked | None) -> Seen[Inspection]:
    assert asked is not None
    codebook = asked.maker.codebook
    found = inspect_registry(asked.registry, asked.maker, asked.patients)
    if found.refused:
        hints = unit_hints(partial(read_registry, config), codebook, found.refused)
        found = explained(found, {name: hint.text for name, hint in hints.items()})
    told = f"{len(found.features):,} described, {len(found.refused):,} refused, {found.warned:,} to look at"
    code = int(Code.REGISTRY_UNITS) if found.refused else None
    return Seen(told, found, warning=bool(found.findings), code=code)


def _prompts(config: SiteConfig, asked: Asked | None, run: RunConfig | None) -> Seen[int | None]:
    if run is None:
        return Seen(_NO_RUN, None)
    assert asked is not None
    tokenizer = local_tokenizer(run, asked.maker.codebook, config.models)
    if tokenizer is None:
        return _missing(run, asked.maker.codebook)
    limit = run.grpo.max_prompt_tokens
    found = prompt_lengths(sampled_questions(asked.maker, asked.patients), tokenizer, run.grpo)
    told = f"the longest of {found.questions:,} has {found.longest:,} tokens, {limit:,} are allowed"
    if found.too_long:
        return Seen(f"{told}; {found.too_long:,} are too long and would not be asked", limit, warning=True)
    return Seen(told, found.longest)


def _missing(run: RunConfig, codebook: Codebook) -> Seen[Any]:
    return Seen(missing_model(run, codebook), None, warning=Embedded.of_run(run, codebook) is None)


def _memory(folder: Path, config: SiteConfig, run: RunConfig | None, longest: int | None) -> Seen[None]:
    if run is None:
        return Seen(_NO_RUN, None)
    if run.model.quantization != "none":
        require_bitsandbytes()
    codebook = load_codebook(config.codebook)
    shape = local_shape(run, codebook, config.models)
    if shape is None:
        return _missing(run, codebook)
    evaluates = load_policy(folder).metrics_of(run) != "none" or run.guard is not None
    prompt = longest or run.grpo.max_prompt_tokens
    found = min(filter(None, map(device_memory, config.own_devices)), default=None)
    whole = None if found is None else found[1]
    needed = estimate(shape, run, prompt=prompt, evaluates=evaluates, rollouts=config.rollouts, memory=whole)
    told = f"an estimate: {needed.text}"
    if found is None:
        return Seen(f"{told}; no GPU to compare it with", None)
    free, _ = found
    return Seen(f"{told}; {free / 1e9:.1f} GB of {_gpu(config)} are free", None, warning=needed.total > free)


def _gpu(config: SiteConfig) -> str:
    return "the GPU" if len(config.own_devices) == 1 else "the fullest GPU"
