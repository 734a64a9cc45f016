"""What must change in Detectron2 v0.6 to run on today's libraries without its compiled part; only data.

tools/install_detectron2.py makes these edits, and refuses a source where one does not apply.
"""

from typing import NamedTuple


class Edit(NamedTuple):
    """Replace ``old`` by ``new`` in ``detectron2/<file>``, where it must occur exactly ``count`` times."""

    file: str
    why: str
    old: str
    new: str
    count: int = 1


def _optional_ops(file: str) -> Edit:
    return Edit(
        file,
        "there is no compiled part",
        "from detectron2 import _C\n",
        "try:\n    from detectron2 import _C\nexcept ImportError:\n    _C = None\n",
    )


EDITS = (
    _optional_ops("layers/deform_conv.py"),
    _optional_ops("layers/roi_align_rotated.py"),
    _optional_ops("layers/rotated_boxes.py"),
    Edit(
        "evaluation/coco_evaluation.py",
        "the fast COCO evaluation is compiled; pycocotools gives the same numbers",
        "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
        "try:\n    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
        "except ImportError:\n    COCOeval_opt = COCOeval\n",
    ),
    Edit("data/transforms/transform.py", "gone in Pillow 10", "Image.LINEAR", "Image.BILINEAR"),
    Edit("model_zoo/model_zoo.py", "gone in setuptools 81", "import pkg_resources\n", ""),
    Edit(
        "model_zoo/model_zoo.py",
        "gone in setuptools 81",
        "pkg_resources.resource_filename(\n"
        '        "detectron2.model_zoo", os.path.join("configs", config_path)\n    )',
        'os.path.join(os.path.dirname(__file__), "configs", config_path)',
    ),
    Edit("data/build.py", "gone in numpy 1.24", "dtype=np.int\n", "dtype=int\n"),
    Edit("data/build.py", "gone in numpy 1.24", "dtype=np.int)", "dtype=int)"),
    Edit("evaluation/sem_seg_evaluation.py", "gone in numpy 1.24", "np.int)", "int)", 2),
    Edit("evaluation/sem_seg_evaluation.py", "gone in numpy 1.24", "np.float)", "float)", 5),
    Edit("data/datasets/pascal_voc.py", "gone in numpy 1.24", "dtype=np.str)", "dtype=str)"),
    Edit(
        "export/__init__.py",
        "torch no longer brings caffe2",
        "from .api import *\n",
        "try:\n    from .api import *\nexcept ImportError:  # caffe2\n    pass\n",
    ),
    Edit(
        "checkpoint/detection_checkpoint.py",
        "DistributedDataParallel lost this method in torch 1.12",
        "            self.model._sync_params_and_buffers()\n",
        "            for tensor in (*self.model.parameters(), *self.model.buffers()):\n"
        "                torch.distributed.broadcast(tensor.detach(), src=0)\n",
    ),
    Edit(
        "data/common.py",
        "random.sample refuses sets since Python 3.11",
        "self._rng.sample(self._fallback_candidates, k=1)",
        "self._rng.sample(tuple(self._fallback_candidates), k=1)",
    ),
    Edit(
        "engine/hooks.py",
        "renamed in torch 2.0; under the old name the scheduler's state is silently not saved",
        "lr_scheduler._LRScheduler",
        "lr_scheduler.LRScheduler",
        2,
    ),
    Edit(
        "engine/hooks.py",
        "renamed in torch 2",
        "profile(use_cuda=self._use_cuda)",
        'profile(\n                use_device="cuda" if self._use_cuda else None\n            )',
    ),
    Edit(
        "modeling/anchor_generator.py",
        "torch warns when the indexing is not named",
        "torch.meshgrid(shifts_y, shifts_x)",
        'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
    ),
    Edit(
        "engine/launch.py",
        "data-parallel training on CPU",
        '    assert torch.cuda.is_available(), "cuda is not available. Please check your installation."\n',
        "    has_cuda = torch.cuda.is_available()\n",
    ),
    Edit(
        "engine/launch.py",
        "data-parallel training on CPU",
        'backend="NCCL"',
        'backend="NCCL" if has_cuda else "GLOO"',
    ),
    Edit(
        "engine/launch.py",
        "data-parallel training on CPU",
        "    assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "    torch.cuda.set_device(local_rank)\n",
        "    if has_cuda:\n"
        "        assert num_gpus_per_machine <= torch.cuda.device_count()\n"
        "        torch.cuda.set_device(local_rank)\n",
    ),
    Edit(
        "engine/defaults.py",
        "data-parallel training on CPU, where there are no device ids",
        '    if "device_ids" not in kwargs:\n',
        '    if "device_ids" not in kwargs and torch.cuda.is_available():\n',
    ),
    Edit(
        "engine/train_loop.py",
        "mixed precision on CPU; bfloat16 has float32's range, so its gradients need no scaling",
        "            from torch.cuda.amp import GradScaler\n\n            grad_scaler = GradScaler()\n",
        "            device_type = next(model.parameters()).device.type\n"
        '            grad_scaler = torch.amp.GradScaler(device_type, enabled=device_type != "cpu")\n',
    ),
    Edit(
        "engine/train_loop.py",
        "mixed precision on CPU",
        '        assert torch.cuda.is_available(), "[AMPTrainer] CUDA is required for AMP training!"\n'
        "        from torch.cuda.amp import autocast\n",
        "        device_type = next(self.model.parameters()).device.type\n"
        '        amp_dtype = torch.bfloat16 if device_type == "cpu" else torch.float16\n',
    ),
    Edit(
        "engine/train_loop.py",
        "mixed precision on CPU",
        "        with autocast():\n",
        "        with torch.autocast(device_type, dtype=amp_dtype):\n",
    ),
)
