"""Whatever gives images with labels goes into training and evaluation as the same split in memory does."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, IterableDataset, Subset, TensorDataset

from gloro_fast.data import Batches, Source, SourceBatches, Sources, Split, as_sources, read, split_validation
from gloro_fast.data.elements import tensors
from gloro_fast.errors import ConfigError, DataError

COUNT, CLASSES, SIDE = 37, 3, 8


@pytest.fixture(scope="module")
def split():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (COUNT, 3, SIDE, SIDE), generator=generator, dtype=torch.uint8)
    labels = torch.randint(CLASSES, (COUNT,), generator=generator)
    labels[0] = CLASSES - 1
    return Split(images, labels)


def pillow(image):
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def encoded(image):
    file = io.BytesIO()
    pillow(image).save(file, "png")
    return file.getvalue()


def pairs(split):
    return list(zip(split.images, split.labels.tolist(), strict=True))


class Vision:
    """As torchvision's data sets are."""

    classes = ("one", "two", "three")

    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError
        return pillow(self.split.images[index]), int(self.split.labels[index])


class Hub:
    """As Hugging Face's: dictionaries, several at once, the names of the classes in the features."""

    def __init__(self, split):
        self.split = split
        self.features = {"img": object(), "label": type("ClassLabel", (), {"names": ["one", "two", "three"]})()}
        self.asked = 0

    def __len__(self):
        return len(self.split)

    def __getitem__(self, index):
        return {"img": pillow(self.split.images[index]), "label": int(self.split.labels[index])}

    def __getitems__(self, indices):
        self.asked += 1
        return [self[index] for index in indices]


class Web(IterableDataset):
    """As WebDataset's samples before they are decoded."""

    def __init__(self, split):
        self.split = split

    def __iter__(self):
        for image, label in pairs(self.split):
            yield {"__key__": "a/b", "png": encoded(image), "cls": str(label).encode()}


class Arrays:
    """No length, no index."""

    def __init__(self, split, dtype=None):
        self.split, self.dtype = split, dtype

    def __iter__(self):
        for image, label in pairs(self.split):
            array = image.permute(1, 2, 0).numpy()
            yield (array / 255).astype(self.dtype) if self.dtype else array, np.int64(label)


KINDS = {
    "torchvision": Vision,
    "subset of torchvision": lambda split: Subset(Vision(split), range(COUNT)),
    "Hugging Face": Hub,
    "list": pairs,
    "TensorDataset": lambda split: TensorDataset(split.images, split.labels),
    "WebDataset": Web,
    "arrays": Arrays,
    "float arrays": lambda split: Arrays(split, np.float32),
    "doubles": lambda split: Arrays(split, np.float64),
    "DataLoader": lambda split: DataLoader(TensorDataset(split.images, split.labels), batch_size=5),
    "DataLoader of samples": lambda split: DataLoader(TensorDataset(split.images, split.labels), batch_size=None),
    "DataLoader of a stream": lambda split: DataLoader(Web(split), batch_size=4, collate_fn=lambda batch: {
        "image": [Image.open(io.BytesIO(sample["png"])) for sample in batch],
        "label": [int(sample["cls"]) for sample in batch],
    }),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_batches_of_the_split_in_memory(split, kind):
    source = Source(KINDS[kind](split))
    assert source.input_shape == (3, SIDE, SIDE)
    expected = list(Batches(split, 8, shuffle=False))
    found = list(SourceBatches(source, 8, shuffle=False, num_classes=CLASSES))
    assert len(found) == len(expected) == 5
    for (images, labels), (its, theirs) in zip(found, expected, strict=True):
        assert images.dtype == torch.float32
        assert torch.equal(images, its)
        assert torch.equal(labels, theirs)
    assert len(source) == COUNT
    assert len(source.class_names) == CLASSES
    if kind in ("torchvision", "subset of torchvision", "Hugging Face"):
        assert source.class_names == ("one", "two", "three")
    if "float" not in kind and "double" not in kind:
        assert torch.equal(read(source).images, split.images)


@pytest.mark.parametrize("start", [0, 2, 5])
@pytest.mark.parametrize("kind", ["torchvision", "Hugging Face", "list"])
def test_an_indexed_source_is_read_in_the_order_of_a_split_in_memory(split, kind, start):
    resident = Batches(split, 8, shuffle=True)
    batches = SourceBatches(Source(KINDS[kind](split)), 8, shuffle=True, num_classes=CLASSES)
    order = batches.order(torch.Generator().manual_seed(5))
    assert torch.equal(order, resident.order(torch.Generator().manual_seed(5)))
    for mine, its in zip(batches.epoch(order, start), resident.epoch(order, start), strict=True):
        assert all(torch.equal(one, other) for one, other in zip(mine, its, strict=True))


@pytest.mark.parametrize("kind", ["WebDataset", "DataLoader"])
def test_a_stream_is_shuffled_by_a_seed_and_resumed_at_any_batch(split, kind):
    source = Source(KINDS[kind](split), buffer=10)
    batches = SourceBatches(source, 8, shuffle=True, num_classes=CLASSES)
    order = batches.order(torch.Generator().manual_seed(5))
    epoch, again = list(batches.epoch(order)), list(batches.epoch(order, 3))
    for mine, its in zip(epoch[3:], again, strict=True):
        assert torch.equal(mine[0], its[0])
    images = torch.cat([images for images, _ in epoch])
    whole = split.images / 255
    places = [int((whole == image).flatten(1).all(1).nonzero()) for image in images]
    assert sorted(places) == list(range(COUNT))
    assert places != sorted(places)
    # One that comes in finds no place before the buffer is full: none is given before ten were read.
    assert all(place < given + 10 for given, place in enumerate(places))
    other = next(batches.epoch(batches.order(torch.Generator().manual_seed(6))))[0]
    assert not torch.equal(other, epoch[0][0])


def test_bytes_are_divided_where_they_are_wanted(split, monkeypatch):
    moved = []
    to = torch.Tensor.to

    def noted(tensor, *arguments, **options):
        moved.append((tensor.dtype, tensor.dim()))
        return to(tensor, *arguments, **options)

    monkeypatch.setattr(torch.Tensor, "to", noted)
    next(iter(SourceBatches(Source(Vision(split)), 8, shuffle=False, num_classes=CLASSES)))
    assert (torch.uint8, 4) in moved
    assert (torch.float32, 4) not in moved


class Noisy(Vision):
    """A transform that draws from torch, as torchvision's do."""

    def __getitem__(self, index):
        return torch.rand(1, 4, 4), int(self.split.labels[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_random_transforms_follow_the_run_whatever_the_processes_and_whenever_resumed(split, workers):
    here = SourceBatches(Source(Noisy(split)), 8, shuffle=True, num_classes=CLASSES)
    there = SourceBatches(Source(Noisy(split), workers=workers), 8, shuffle=True, num_classes=CLASSES)
    order = here.order(torch.Generator().manual_seed(5))
    state = torch.get_rng_state()
    expected, found = list(here.epoch(order)), list(there.epoch(order, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(mine[0], its[0]) for mine, its in zip(expected[2:], found, strict=True))
    assert not torch.equal(expected[0][0], expected[1][0])


def test_the_order_of_a_loader_follows_the_run(split):
    def loader():
        return Source(DataLoader(TensorDataset(split.images, split.labels), batch_size=5, shuffle=True), buffer=1)

    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = read(loader()).labels
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(read(loader()).labels, first)
    assert not torch.equal(first, split.labels)


def test_a_validation_split_holds_the_same_images_as_in_memory(split):
    mine = split_validation(Source(Vision(split)), 10, seed=3)
    its = split_validation(split, 10, seed=3)
    for source, part in zip(mine, its, strict=True):
        assert torch.equal(read(source).images, part.images)
    with pytest.raises(ConfigError, match="a stream of images cannot be divided"):
        split_validation(Source(Web(split)), 10, seed=3)


def test_lengths_are_asked_for_or_counted(split):
    images = TensorDataset(split.images, split.labels)
    assert Source(DataLoader(images, batch_size=5)).known_length == COUNT
    assert Source(DataLoader(images, batch_size=5, drop_last=True)).known_length == 35
    assert Source(Web(split)).known_length is None
    assert len(list(SourceBatches(Source(Web(split), length=12), 8, shuffle=True, num_classes=CLASSES))) == 2
    with pytest.raises(DataError, match="ended after 37 of 40 images; give length=37"):
        read(Source(Web(split), length=40))


class Endless:
    """64 x 64 images that would take 246 MB, made one by one."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        image = torch.zeros(3, 64, 64, dtype=torch.uint8)
        for index in range(self.count):
            yield image.clone(), index % 10


def resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux's /proc/self/statm")
@pytest.mark.parametrize("indexed", [False, True])
def test_a_set_larger_than_its_share_of_memory_streams(indexed):
    count, most = 20_000, 160 << 20
    reads = Endless(count)
    if indexed:
        reads = type("Indexed", (), {
            "__len__": lambda self: count,
            "__getitem__": lambda self, index: (torch.full((3, 64, 64), index % 256, dtype=torch.uint8), index % 10),
        })()  # fmt: skip
    batches = SourceBatches(Source(reads, length=count, classes=10), 256, shuffle=True, num_classes=10)
    before, highest, images = resident_bytes(), 0, 0
    for batch, _ in batches:
        images += len(batch)
        highest = max(highest, resident_bytes())
    assert images == count
    assert highest - before < most < count * 3 * 64 * 64


@pytest.mark.parametrize(
    ("element", "message"),
    [
        ((1, 2, 3), "image 0 is a tuple of 3"),
        ({"picture": 1}, "image 0 is a mapping with 'picture'"),
        ((np.zeros((4, 4), np.int64), 1), "pixels are int64; give uint8"),
        ((np.zeros(4, np.uint8), 1), r"an image has shape \(4,\)"),
        ((np.full((4, 4), np.nan), 1), "16 of 16 pixels are NaN"),
        ((Image.new("RGBA", (4, 4)), 1), "image 0 has transparent pixels"),
        ((Image.new("I;16", (4, 4)), 1), "not 8 bits a channel"),
        ((b"no image", 1), "image 0 is not an image that can be read"),
        ((np.zeros((4, 4), np.uint8), 1.5), "the label is no class index"),
        ((np.zeros((4, 4), np.uint8), "cat"), "the label is no class index"),
        ((np.zeros((4, 4), np.uint8), None), "the label is no class index"),
        ((np.zeros((3, 4, 4), np.uint8), [1, 2]), "3 images but 2 labels"),
        (("a path", 1), "the image is a str"),
    ],
)
def test_what_does_not_fit_is_named(element, message):
    with pytest.raises(DataError, match=message):
        tensors(element, "image 0")


def test_channels_are_found_where_they_lie():
    for shape in ((3, 8, 9), (8, 9, 3), (1, 8, 9), (8, 9, 1), (8, 9)):
        images, _ = tensors((torch.zeros(shape, dtype=torch.uint8), 0), "image 0")
        assert images.shape[-2:] == (8, 9), shape
        batch, _ = tensors((np.zeros((5, *shape), np.uint8), range(5)), "image 0")
        assert batch.shape[-2:] == (8, 9), shape
    square = np.zeros((3, 3, 3), np.uint8)
    square[0] = 7
    assert (tensors((square, 0), "")[0][0, :, 0] == 7).all()
    assert (tensors((torch.from_numpy(square), 0), "")[0][0, 0] == 7).all()


def test_images_that_disagree_are_named_with_the_remedy():
    mixed = [(Image.new("L", (4, 4)), 0), (Image.new("RGB", (4, 4)), 1), (Image.new("L", (4, 5)), 1)]
    assert read(Source(mixed[:2], classes=2)).images.shape == (2, 1, 4, 4)
    assert read(Source(mixed[:2], classes=2, channels=3)).images.shape == (2, 3, 4, 4)
    with pytest.raises(DataError, match=r"image 2 is \(1, 5, 4\) but the first one \(1, 4, 4\); resize it"):
        read(Source(mixed, classes=2))
    kinds = [(np.zeros((4, 4), np.uint8), 0), (np.zeros((4, 4), np.float32), 1)]
    with pytest.raises(DataError, match=r"image 1 is torch\.float32 but the first one torch\.uint8"):
        read(Source(kinds, classes=2))


def test_labels_beyond_the_classes_and_orders_of_other_data_are_refused(split):
    with pytest.raises(DataError, match="label 2 of image 0 is outside 0 to 1"):
        list(SourceBatches(Source(Vision(split)), 8, shuffle=False, num_classes=2))
    batches = SourceBatches(Source(Web(split)), 8, shuffle=True, num_classes=CLASSES)
    with pytest.raises(ConfigError, match="not the seed of a stream"):
        batches.epoch(torch.arange(COUNT))
    with pytest.raises(ConfigError, match="not a permutation of the 37 images"):
        SourceBatches(Source(Vision(split)), 8, shuffle=True, num_classes=CLASSES).epoch(torch.zeros(1).long())


def test_what_is_no_source_is_refused(split):
    with pytest.raises(DataError, match="a generator can be read but once"):
        Source(pair for pair in pairs(split))
    with pytest.raises(DataError, match="a dict gives no images"):
        Source({"train": pairs(split)})
    with pytest.raises(DataError, match="gives no images; it needs at least one"):
        Source([])
    with pytest.raises(ConfigError, match="buffer=0"):
        Source(Web(split), buffer=0)
    with pytest.raises(DataError, match="a list is no data set to train on"):
        as_sources(pairs(split))
    with pytest.raises(DataError, match="make them one shape"):
        Sources(Source(Vision(split)), Source([(np.zeros((4, 4), np.uint8), 0)], classes=3))


def test_a_run_knows_its_data_again(split):
    same, other = Source(Vision(split)).digest(), Source(Vision(Split(split.images.flip(0), split.labels))).digest()
    assert Source(Vision(split)).digest() == same != other


def test_data_sets_of_torchvision_and_hugging_face_and_web_datasets(split, tmp_path):
    """The real ones, where they are installed."""
    seen = []
    try:
        from torchvision.datasets import ImageFolder
        from torchvision.transforms import v2
    except ImportError:
        pass
    else:
        for number, (image, label) in enumerate(pairs(split)):
            (tmp_path / "folder" / f"class{label}").mkdir(parents=True, exist_ok=True)
            pillow(image).save(tmp_path / "folder" / f"class{label}" / f"{number:03}.png")
        found = Source(ImageFolder(tmp_path / "folder"))
        assert found.class_names == ("class0", "class1", "class2")
        order = split.labels.sort(stable=True)
        assert torch.equal(read(found).images, split.images[order.indices])
        scaled = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
        floats = ImageFolder(tmp_path / "folder", transform=scaled)
        assert torch.allclose(read(floats).images, split.images[order.indices] / 255)
        seen.append("torchvision")
    try:
        import datasets
    except ImportError:
        pass
    else:
        features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b", "c"])})
        columns = {"image": [pillow(image) for image in split.images], "label": split.labels.tolist()}
        own = datasets.Dataset.from_dict(columns, features=features)
        assert Source(own).class_names == ("a", "b", "c")
        for reads in (own, own.with_format("torch"), own.to_iterable_dataset()):
            assert torch.equal(read(Source(reads)).images, split.images)
        assert as_sources(datasets.DatasetDict(train=own, test=own)).num_classes == 3
        seen.append("datasets")
    try:
        import webdataset
    except ImportError:
        pass
    else:
        with webdataset.TarWriter(str(tmp_path / "shard.tar")) as writer:
            for number, (image, label) in enumerate(pairs(split)):
                writer.write({"__key__": f"{number:03}", "png": encoded(image), "cls": label})
        own = webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False)
        batched = own.decode("pil").to_tuple("png", "cls").batched(5)
        for reads in (own, own.decode("pil"), own.decode("rgb8").to_tuple("png", "cls"), batched):
            assert torch.equal(read(Source(reads, length=COUNT)).images, split.images)
        seen.append("webdataset")
    if not seen:
        pytest.skip("none of torchvision, datasets and webdataset is installed")
