"""Make the compact recordings in tests/assets/release out of the full ones.

    python -m tests.helpers.make_release_recordings

A recording holds numbers alone, no photos.
"""

import json
import re

import numpy as np

from kgdet_d2.utils.io import atomic_write
from tests.helpers.release_recordings import COMPACT, Recording, load

# By the beginning of an array's name: which elements to keep, every n-th, none for 0. All where nothing fits.
_HEAD = {
    r"assign_points|flip_indices": 0,
    r"feat_|grad_feat_|det_kpts_|flip_det_kpts_": 97,
    r"out_kpt_|flip_kpt_": 31,
    r"out_|raw_scores_|flip_cls_|flip_bbox_|grad:": 7,
}
RULES = {
    "head3_p5": _HEAD,
    "head3_p567": _HEAD,
    "head1_n9_p5": _HEAD,
    "head3_p5_flip": _HEAD,
    "repkp_parallel": _HEAD,
    "moment": {r"minmax|partial_minmax|p2k": 0},
    "assigner": {},
    "losses": {},
    "nms": {},
    "demo_sizes_1333x800": {},
}
_FACTS = {"feat_salt", "pos_num", "losses", "flip_losses", "grad", "num_total_pos", "items"}


def compact(name: str) -> Recording:
    """Sample the full recording by ``RULES``."""
    full = load(name, "full")
    arrays = {}
    for key, values in full.arrays.items():
        step = next((step for start, step in RULES[name].items() if re.match(start, key)), 1)
        if step == 1:
            arrays[key] = values
        elif step:
            arrays[f"{key}[::{step}]"] = values.ravel()[::step]
    if name.startswith("demo_sizes"):  # named after photos, which do not matter
        return Recording(arrays, {str(number): item for number, item in enumerate(full.facts.values())})
    return Recording(arrays, {key: value for key, value in full.facts.items() if key in _FACTS})


def main() -> None:
    """Write all compact recordings."""
    for name in RULES:
        recording = compact(name)
        with atomic_write(COMPACT / f"{name}.npz") as file:
            np.savez_compressed(file, **recording.arrays, facts=np.array(json.dumps(recording.facts)))


if __name__ == "__main__":
    main()
