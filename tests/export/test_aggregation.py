"""Both spellings of the aggregation, against the one that trains."""

import pytest
import torch

from kgdet_d2.export.aggregation import SPELLINGS, SpelledAggregation, spell_aggregations
from kgdet_d2.modeling.heads.aggregation import PointAggregation, SamplingLocations
from tests.helpers.systems import make_kgdet


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("size", [(5, 7), (1, 4), (1, 1)])
def test_it_is_the_same_sum(spelling, size):
    torch.manual_seed(0)
    aggregation = PointAggregation(6, 4, [9, 25, 1]).requires_grad_(False)
    for parameter in aggregation.parameters():
        torch.nn.init.normal_(parameter)
    features = torch.randn(2, 6, *size)
    # Some points are far outside of the map, some between its border and one location further.
    sampling = SamplingLocations(3 * torch.randn(2, 70, *size))
    expected = aggregation(features, sampling)
    found = SpelledAggregation(aggregation, spelling)(features, sampling)
    assert expected.shape == (2, 12, *size) and expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_norm_stays(spelling):
    torch.manual_seed(0)
    aggregation = PointAggregation(3, 2, [9], norm="BN").eval().requires_grad_(False)
    aggregation.norm.running_mean.normal_()
    torch.nn.init.normal_(aggregation.convs[0].weight)
    features, sampling = torch.randn(1, 3, 4, 4), SamplingLocations(torch.randn(1, 18, 4, 4))
    found = SpelledAggregation(aggregation, spelling).eval()(features, sampling)
    torch.testing.assert_close(found, aggregation(features, sampling), rtol=1e-4, atol=1e-5)


def test_all_of_a_model_are_replaced_and_its_weights_stay():
    model = make_kgdet()
    before = model.state_dict()
    number = sum(isinstance(module, PointAggregation) for module in model.modules())
    spell_aggregations(model, "grid_sample")
    kinds = [type(module) for module in model.modules()]
    assert PointAggregation not in kinds and kinds.count(SpelledAggregation) == number > 0
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
