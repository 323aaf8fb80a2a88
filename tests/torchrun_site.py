"""What torchrun starts in a test: the first rank is a site that answers two tasks, the others compute for it.

`torchrun ... tests/torchrun_site.py MODEL FOLDER` writes the hash of each sum to FOLDER/sums.
"""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from client.__main__ import compute_for_first, started_as_another_rank
from client.site.config import load_site
from client.training.requests import contribute
from client.training.workplace import Workplace
from tests.client.training.tasks import task_of
from tests.small import small_config


def main(model: Path, folder: Path) -> None:
    """Answer two tasks; the ranks are called anew for the second."""
    torch.set_num_threads(1)
    if started_as_another_rank():
        compute_for_first(folder, load_site(folder))
    config = small_config(
        model,
        federation={"sites": 1, "quorum": 1, "sampling_rate": 1.0},
        simulation={"hospitals": ["north"], "patients": 9},
    )
    place = Workplace(folder)
    for number in (1, 2):
        total = contribute(place, task_of(place, config, number)).total
        with (folder / "sums").open("a") as file:
            file.write(hashlib.sha256(total.tobytes()).hexdigest() + "\n")
        place.close()
    os._exit(0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
