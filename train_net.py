#!/usr/bin/env python
"""Train or evaluate a kgdet_d2 model, the Detectron2 way; the same as ``kgdet train``.

    train_net.py --config-file configs/kgdet_R50.yaml --num-gpus 4
    train_net.py --config-file configs/kgdet_R50.yaml --num-gpus 4 --resume
    train_net.py --config-file configs/kgdet_R50.yaml --eval-only MODEL.WEIGHTS path/to/model.pth

``--num-gpus 0`` runs on the CPU. META_ARCHITECTURE "MatchRCNN" learns from pairs of photos, and is tested on
retrieval, too. What it does stands in kgdet_d2/engine/trainer.py.
"""

import sys

from kgdet_d2.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
