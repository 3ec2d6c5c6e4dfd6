import sys
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from hashcli import optimization
from hashcli.data import RowSampler, SourceData, TargetData, TrainingData
from hashcli.errors import MachineError
from hashcli.method import GradientMethod, GradientSettings, Run, Task
from hashcli.progress import Silent


@dataclass(frozen=True)
class Quick(GradientSettings):
    epochs: int = 4
    steps_per_epoch: int = 5
    batch_size: int = 8
    learning_rate: float = 0.05


class Toy(GradientMethod):
    """Pulls codes of the source to its labels' signs and remembers how often its epochs began."""

    summary, paper, Settings = "toy", "none", Quick

    def prepare(self, data, run):
        self.begun = torch.zeros(1)

    def build_head(self):
        return nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5))  # dropout draws random numbers while training

    def build_helpers(self):
        return nn.ModuleDict({"scale": nn.Linear(1, 1)})

    def begin_epoch(self, epoch, bank, run):
        assert not torch.is_grad_enabled()
        assert bank.source_relaxed.shape == (20, 16) and bank.target_relaxed.shape == (30, 16)
        self.begun += 1

    def loss(self, head, helpers, batch):
        sign = batch.source.labels[:, None] * 2.0 - 1
        far = (head(batch.target.features).mean() - helpers["scale"](torch.ones(1, 1)).mean()).square()
        return {"pull": (head(batch.source.features) - sign).square().mean(), "far": 0.1 * far * self.begun.sum()}

    def state(self):
        return {"begun": self.begun}

    def restore(self, state):
        self.begun = state["begun"]


def data() -> TrainingData:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 6)).astype(np.float32)
    labels = (x[:20, 0] > 0).astype(np.int64)
    return TrainingData(SourceData(x[:20], labels), TargetData(x[20:]), n_classes=2)


def train(**run) -> dict[str, torch.Tensor]:
    return optimization.minimize(Toy(Task(16, 6, 2, seed=5), Quick()), data(), Run(**run)).state_dict()


def same(one, other) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others():
    assert same(train(seed=1), train(seed=1))
    assert not same(train(seed=1), train(seed=2))


def test_the_optimizer_is_torchs_without_the_import_of_its_compiler(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)
    torch.manual_seed(0)
    heads = [nn.Linear(5, 3) for _ in range(2)]
    heads[1].load_state_dict(heads[0].state_dict())
    ours = optimization.AdamW(heads[0].parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(3):
        ours.zero_grad()
        heads[0](torch.eye(5)).pow(2).sum().backward()
        ours.step()
    ours.load_state_dict(ours.state_dict())
    monkeypatch.undo()

    theirs = torch.optim.AdamW(heads[1].parameters(), lr=0.1, weight_decay=0.01)
    for _ in range(3):
        theirs.zero_grad()
        heads[1](torch.eye(5)).pow(2).sum().backward()
        theirs.step()

    for a, b in zip(heads[0].parameters(), heads[1].parameters(), strict=True):
        assert torch.equal(a, b)


def test_losses_of_every_epoch_are_logged_by_name():
    progress = Silent()
    train(seed=1, progress=progress)
    losses = [counts for event, counts in progress.events if event == "losses"]
    assert [c["epoch"] for c in losses] == [0, 1, 2, 3]
    assert losses[-1]["pull"] < losses[0]["pull"]
    assert all(set(c) == {"epoch", "pull", "far"} for c in losses)


class Stop(Exception):
    pass


@pytest.mark.parametrize("stop_in", [1, 2, 3])
def test_a_stopped_run_goes_on_to_exactly_the_weights_of_an_undisturbed_one(tmp_path, monkeypatch, stop_in):
    monkeypatch.setattr(optimization, "CHECKPOINT_SECONDS", 0.0)
    begin = Toy.begin_epoch

    def stopping(self, epoch, bank, run):
        if epoch == stop_in:
            raise Stop
        begin(self, epoch, bank, run)

    monkeypatch.setattr(Toy, "begin_epoch", stopping)
    with pytest.raises(Stop):
        train(seed=1, checkpoint=tmp_path)
    epochs: list[int] = []

    def counting(self, epoch, bank, run):
        epochs.append(epoch)
        begin(self, epoch, bank, run)

    monkeypatch.setattr(Toy, "begin_epoch", counting)
    resumed = train(seed=1, checkpoint=tmp_path)

    assert epochs == list(range(stop_in, 4))
    assert same(resumed, train(seed=1))


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-7], lambda data: b"x" * len(data)])
def test_a_damaged_checkpoint_is_said_and_training_begins_anew(tmp_path, monkeypatch, damage):
    monkeypatch.setattr(optimization, "CHECKPOINT_SECONDS", 0.0)
    train(seed=1, checkpoint=tmp_path)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(damage(file.read_bytes()))
    said: list[str] = []
    progress = Silent()
    monkeypatch.setattr(progress, "say", said.append)

    assert same(train(seed=1, checkpoint=tmp_path, progress=progress), train(seed=1))
    assert "cannot be read" in said[0]


def test_short_runs_leave_no_checkpoint(tmp_path):
    train(seed=1, checkpoint=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_no_number_is_reported_as_such(monkeypatch):
    nan = torch.tensor(float("nan"), requires_grad=True)
    monkeypatch.setattr(Toy, "loss", lambda self, head, helpers, batch: {"pull": nan * 1})
    with pytest.raises(MachineError, match="went astray in epoch 0"):
        train(seed=1)


def test_every_row_is_drawn_once_per_round():
    sampler = RowSampler(10, 5, seed=3)
    first, second = (np.sort(np.concatenate([sampler.draw(), sampler.draw()])) for _ in range(2))
    np.testing.assert_array_equal(first, np.arange(10))
    np.testing.assert_array_equal(second, np.arange(10))


def test_balanced_batches_hold_every_class_equally_often():
    labels = np.array([0] * 90 + [1] * 9 + [2])
    sampler = RowSampler(100, 30, seed=3, labels=labels)
    for _ in range(5):
        assert np.bincount(labels[sampler.draw()]).tolist() == [10, 10, 10]


def test_a_batch_is_never_larger_than_the_data():
    assert len(RowSampler(3, 128, seed=0).draw()) == 3
