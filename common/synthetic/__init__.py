"""A public synthetic sepsis registry: text for the embedded model's warm-up, hospitals for the demo and the tests.

No record comes from a person. The hospitals treat by a shared local practice that public text does not contain.
"""

from common.synthetic.codebook import CORE, EVIDENCE, GAP, KEPT, codebook
from common.synthetic.hospitals import HOSPITALS, Hospital, registry, write_registry
from common.synthetic.patient import public_patient

__all__ = [
    "CORE",
    "EVIDENCE",
    "GAP",
    "HOSPITALS",
    "KEPT",
    "Hospital",
    "codebook",
    "public_patient",
    "registry",
    "write_registry",
]
