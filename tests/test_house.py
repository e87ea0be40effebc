"""The order of the rooms of the package: how many there are, who imports whom, and that a name stands for one thing."""

import functools
from collections import defaultdict
from pathlib import Path

import house
import pytest

MOST_ROOMS = 30
# What a check by other means may stand on.
AUDIT_MAY_IMPORT = {"__init__", "audit", "data", "distributed", "errors", "files", "pixels", "progress", "_version"}
# Rooms with files of the same name for the same thing: a Triton kernel and its op, the rounding of a part of a graph
# and that part, a layer and how a layer is bounded.
PAIRED = (
    {"ops", "kernels"},
    {"graph", "rounding_error"},
    {"rules", "graph", "rounding_error"},
    {"bounds", "rounding_error"},
    {"bounds", "kernels"},
    {"bounds", "nn"},
    {"nn", "kernels"},
    {"nn", "ops"},
)
# Other names of files in several rooms: what they say depends on the room alone.
TWICE = {"base", "kernels", "settings", "state", "steps"}

FOUND = house.modules()


@functools.cache
def imports():
    """What each module imports: a second for all of them, which a process that only collects tests need not wait."""
    return list(house.imports(FOUND))


def test_every_room_has_its_place_and_there_are_not_too_many():
    print(house.report(FOUND))
    rooms = {house.room(module) for module in FOUND}
    assert sorted(rooms) == sorted(house.ORDER)
    # The package itself and its -m are no rooms in it, and the kernels lie beside it.
    assert len(rooms - {"__init__", "__main__", "kernels"}) <= MOST_ROOMS


def test_no_import_runs_upwards_or_in_a_circle():
    assert list(map(str, house.upward(imports()))) == []
    assert house.circle(imports()) == []


def test_the_audit_comes_to_nothing_that_it_audits():
    rooms = {house.room(module) for module in house.reached("audit", imports())}
    assert rooms <= AUDIT_MAY_IMPORT
    assert {"files", "data"} <= rooms


def test_no_module_is_shadowed():
    assert house.shadowed(FOUND) == []


def test_a_name_stands_for_one_thing():
    places = defaultdict(set)
    for module in FOUND:
        *_, last = module.split(".")
        if "." in module:
            places[last].add(house.room(module))
    repeated = {name: rooms for name, rooms in places.items() if len(rooms) > 1 and rooms not in PAIRED}
    assert repeated.keys() == TWICE


def test_every_package_says_what_it_is_for():
    for module, path in FOUND.items():
        if path.name == "__init__.py" and "." not in module and module != "__init__":
            text = path.read_text(encoding="utf-8").split('"""')[1]
            assert len(text.splitlines()) >= 3, module
            assert "Stands on " in " ".join(text.split()), module


class TestOnPlantedFaults:
    @pytest.fixture
    def root(self, tmp_path) -> Path:
        for name in ("errors", "net/gloro_net", "audit/layers", "ops/minmax", "ops/margin_op"):
            path = tmp_path / "gloro_fast" / f"{name}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        for name in ("", "net", "audit", "ops"):
            (tmp_path / "gloro_fast" / name / "__init__.py").write_text("")
        return tmp_path

    def imports(self, root, **contents):
        for name, text in contents.items():
            (root / "gloro_fast" / f"{name.replace('__', '/')}.py").write_text(text)
        return list(house.imports(house.modules(root)))

    @pytest.mark.parametrize(
        "text",
        [
            "from gloro_fast.net.gloro_net import GloRoNet",
            "from gloro_fast.net import gloro_net",
            "import gloro_fast.net.gloro_net",
            "def f():\n    from gloro_fast.net.gloro_net import x",
            "if TYPE_CHECKING:\n    from gloro_fast.net.gloro_net import x",
        ],
    )
    def test_an_upward_import(self, root, text):
        found = self.imports(root, errors=text)
        assert [(i.source, i.target) for i in house.upward(found)] == [("errors", "net.gloro_net")]

    def test_an_import_through_another_room(self, root):
        found = self.imports(root, audit__layers="import gloro_fast.errors", errors="from gloro_fast import net")
        assert house.reached("audit", found) == {"errors", "net"}

    def test_a_circle(self, root):
        found = self.imports(
            root,
            net__gloro_net="from gloro_fast.ops import minmax",
            ops__minmax="from gloro_fast.ops import margin_op",
            ops__margin_op="from gloro_fast.ops.minmax import f",
        )
        assert house.circle(found) == ["net.gloro_net", "ops.margin_op", "ops.minmax"]

    def test_a_shadowed_module(self, root):
        package = root / "gloro_fast" / "ops" / "__init__.py"
        package.write_text("from gloro_fast.ops.minmax import minmax\nfrom gloro_fast.ops.margin_op import margin\n")
        assert house.shadowed(house.modules(root)) == ["ops.minmax"]
        package.write_text("from gloro_fast.ops import minmax\n")
        assert house.shadowed(house.modules(root)) == []
