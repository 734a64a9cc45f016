"""RepPoints (Yang et al., ICCV 2019) and RepPoints-Kp (paper, "Baselines")."""

from detectron2.modeling import META_ARCH_REGISTRY

from kgdet_d2.modeling.meta_arch.point_detector import PointDetector
from kgdet_d2.modeling.reppoints_head import RepPointsHead
from kgdet_d2.modeling.reppoints_losses import RepPointsCriterion


@META_ARCH_REGISTRY.register()
class RepPoints(PointDetector):
    """A detector that places points as it likes, makes its boxes of them and looks again where they lie.

    With ``MODEL.REPPOINTS.KEYPOINTS`` it places landmarks, too: RepPoints-Kp.
    """

    @classmethod
    def from_config(cls, cfg):
        return cls.parts(cfg, RepPointsHead, RepPointsCriterion)
