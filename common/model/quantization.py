"""A 4-bit base: its linear layers in NF4 (QLoRA, arXiv 2305.14314), by bitsandbytes through transformers.

Weights are packed on the CPU, whatever the device: absolute maxima, one IEEE division and comparisons give every site
the same bits, and the device never holds the unpacked model. Norms, embeddings and head stay in the compute dtype.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.errors import Code, FedReasonError

if TYPE_CHECKING:
    import torch

BLOCK = 64
"""Weights that share one constant, the largest absolute value among them."""


def nf4_options() -> dict[str, Any]:
    """Arguments that have `from_pretrained` pack the linear layers.

    The constants stay float32. Quantising them too (double quantisation) would save 0.37 bits a weight, 0.6 GB of 14
    billion, but rests on their mean, and no library promises the order of a sum.

    Raises
    ------
    FedReasonError
        Without bitsandbytes.
    """
    require_bitsandbytes()
    import torch
    from transformers import BitsAndBytesConfig

    packing = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=False,
    )
    return {"quantization_config": packing, "device_map": {"": "cpu"}}


def require_bitsandbytes() -> None:
    """Refuse a 4-bit base where it cannot be made."""
    from transformers.utils.import_utils import is_bitsandbytes_available

    if not is_bitsandbytes_available():
        raise FedReasonError(
            Code.MODEL_QUANTIZATION,
            'The run states model.quantization = "nf4", and bitsandbytes is missing or too old here.',
            "Install it: pip install 'bitsandbytes>=0.50'.",
        )


def keep_bits(model: torch.nn.Module) -> None:
    """Have the packed weights stay as they are.

    On CPUs with AVX512-BF16 bitsandbytes reorders them in place at the first pass without gradient, and the product it
    then takes has no backward: gradients would be wrong without an error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False  # type: ignore[assignment]
