"""An exponential moving average (EMA) of the weights while they learn."""

from collections.abc import Sequence
from typing import Any

from detectron2.engine import HookBase
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


class EMAHook(HookBase):
    """Average a model's weights after each iteration: ``average <- d * average + (1 - d) * weights``.

    ``d`` is :func:`warmed_up` decay. Buffers are averaged as well: BatchNorm's running statistics are those
    of the last ten or so iterations' weights, and would not suit weights that are an average of many more.

    Its state holds the weights that learn. The average is not in it: it is the checkpoint's model.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        """Copy the model.

        Args:
            model: that learns, without a wrapper for data-parallel training.
            decay: the largest, 0..1.
        """
        self._model = model
        self._average = AveragedModel(model, use_buffers=True).eval()
        self._decay = decay

    @property
    def averaged_model(self) -> nn.Module:
        """The model with the averaged weights, for inference."""
        return self._average.module

    def after_step(self) -> None:
        """Take the weights into the average. After the first iteration they are the average."""
        average_floats = get_ema_multi_avg_fn(warmed_up(self._decay, int(self._average.n_averaged)))

        def average(averages: Sequence[Tensor], values: Sequence[Tensor], updates: Tensor | int) -> None:
            if averages[0].is_floating_point():
                average_floats(list(averages), list(values), updates)
            else:  # indices and counters, whose average would be rounded down
                for index, value in zip(averages, values, strict=True):
                    index.copy_(value)

        self._average.multi_avg_fn = average
        self._average.update_parameters(self._model)

    def begin(self) -> None:
        """Give the model the weights that were loaded into the average, but for those that were resumed."""
        if self._average.n_averaged == 0:
            self._model.load_state_dict(self.averaged_model.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the weights that learn, and how often they were averaged."""
        return {"model": self._model.state_dict(), "updates": int(self._average.n_averaged)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._model.load_state_dict(state_dict["model"])
        self._average.n_averaged.fill_(state_dict["updates"])


def warmed_up(decay: float, updates: int) -> float:
    """Return the decay of an average that began not long ago: ``min(decay, (1 + t) / (10 + t))``.

    Until ``decay`` is reached the last tenth of the iterations makes up most of the average, so that the
    first weights weigh nothing at the end of a short training. TensorFlow's ExponentialMovingAverage has this
    rule.

    Args:
        decay: the largest, 0..1.
        updates: t, how often weights were averaged before.
    """
    return min(decay, (1 + updates) / (10 + updates))
