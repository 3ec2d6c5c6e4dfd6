"""COUPLE: spreads labels from source to target by flow diffusion, and mixes the domains along the paths it took."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import numpy as np

from hashcli.method import Run, Task
from hashcli.settings import Param
from hashcli.supervised import LabelCodeMethod, LabelCodeSettings

if TYPE_CHECKING:
    from hashcli_plugins.couple_stage import Stage, Stages
    from torch import Tensor, nn

    from hashcli.data import Bank, Batch, DomainBatch, TrainingData


@dataclass(frozen=True)
class Settings(LabelCodeSettings):
    """Every part of the method is a switch; weights of 0 turn a part off."""

    warmup: Annotated[int, Param("epochs on the source alone, before targets take part", ge=0)] = 1
    neighbors: Annotated[int, Param("k of the mutual neighbors, across and inside the target", ge=1)] = 10
    source_neighbors: Annotated[int, Param("nearest of its own class that a source is linked with", ge=0)] = 10
    code_share: Annotated[float, Param("share of the code, beside the feature, in similarity", ge=0, le=1)] = 0.1
    whitening: Annotated[float, Param("how far features are whitened for similarity; 1: wholly", ge=0, le=1)] = 0.5
    sharpness: Annotated[float, Param("power of the cosine that an edge weighs", ge=0.1, le=20)] = 3.0
    selector: Annotated[
        str, Param("what ranks targets by reliability", choices=("flow", "pagerank", "margin", "all"))
    ] = "flow"
    alpha: Annotated[float, Param("share of the targets selected at first, at most", ge=0, le=1)] = 0.4
    alpha_end: Annotated[float, Param("that share in the last epoch; it changes evenly", ge=0, le=1)] = 1.0
    quota: Annotated[bool, Param("select that share in every predicted class, not overall")] = False
    capacity: Annotated[
        str,
        Param("mass put in: a share rho of the capacity, or as little as selects enough", choices=("rho", "fill")),
    ] = "fill"
    rho: Annotated[float, Param("mass over capacity, at most, in each part of the graph", ge=0.01, le=0.98)] = 0.5
    source_capacity: Annotated[str, Param("what sources can hold back", choices=("same", "zero"))] = "zero"
    pseudo_labels: Annotated[str, Param("where pseudo-labels come from", choices=("head", "propagation"))] = (
        "propagation"
    )
    reach: Annotated[float, Param("how far labels spread in propagation", ge=0.01, le=0.999)] = 0.7
    certainty: Annotated[float, Param("power that label probabilities are raised to", ge=0.1, le=100)] = 2.0
    soft_labels: Annotated[bool, Param("train on label probabilities, not on the likeliest label")] = True
    target_weight: Annotated[float, Param("weight of the pseudo-label loss", ge=0)] = 2.0
    consistency: Annotated[float, Param("weight of the contrast of targets with sources (Eq. 16)", ge=0)] = 0.5
    temperature: Annotated[float, Param("temperature of that contrast", ge=0.01, le=10)] = 0.5
    walks: Annotated[int, Param("random walks in an epoch", ge=0)] = 6400
    walk_length: Annotated[int, Param("steps of a walk", ge=1, le=100)] = 3
    progressive: Annotated[float, Param("share of the epochs that mix inside the reliable set only", ge=0, le=1)] = 0.34
    manifold_mixup: Annotated[float, Param("weight of mixing features", ge=0)] = 1.0
    pixel_mixup: Annotated[
        str,
        Param("mix photos: many as an epoch begins, or a few at each step", choices=("off", "pool", "online")),
    ] = "off"
    pixel_weight: Annotated[float, Param("weight of mixing photos", ge=0)] = 0.1
    pixel_pool: Annotated[int, Param("photos mixed in an epoch", ge=1)] = 256
    least_mix: Annotated[float, Param("least share of the source in a mix", ge=0, le=1)] = 0.5
    most_mix: Annotated[float, Param("largest share of the source in a mix", ge=0, le=1)] = 0.95
    mean_teacher: Annotated[
        float, Param("momentum of a mean teacher that gives the labels; 0: none", ge=0, le=0.9999)
    ] = 0.0


class COUPLE(LabelCodeMethod):
    """Flow diffusion selects reliable targets, progressive mixup carries them on (Eqs. 1-25)."""

    summary = "adapts to an unlabeled target: flow diffusion and progressive mixup"
    paper = "COUPLE: cross-domain retrieval by flow diffusion and progressive mixup"
    needs = frozenset({"source_labels", "target_images"})
    finetunes = True
    Settings = Settings
    settings: Settings

    def __init__(self, task: Task, settings: Settings) -> None:
        super().__init__(task, settings)
        self._stage: Stage | None = None
        self._teacher: nn.Module | None = None
        self._data: TrainingData | None = None
        self._stages: Stages | None = None  # for the features that `prepare` or `renew` saw

    @property
    def wants_pixels(self) -> bool:
        return self.settings.pixel_mixup != "off"

    def prepare(self, data: TrainingData, run: Run) -> None:
        from hashcli_plugins.couple_stage import Stages

        self._data, self._device = data, run.device
        self._stages = Stages(self.settings, data)

    def renew(self, data: TrainingData, run: Run) -> None:
        self.prepare(data, run)

    def begin_epoch(self, epoch: int, bank: Bank, run: Run) -> None:
        self._stage = self._new_stage(epoch, bank, run) if epoch >= self.settings.warmup else None

    def _new_stage(self, epoch: int, bank: Bank, run: Run) -> Stage:
        import torch

        s = self.settings
        assert self._stages is not None and bank.target_features is not None and bank.target_relaxed is not None
        relaxed = self._teacher(bank.target_features) if self._teacher is not None else bank.target_relaxed
        guess = self.logits(relaxed).softmax(1).cpu().double().numpy()
        stage = self._stages.new(epoch, bank, relaxed, guess, run)
        if not self.wants_pixels:
            return stage
        n_pairs = len(stage.pairs.share)
        n = min(s.pixel_pool, n_pairs)
        run.progress.log("pixel mixup", photos=n)
        if s.pixel_mixup != "pool" or not n:
            return stage
        rows = torch.from_numpy(np.random.default_rng([run.seed, epoch, 1]).choice(n_pairs, n, replace=False))
        return replace(stage, pool=self._mixed_pixels(stage, rows.to(relaxed.device)))

    def _mixed_pixels(self, stage: Stage, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Features and label probabilities of the photos that these pairs give, mixed (Eqs. 20, 21)."""
        import torch

        data, labels = self._data, stage.bank.source_labels
        assert data is not None and data.encode is not None and data.source is not None and data.target is not None
        assert data.source.images is not None and data.target.images is not None and labels is not None
        source, target, share = stage.pairs.source[rows], stage.pairs.target[rows], stage.pairs.share[rows]
        weight = share.cpu().numpy()
        first, second = data.source.images(source.cpu().numpy()), data.target.images(target.cpu().numpy())
        w = weight[:, None, None, None]
        mixed = np.rint(w * first + (1 - w) * second).astype(np.uint8)
        features = torch.from_numpy(data.encode(mixed, weight)).to(labels.device)
        return features, self._mixed_labels(source, target, share, stage.labels, labels)

    def _mixed_labels(self, source: Tensor, target: Tensor, share: Tensor, q: Tensor, labels: Tensor) -> Tensor:
        from torch.nn import functional as F

        from hashcli.losses import mix

        return mix(F.one_hot(labels[source], q.shape[1]).to(q.dtype), q[target], share)

    def loss(self, head: nn.Module, helpers: nn.ModuleDict, batch: Batch) -> dict[str, Tensor]:
        assert batch.source is not None and batch.source.labels is not None and batch.target is not None
        self._follow(head)
        relaxed = head(batch.source.features)
        terms = self.source_terms(relaxed, batch.source.labels)
        if self._stage is not None:
            terms |= self._target_terms(head, self._stage, batch.target, relaxed, batch.source.labels)
            terms |= self._mixup_terms(head, self._stage, len(relaxed))
        return terms

    def _target_terms(
        self, head: nn.Module, stage: Stage, batch: DomainBatch, source_relaxed: Tensor, source_labels: Tensor
    ) -> dict[str, Tensor]:
        """The selected targets of the batch: cross-entropy to pseudo-labels, contrast with the source (Eq. 16)."""
        from hashcli import losses

        s = self.settings
        chosen = stage.selected[batch.rows]
        if not (s.target_weight or s.consistency) or not chosen.any():
            return {}
        relaxed, labels = head(batch.features[chosen]), stage.labels[batch.rows[chosen]]
        terms = {"target": s.target_weight * losses.soft_cross_entropy(self.logits(relaxed), labels)}
        if s.consistency:
            contrast = losses.consistency(relaxed, labels.argmax(1), source_relaxed, source_labels, s.temperature)
            terms["consistency"] = s.consistency * contrast
        return terms

    def _mixup_terms(self, head: nn.Module, stage: Stage, n: int) -> dict[str, Tensor]:
        """Cross-entropy of n mixed features (Eqs. 23, 24) and of n mixed photos (Eq. 22) to mixed labels."""
        import torch

        from hashcli import losses

        s, bank, pairs = self.settings, stage.bank, stage.pairs
        assert bank.source_features is not None and bank.target_features is not None and bank.source_labels is not None
        terms = {}
        if s.manifold_mixup and len(pairs.share):
            rows = torch.randint(len(pairs.share), (n,)).to(pairs.share.device)
            source, target, share = pairs.source[rows], pairs.target[rows], pairs.share[rows]
            mixed = losses.mix(bank.source_features[source], bank.target_features[target], share)
            labels = self._mixed_labels(source, target, share, stage.labels, bank.source_labels)
            terms["manifold"] = s.manifold_mixup * losses.soft_cross_entropy(self.logits(head(mixed)), labels)
        if s.pixel_weight and (photos := self._pixels(stage, n)) is not None:
            features, labels = photos
            terms["pixel"] = s.pixel_weight * losses.soft_cross_entropy(self.logits(head(features)), labels)
        return terms

    def _pixels(self, stage: Stage, n: int) -> tuple[Tensor, Tensor] | None:
        """Mixed photos for one step: n of the pool, or as many new ones as use up `pixel_pool` in an epoch."""
        import torch

        s, n_pairs = self.settings, len(stage.pairs.share)
        if s.pixel_mixup == "online" and n_pairs:
            rows = torch.randint(n_pairs, (min(n_pairs, -(-s.pixel_pool // s.steps_per_epoch)),))
            return self._mixed_pixels(stage, rows.to(stage.pairs.share.device))
        if stage.pool is None:
            return None
        features, labels = stage.pool
        rows = torch.randint(len(features), (min(n, len(features)),)).to(features.device)
        return features[rows], labels[rows]

    def _follow(self, head: nn.Module) -> None:
        """Move the mean teacher towards the head."""
        import torch

        momentum = self.settings.mean_teacher
        if not momentum:
            return
        if self._teacher is None:
            self._teacher = copy.deepcopy(head).eval()
        with torch.no_grad():
            for mine, its in zip(self._teacher.parameters(), head.parameters(), strict=True):
                mine.lerp_(its, 1 - momentum)

    def state(self) -> dict[str, Tensor]:
        return {} if self._teacher is None else dict(self._teacher.state_dict())

    def restore(self, state: dict[str, Tensor]) -> None:
        if state:
            self._teacher = self.build_head().to(self._device).eval()
            self._teacher.load_state_dict(state)
