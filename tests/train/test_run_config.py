import dataclasses

import pytest
from tiny_run import tiny_recipe

from gloro_fast.errors import CheckpointError, ConfigError
from gloro_fast.recipes import RECIPES, get
from gloro_fast.train import RunConfig, check_unchanged, read_config

CONFIG = RunConfig(get("mnist-2c2f"), (1, 28, 28), 10, seed=3, data_dir="data/mnist", threads=2)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_toml_round_trip(recipe):
    config = RunConfig(recipe, (3, 32, 32), 10, 7, "cuda:1", 'C:\\da"ta', 4, "first 1,000 images only")
    assert RunConfig.from_toml(config.to_toml()) == config


def test_defaults_may_be_left_out():
    text = 'input_shape = [1, 8, 8]\nnum_classes = 4\n[recipe]\nname = "x"\ndata = "digits"\narchitecture = "2C2F"\n'
    config = RunConfig.from_toml(text + "epochs = 3\nepsilon = 1\nepsilon_train = 1.5\n")
    assert (config.seed, config.device, config.threads) == (0, "cpu", 0)
    assert config.recipe.epsilon == 1.0
    assert isinstance(config.recipe.epsilon, float)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("seed = 3", "sead = 3", "no field 'sead'; did you mean 'seed'"),
        ("batch_size = 512", "batch_sise = 512", "did you mean 'batch_size'"),
        ("num_classes = 10\n", "", "'num_classes' is missing"),
        ("seed = 3", 'seed = "three"', "seed is 'three'; it must be of type int"),
        ("seed = 3", "seed = true", "must be of type int"),
        ("epsilon = 0.3", "epsilon = nan", "epsilon is nan"),
        ("epsilon = 0.3", "epsilon = = 0.3", "not TOML"),
        ("[recipe]", "[recipes]", r"no table \[recipe\]"),
        ("seed = 3", "seed = -3", "seed is -3"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, old, new, message):
    text = CONFIG.to_toml()
    assert old in text
    (tmp_path / "config.toml").write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=message) as caught:
        read_config(tmp_path / "config.toml")
    assert "config.toml" in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="not the folder of a run"):
        read_config(tmp_path / "config.toml")


class TestCheckUnchanged:
    def test_the_same_values_pass(self):
        check_unchanged(CONFIG, {})
        check_unchanged(CONFIG, {"recipe": "mnist-2c2f", "epochs": 500, "seed": 3, "device": None, "epsilon": 0.3})
        check_unchanged(CONFIG, {"recipe": CONFIG.recipe, "input_shape": (1, 28, 28)})

    def test_every_changed_field_is_named_with_both_values(self):
        with pytest.raises(ConfigError, match="seed from 3 to 4, epochs from 500 to 30, recipe from 'mnist-2c2f' to"):
            check_unchanged(CONFIG, {"seed": 4, "epochs": 30, "recipe": "mnist-4c3f"})
        with pytest.raises(ConfigError, match=r"epsilon from 0\.3 to 0\.1, epsilon_train from 0\.3 to 0\.1;"):
            check_unchanged(CONFIG, {"recipe": CONFIG.recipe.override(epsilon=0.1)})

    def test_data_may_have_moved(self):
        check_unchanged(CONFIG, {"data_dir": "elsewhere"})

    def test_unknown_field(self):
        with pytest.raises(ConfigError, match="no field 'epoch'; did you mean 'epochs'"):
            check_unchanged(CONFIG, {"epoch": 3})

    def test_threads_are_a_warning(self):
        with pytest.warns(UserWarning, match="started with 2 CPU threads and goes on with 8"):
            check_unchanged(CONFIG, {"threads": 8})


def test_fields_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        RunConfig(tiny_recipe(), (1, 8, 8), 4).seed = 1
