"""What each of three processes does in ``test_shared_evaluation``; the first prints one line of JSON."""

import json
import sys
from pathlib import Path

import torch

from gloro_fast import GloRoNet, architectures
from gloro_fast.data import Split
from gloro_fast.distributed import ALONE, joined
from gloro_fast.evaluate.accuracy import certified_batches, collect
from gloro_fast.evaluate.attacked import attacked
from gloro_fast.evaluate.smoothing import smooth

SHAPE = (1, 8, 8)


def same(one, other):
    pairs = [(getattr(one, name), getattr(other, name)) for name in ("prediction", "radius", "real_radius", "logits")]
    return all(torch.equal(*pair) for pair in pairs) and torch.equal(one.labels, other.labels)


with joined() as group:
    torch.manual_seed(0)
    # Made in the group, as by the commands: this is what imports torch._dynamo.
    net = GloRoNet(architectures.build("2C2F", input_shape=SHAPE, num_classes=5), 0.01, SHAPE)
    net.freeze("power")
    images, labels = torch.rand(53, *SHAPE), torch.randint(5, (53,))
    found = []
    # 7 batches of three processes, the last of 5 images; one batch, which two of them have no part in.
    for size in (8, 53):
        batches = certified_batches(net, Split(images, labels), size, group=group)
        if group.is_main:
            found.append(same(collect(batches), collect(certified_batches(net, Split(images, labels), size))))
        else:
            found.append(list(batches) == [])
    samples = {"samples": 20, "selection": 5}
    alone, together = (smooth(net, images[:4], labels[:4], 0.1, **samples, group=who) for who in (ALONE, group))
    found.append(torch.equal(alone.radius, together.radius) and torch.equal(alone.prediction, together.prediction))
    if "art" in sys.argv:
        report = attacked(net, images, labels, 0.01, steps=2, restarts=1, group=group)
        certificate = net.certify(images, 0.01)
        right = certificate.prediction == labels
        found.append(report.images == 53 and report.certified == int(certificate.certified.sum()))
        found.append(report.clean_accuracy == int(right.sum()) / 53)
        found.append(report.vra == int((right & certificate.certified).sum()) / 53 and report.broken == 0)
tasks = Path("/proc/self/task")
threads = [(task / "comm").read_text() for task in tasks.iterdir()] if tasks.is_dir() else []
found.append(not any("gloo" in name for name in threads))
print(json.dumps(found))
