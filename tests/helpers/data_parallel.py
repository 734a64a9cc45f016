"""Data-parallel training of every system in float64, with all that is drawn at random taken or fixed."""

import torch
import torch.nn.functional as F
from detectron2.engine import launch
from detectron2.modeling.meta_arch import fcos, retinanet
from detectron2.modeling.proposal_generator import proposal_utils
from detectron2.structures import PolygonMasks
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch.nn.parallel import DistributedDataParallel

from kgdet_d2.modeling import losses, refinement
from tests.helpers.images import image_input
from tests.helpers.systems import GROUP_NORM, SELECTION, make_model

NORMS = [*GROUP_NORM, "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.RETINANET.NORM", "", "MODEL.FCOS.NORM", "GN"]
REFINER = ["ENABLED", True, "NUM_POSITIVES", 1000, "VERIFICATION_WEIGHT", 1.0, "BOX_WEIGHT", 2.0]
REFINER = [f"MODEL.KGDET.REFINER.{word}" if isinstance(word, str) else word for word in REFINER]
ALL_SAMPLES = ["MODEL.RPN.BATCH_SIZE_PER_IMAGE", 100_000, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 100_000]
SYSTEMS = {
    "kgdet": ("kgdet_tiny", []),
    "selection": ("kgdet_tiny", SELECTION),
    "quality": ("kgdet_tiny", ["MODEL.KGDET.LOSS.CLS_LOSS", "quality", "MODEL.KGDET.LOSS.BOX_LOSS", "giou"]),
    "refiner": ("kgdet_tiny", ["MODEL.FPN.FINE_LEVEL", "p3", *REFINER]),
    "reppoints": ("reppoints_kp_tiny", []),
    "retinanet": ("retinanet_tiny", []),
    "fcos": ("fcos_tiny", []),
    "match_rcnn": ("match_rcnn_tiny", ALL_SAMPLES),
}
# For each process its images' boxes, and how many of their landmarks are labelled.
BOXES = [[5.0, 5, 60, 90], [20.0, 10, 90, 60], [0.0, 30, 50, 80], [40.0, 40, 95, 95]]
BATCHES = {
    "more in one": [[(BOXES, 20), (BOXES[:2], 3)], [(BOXES[3:], 7), ([], 0)]],
    "none in one": [[([], 0), ([], 0)], [(BOXES[:3], 9), (BOXES[1:2], 0)]],
    "none at all": [[([], 0), ([], 0)], [([], 0), ([], 0)]],
}
TOLERANCE = 1e-12


def batches(system, kind):
    """Each process's inputs; landmarks are spread over the photo."""
    torch.manual_seed(1)
    found = []
    for images in BATCHES[kind]:
        inputs = [image_input(96, 96, *image) for image in images]
        for record in inputs:
            instances = record["instances"]
            instances.gt_keypoints.tensor[..., :2] = torch.rand(len(instances), 294, 2) * 96
            corners = instances.gt_boxes.tensor[:, [0, 1, 2, 1, 2, 3, 0, 3]].tolist()
            if system == "match_rcnn":  # the first of each photo was not outlined
                outlines = [[corner] if row else [] for row, corner in enumerate(corners)]
                instances.gt_masks = PolygonMasks(outlines)
        found.append(inputs)
    return found


def build(system, *opts):
    config, more = SYSTEMS[system]
    return make_model(config, *NORMS, *more, *opts).double()


def learn(model, inputs):
    """The gradients of the second step, where running averages have moved, all in one vector.

    Within an ``EventStorage``, which threads share.
    """
    for _ in range(2):
        model.zero_grad()
        sum(model(inputs).values()).backward()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return torch.cat([p.grad.flatten() if p.grad is not None else p.flatten() * 0 for p in parameters])


def first_wrong_class(scores, classes):
    """Stands for the wrong classes that are drawn at random."""
    return (classes + 1) % scores.shape[1]


def focal_loss(logits, targets, alpha, gamma, reduction="none"):
    """Stands for fvcore's, which computes in float32 whatever it is given."""
    score = logits.sigmoid()
    missing = (targets - score).abs() ** gamma
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    loss = weight * missing * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    return loss.sum() if reduction == "sum" else loss


def distance(found, expected):
    """Of gradients, relative."""
    return ((found - expected).norm() / expected.norm()).item()


def fix(replace):
    replace(refinement, "sample_wrong_classes", first_wrong_class)
    replace(losses, "sigmoid_focal_loss", focal_loss)
    for module in (retinanet, fcos):
        replace(module, "sigmoid_focal_loss_jit", focal_loss)
    nms = proposal_utils.batched_nms
    replace(proposal_utils, "batched_nms", lambda boxes, scores, *more: nms(boxes, scores.float(), *more))


def _learn_in_process(folder):
    """Learn one part of each batch, by Detectron2's and PyTorch's own means."""
    fix(setattr)
    for system in SYSTEMS:
        for kind in BATCHES:
            model = DistributedDataParallel(build(system))
            with EventStorage():
                found = learn(model, batches(system, kind)[comm.get_rank()])
            torch.save(found, folder / f"{system} {kind} {comm.get_rank()}.pth")


def assert_two_processes_learn_what_one_does(system, folder):
    """Of each batch, after :func:`learn_in_two_processes`; what is drawn is fixed here, too."""
    for kind in BATCHES:
        first, second = batches(system, kind)
        expected = learn(build(system), [*first, *second])
        for rank in range(2):
            found = torch.load(folder / f"{system} {kind} {rank}.pth")
            assert distance(found, expected) < TOLERANCE, (system, kind)


def learn_in_two_processes(folder):
    """Let two processes learn each batch of every system, by Detectron2's and PyTorch's own means."""
    launch(_learn_in_process, 2, dist_url="auto", args=(folder,))
