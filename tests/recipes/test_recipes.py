"""The recipes against the paper's tables, written down here a second time, column by column."""

import pytest

from gloro_fast import recipes
from gloro_fast.errors import ConfigError
from gloro_fast.losses import LOSSES

# name: (data, architecture, activation, augmentation, warm-up, batch, epochs, epsilon train / test, initialization,
# learning rate, its end, loss, lambda, epsilon schedule, power iterations)
PIXELS = 36 / 255
TABLE = {
    "mnist-2c2f": ("mnist", "2C2F", "minmax", "none", 0, 512, 500, 0.3, 0.3, "orthogonal", 1e-3, 1e-6, "trades-kl", "0.1,2.0,500", "single", 5),
    "mnist-4c3f": ("mnist", "4C3F", "minmax", "none", 0, 512, 200, 1.74, 1.58, "orthogonal", 1e-3, 1e-6, "trades-kl", "1.5", "log", 5),
    "cifar10-6c2f": ("cifar10", "6C2F", "minmax", "tfds", 0, 512, 800, PIXELS, PIXELS, "orthogonal", 1e-3, 1e-6, "trades-kl", "1.2", "log", 5),
    "tiny-imagenet-8c2f": ("tiny-imagenet", "8C2F", "minmax", "default", 0, 512, 800, PIXELS, PIXELS, "glorot_uniform", 1e-4, 5e-6, "trades-kl", "1.2,10,800", "log", 5),
    "cifar10-liresnet": ("cifar10", "LiResNet-12x512", "minmax", "default", 0, 256, 800, PIXELS, PIXELS, "orthogonal", 1e-3, 1e-6, "emma", None, "0.0141176,0.423529,400", 10),
    "cifar10-liresnet-lln": ("cifar10", "LiResNet-12x512-LLN", "minmax", "default", 0, 256, 800, PIXELS, PIXELS, "orthogonal", 1e-3, 1e-6, "emma", None, "0.0141176,0.423529,400", 10),
    "cifar10-liresnet-la": ("cifar10", "LiResNet-12x512-LLN", "minmax", "default", 0, 256, 800, PIXELS, PIXELS, "orthogonal", 1e-3, 1e-6, "logit-annealing", None, "0.0141176,0.423529,400", 10),
    "cifar10-liresnet-cholesky": ("cifar10", "LiResNet-12x512-Cholesky-LLN", "minmax", "default", 0, 256, 800, PIXELS, PIXELS, "orthogonal", 1e-3, 1e-6, "emma", None, "0.0141176,0.423529,400", 10),
    "cifar10-bronet": ("cifar10", "BRONet-12x512", "minmax", "default", 0, 256, 800, PIXELS, PIXELS, "orthogonal", 1e-3, 1e-6, "logit-annealing", None, "0.0141176,0.423529,400", 10),
    "mnist-2c2f-relu-ce": ("mnist", "2C2F", "relu", "none", 0, 256, 500, 0.45, 0.3, "glorot_uniform", 1e-3, 1e-6, "ce", None, "single", 10),
    "mnist-2c2f-relu-trades": ("mnist", "2C2F", "relu", "none", 0, 256, 500, 0.45, 0.3, "glorot_uniform", 1e-3, 1e-6, "trades-ce", "0,2,500", "single", 10),
    "mnist-4c3f-relu-ce": ("mnist", "4C3F", "relu", "none", 0, 256, 300, 1.75, 1.58, "glorot_uniform", 1e-3, 5e-6, "ce", None, "single", 10),
    "mnist-4c3f-relu-trades": ("mnist", "4C3F", "relu", "none", 0, 256, 300, 1.75, 1.58, "glorot_uniform", 1e-3, 5e-6, "trades-ce", "0,3,300", "single", 10),
    "cifar10-6c2f-relu-ce": ("cifar10", "6C2F", "relu", "default", 20, 256, 800, 0.1551, PIXELS, "orthogonal", 1e-3, 1e-6, "ce", None, "log", 5),
    "cifar10-6c2f-relu-trades": ("cifar10", "6C2F", "relu", "default", 20, 256, 800, 0.1551, PIXELS, "glorot_uniform", 1e-3, 1e-6, "trades-ce", "1.2", "log", 5),
    "tiny-imagenet-8c2f-relu-ce": ("tiny-imagenet", "8C2F", "relu", "default", 0, 256, 250, 0.16, PIXELS, "glorot_uniform", 2.5e-4, 5e-7, "ce", None, "single", 5),
    "tiny-imagenet-8c2f-relu-trades": ("tiny-imagenet", "8C2F", "relu", "default", 0, 256, 500, 0.16, PIXELS, "glorot_uniform", 2.5e-4, 5e-7, "trades-kl", "1,10,500", "single", 1),
}  # fmt: skip


COMPARED = {
    f"{name}-{method}"
    for name in ("digits", "mnist-2c2f", "mnist-4c3f", "cifar10-6c2f")
    for method in ("standard", "lmt", "smoothing", "smoothadv", "macer")
}


@pytest.mark.parametrize("name", sorted(COMPARED))
def test_compared_recipes_share_data_net_and_radius(name):
    base, method = name.rsplit("-", 1)
    own, base = recipes.get(name), recipes.get(base)
    assert (own.data, own.architecture, own.epsilon) == (base.data, base.architecture, base.epsilon)
    assert own.activation == "relu"
    assert own.loss == (method if method in LOSSES else "standard")
    assert (own.noise > 0) == (method in ("smoothing", "smoothadv", "macer"))


@pytest.mark.parametrize("name", TABLE)
def test_recipe_is_the_column_of_a_paper(name):
    r = recipes.get(name)
    lam = r.lam if r.has_lambda else None
    assert (
        r.data, r.architecture, r.activation, r.augmentation, r.warmup_epochs, r.batch_size, r.epochs, r.epsilon_train,
        r.epsilon, r.initialization, r.learning_rate, r.learning_rate_end, r.loss, lam, r.epsilon_schedule,
        r.power_iterations,
    ) == TABLE[name]  # fmt: skip


def test_every_recipe_is_in_the_table_or_a_demo():
    assert (
        set(recipes.RECIPES)
        == {
            *TABLE,
            "cifar10-medium",
            "cifar10-small",
            "mnist-2c2f-top2",
            "mnist-mlp",
            "digits",
            "digits-bronet",
            "digits-liresnet",
            "digits-liresnet-la",
            "mnist-2c2f-tuned",
        }
        | COMPARED
    )


def test_the_tuned_recipe_has_the_net_and_the_radius_of_the_papers_row():
    own, base = recipes.get("mnist-2c2f-tuned"), recipes.get("mnist-2c2f")
    for field in ("data", "architecture", "activation", "epsilon", "epsilon_train"):
        assert getattr(own, field) == getattr(base, field)


def test_the_relaxed_recipe_differs_in_its_loss_alone():
    own, base = recipes.get("mnist-2c2f-top2"), recipes.get("mnist-2c2f")
    assert own == base.override(name="mnist-2c2f-top2", loss="top-2")
    assert LOSSES[own.loss].build().most == 2


def test_changed_epochs_stretch_schedules_but_not_the_warm_up():
    recipe = recipes.get("mnist-2c2f").override(epochs=30, warmup_epochs=2)
    assert (recipe.epochs, recipe.lam, recipe.warmup_epochs) == (30, "0.1,2.0,30", 2)
    assert recipes.get("mnist-2c2f").override(epochs=30, lam="1,2,500").lam == "1,2,500"


def test_changed_epsilon_keeps_the_ratio():
    recipe = recipes.get("mnist-4c3f")
    assert recipe.override(epsilon=0.79).epsilon_train == pytest.approx(0.87)
    assert recipe.override(epsilon=0.79, epsilon_train=1.0).epsilon_train == 1.0


def test_changed_epsilon_rescales_its_schedule():
    recipe = recipes.get("cifar10-liresnet")
    doubled = recipe.override(epsilon=2 * PIXELS, epochs=80)
    assert doubled.epsilon_schedule == "0.0282352,0.847058,40"
    assert recipe.override(epsilon_train=PIXELS / 2).epsilon_schedule == "0.0070588,0.2117645,400"
    assert recipe.override(epsilon=2 * PIXELS, epsilon_train=PIXELS).epsilon_schedule == recipe.epsilon_schedule
    assert recipe.override(epsilon=2 * PIXELS, epsilon_schedule="1,2,3").epsilon_schedule == "1,2,3"
    smoothed = recipes.get("mnist-2c2f-smoothadv").override(epsilon=0.15)
    assert (smoothed.epsilon_train, smoothed.epsilon_schedule) == (0.5, "0.05,0.5,9")
    assert recipes.get("mnist-4c3f").override(epsilon=0.79).epsilon_schedule == "log"


def test_unknown_names_suggest_the_nearest():
    with pytest.raises(ConfigError, match="'mnist-2c2f'"):
        recipes.get("mnist-2c2")
    with pytest.raises(ConfigError, match="'batch_size'"):
        recipes.get("digits").override(batchsize=3)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0), ("batch_size", 0), ("power_iterations", 0), ("warmup_epochs", -1), ("validation_size", -1),
        ("epsilon", 0.0), ("epsilon", -1.0), ("epsilon", float("nan")), ("noise", -0.1), ("noise", float("inf")), ("epsilon_train", float("inf")),
        ("learning_rate", 0.0), ("activation", "gelu"), ("loss", "trades"), ("lam", "x"), ("epsilon_schedule", "y"),
        ("augmentation", "all"), ("initialization", "zeros"), ("precision", "float16"),
    ],
)  # fmt: skip
def test_unusable_values_are_named(field, value):
    with pytest.raises(ConfigError, match=field.split("_")[0]):
        recipes.get("digits").override(**{field: value})
