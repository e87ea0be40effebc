from __future__ import annotations

from tiny_run import tiny_data, tiny_recipe

from gloro_fast.train.build import build_net
from gloro_fast.train.config import RunConfig
from gloro_fast.train.cost import certification_cost, training_cost


def test_training_costs_time_and_more_memory_than_its_weights():
    recipe, data = tiny_recipe(warmup_epochs=1, lam="1.0"), tiny_data()
    found = training_cost(recipe, data, rounds=2)
    assert set(found) == {"recipe", "standard"}
    net = build_net(RunConfig(recipe, data.input_shape, data.num_classes))
    weights = sum(parameter.numel() * parameter.itemsize for parameter in net.parameters())
    for cost in found.values():
        assert cost.seconds_per_epoch > 0
        # Weights, gradients and two moments at least.
        assert cost.megabytes_per_instance * 1e6 * recipe.batch_size > 3 * weights


def test_certification():
    recipe, data = tiny_recipe(), tiny_data()
    net = build_net(RunConfig(recipe, data.input_shape, data.num_classes)).eval()
    found = certification_cost(net, data.test, batch_size=16, rounds=1)
    assert found.images == 40
    assert min(found.seconds, found.forward_seconds, found.bound_seconds, found.megabytes_per_instance) > 0
