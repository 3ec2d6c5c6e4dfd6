"""The host's training loop: deterministic, logged, stopped at any moment and resumed from its last checkpoint."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from hashcli.data import Bank, Batch, DomainBatch, RowSampler, TrainingData
from hashcli.durable import sync
from hashcli.errors import MachineError

if TYPE_CHECKING:
    from pathlib import Path

CHECKPOINT_SECONDS = 60.0


def minimize(method: Any, data: TrainingData, run: Any) -> nn.Module:
    """Train `method`'s head (a `GradientMethod`; `run` is a `Run`) and return it on the CPU, in eval mode.

    AdamW over head and helpers at a constant rate; the last iterate is taken, because choosing one would need
    labels. A run of more than a minute leaves a checkpoint between epochs and goes on from it.
    Raises MachineError when a loss stops being a number.
    """
    return Loop(method, data, run).minimize()


class AdamW(torch.optim.AdamW):
    """torch's, spared what imports torch's compiler: more than a second of every training's start."""

    step = torch.no_grad()(inspect.unwrap(torch.optim.AdamW.step))
    add_param_group = inspect.unwrap(torch.optim.Optimizer.add_param_group)
    zero_grad = inspect.unwrap(torch.optim.Optimizer.zero_grad)
    state_dict = inspect.unwrap(torch.optim.Optimizer.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Optimizer.load_state_dict)


class Loop:
    """One training run on cached features; `finetuning` is its other kind."""

    def __init__(self, method: Any, data: TrainingData, run: Any) -> None:
        self.method, self.data, self.run = method, data, run
        torch.manual_seed(run.seed)
        self.head = method.build_head().to(run.device)
        self.helpers = method.build_helpers().to(run.device)
        settings = method.settings
        self.optimizer = AdamW(self.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        self.domains = {"source": data.source, "target": data.target}
        self.features: dict[str, Tensor | None] = {
            name: None if domain is None else torch.from_numpy(domain.features).to(run.device)
            for name, domain in self.domains.items()
        }
        labels = None if data.source is None else data.source.labels
        self.labels = None if labels is None else torch.from_numpy(labels).to(run.device)
        balance = labels if method.class_balanced and labels is not None and labels.ndim == 1 else None
        self.samplers = {
            name: RowSampler(len(x), settings.batch_size, run.seed + salt, balance if name == "source" else None)
            for salt, (name, x) in enumerate(self.features.items(), 1)
            if x is not None
        }
        self.saved_at = time.monotonic()
        method.prepare(data, run)

    def networks(self) -> dict[str, nn.Module]:
        """What is trained, by its name in checkpoints."""
        return {"head": self.head, "helpers": self.helpers}

    def parameters(self) -> list[dict[str, Any]]:
        """What the optimizer changes, in its groups."""
        return [{"params": [*self.head.parameters(), *self.helpers.parameters()]}]

    def minimize(self) -> nn.Module:
        """Train, from the checkpoint if there is one; the head, on the CPU and in eval mode."""
        settings = self.method.settings
        with self.run.progress.task("training", settings.epochs * settings.steps_per_epoch) as task:
            start = self.resume()
            task.advance(start * settings.steps_per_epoch)
            for epoch in range(start, settings.epochs):
                self.epoch(epoch, task)
                self.save(epoch + 1)
        trained: nn.Module = self.head.cpu().eval()
        return trained

    def epoch(self, epoch: int, task: Any) -> None:
        """One epoch: renewal, then steps."""
        self.head.eval()
        with torch.no_grad():
            self.method.begin_epoch(epoch, self.bank(epoch), self.run)
        self.head.train()
        sums: dict[str, float] = {}
        steps = self.method.settings.steps_per_epoch
        for drawn in self.draws(epoch, steps):
            for name, term in self.step(drawn).items():
                sums[name] = sums.get(name, 0.0) + float(term.detach())
            task.advance()
        means = {name: value / steps for name, value in sums.items()}
        if any(value != value for value in means.values()):
            raise MachineError(
                f"training went astray in epoch {epoch}: {means}", "try a smaller --set learning_rate=..."
            )
        self.run.progress.log("losses", epoch=epoch, **means)

    def draws(self, epoch: int, steps: int) -> Iterator[Any]:
        """What each step of an epoch trains on, as `step` takes it."""
        for _ in range(steps):
            yield {name: sampler.draw() for name, sampler in self.samplers.items()}

    def step(self, drawn: Any) -> dict[str, Tensor]:
        """One step of the optimizer; the terms of its loss."""
        terms: dict[str, Tensor] = self.method.loss(self.head, self.helpers, self.batch(drawn))
        total = torch.stack(list(terms.values())).sum()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return terms

    def batch(self, drawn: Any) -> Batch:
        """The drawn rows, as the method sees them."""
        parts: dict[str, DomainBatch | None] = {"source": None, "target": None}
        for name, numbers in drawn.items():
            rows = torch.from_numpy(numbers).to(self.run.device)
            features = self.features[name]
            assert features is not None
            parts[name] = DomainBatch(features[rows], rows, self.labels_of(name, rows))
        return Batch(**parts)

    def labels_of(self, name: str, rows: Tensor) -> Tensor | None:
        """Labels of rows of a domain, where it has any."""
        return self.labels[rows] if name == "source" and self.labels is not None else None

    def bank(self, epoch: int) -> Bank:
        """All rows as the networks see them now."""
        relaxed = {name: None if x is None else self._relaxed(x) for name, x in self.features.items()}
        return Bank(self.features["source"], relaxed["source"], self.features["target"], relaxed["target"], self.labels)

    def _relaxed(self, features: Tensor) -> Tensor:
        return torch.cat([self.head(block) for block in torch.split(features, 8192)])

    def save(self, epoch: int) -> None:
        """Leave a checkpoint if the last one is older than a minute."""
        folder: Path | None = self.run.checkpoint
        if folder is None or time.monotonic() - self.saved_at < CHECKPOINT_SECONDS:
            return
        from safetensors.torch import save_file

        tensors = {f"{name}.{k}": v for name, net in self.networks().items() for k, v in net.state_dict().items()}
        tensors |= {f"method.{k}": v for k, v in self.method.state().items()}
        for number, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{number}.{k}": v for k, v in state.items()}
        tensors["rng"] = torch.get_rng_state()
        plan = {"epoch": epoch, "samplers": {n: s.state() for n, s in self.samplers.items()}}
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / "checkpoint.part"
        tensors = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        save_file(tensors, part, metadata={"plan": json.dumps(plan)})
        sync(part)
        part.replace(folder / "checkpoint.safetensors")
        self.saved_at = time.monotonic()

    def resume(self) -> int:
        """Take back the checkpoint, if there is one that can be read; the epoch to go on with."""
        folder: Path | None = self.run.checkpoint
        if folder is None or not (folder / "checkpoint.safetensors").exists():
            return 0
        from safetensors import SafetensorError, safe_open

        groups: dict[str, dict[str, Tensor]] = {name: {} for name in (*self.networks(), "method", "optimizer")}
        try:
            with safe_open(folder / "checkpoint.safetensors", "pt") as file:
                plan = json.loads(file.metadata()["plan"])
                rng = file.get_tensor("rng")
                for key in file.keys():  # noqa: SIM118  safe_open is no mapping
                    group, _, name = key.partition(".")
                    if group in groups:
                        groups[group][name] = file.get_tensor(key)
        except (SafetensorError, OSError) as error:
            self.run.progress.say(f"the stopped run's checkpoint cannot be read ({error}): training begins anew")
            return 0
        for name, network in self.networks().items():
            network.load_state_dict(groups[name])
        state = self.optimizer.state_dict()
        for key, value in groups["optimizer"].items():
            number, _, name = key.partition(".")
            state["state"].setdefault(int(number), {})[name] = value
        self.optimizer.load_state_dict(state)
        self.method.restore(groups["method"])
        for name, sampler in self.samplers.items():
            sampler.restore(plan["samplers"][name])
        torch.set_rng_state(rng)
        epoch = int(plan["epoch"])
        self.run.progress.say(f"going on after epoch {epoch} of {self.method.settings.epochs}")
        return epoch
