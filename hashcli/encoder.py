"""The hasher at work: photos' pixels -> features -> codes, with ONNX Runtime and without torch.

Index and query, cached and fresh features all pass through here, in ways that make a photo's code independent of
the batch it comes in: photos go through the backbone one at a time (which is also the fastest on a CPU), features
through the head in blocks of one fixed number of rows.
"""

from __future__ import annotations

import hashlib
import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hashcli import codes, onnx_check
from hashcli.backbones import FILE_NAME, Spec
from hashcli.errors import DamagedError
from hashcli.hasher_record import GO_BACK, not_written
from hashcli.onnx_check import Ports
from hashcli.seals import unreadable

if TYPE_CHECKING:
    from hashcli.hasher import Hasher

Pixels = NDArray[np.uint8]
Features = NDArray[np.float16]
HEAD_ROWS = 16


class BackboneSession:
    """backbone.onnx, ready to run."""

    def __init__(self, folder: Path, spec: Spec, threads: int | None = None, at_once: int = 1) -> None:
        """Load `folder`/backbone.onnx; each photo is computed by `threads` threads (None: one per core).

        `at_once`: photos computed side by side. One thread for each of as many photos as there are cores takes a
        tenth less time per photo than all cores for each in turn, which answers a single one soonest.

        Raises DamagedError when the file is absent, is not the one that `spec` names, or no plain ONNX graph.
        """
        self.spec = spec
        self._at_once = at_once
        path = folder / FILE_NAME
        data = _contents(path, spec.digest)
        onnx_check.check(data, onnx_check.backbone_ports(spec.size, spec.dim), str(path))
        self._session = _session(data, path, threads or os.cpu_count() or 1)

    def features(self, pixels: Pixels) -> Features:
        """pixels uint8 (n, s, s, 3) -> features float16 (n, d). Raises ValueError for another shape or type."""
        size = self.spec.size
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (size, size, 3):
            raise ValueError(f"pixels must be uint8 (n, {size}, {size}, 3), got {pixels.dtype} {pixels.shape}")
        out = np.empty((len(pixels), self.spec.dim), np.float16)

        def compute(row: int) -> None:
            out[row] = self._session.run(None, {"pixels": np.ascontiguousarray(pixels[row : row + 1])})[0][0]

        if self._at_once == 1 or len(pixels) < 2:
            for row in range(len(pixels)):
                compute(row)
        else:
            from concurrent.futures import ThreadPoolExecutor

            with ThreadPoolExecutor(self._at_once) as threads:
                list(threads.map(compute, range(len(pixels))))
        return out


class HeadSession:
    """head.onnx, ready to run."""

    def __init__(self, path: Path, digest: str | None = None) -> None:
        """Load `path`, whose SHA-256 must be `digest` where one is given. Raises DamagedError."""
        data = _contents(path, digest)
        (self.dim, self.n_bits) = _head_sizes(onnx_check.read(data, str(path)))
        onnx_check.check(data, onnx_check.head_ports(self.dim, self.n_bits), str(path))
        self._session = _session(data, path, threads=1)

    def relaxed(self, features: Features, domains: NDArray[np.int64]) -> NDArray[np.float32]:
        """features float16 (n, d), domains int64 (n,) of 0 (source) and 1 (target) -> float32 (n, n_bits).

        Raises ValueError for other shapes or types.
        """
        n = len(features)
        if features.dtype != np.float16 or features.shape != (n, self.dim):
            raise ValueError(f"features must be float16 (n, {self.dim}), got {features.dtype} {features.shape}")
        if domains.dtype != np.int64 or domains.shape != (n,) or (n and not 0 <= domains.min() <= domains.max() <= 1):
            raise ValueError(f"domains must be ({n},) int64 of 0 and 1, got {domains.dtype} {domains.shape}")
        out = np.empty((n, self.n_bits), np.float32)
        # kernels for one row and for many add in different orders: rows are filled up to the same number always
        block = np.zeros((HEAD_ROWS, self.dim), np.float16)
        block_domains = np.zeros(HEAD_ROWS, np.int64)
        for start in range(0, n, HEAD_ROWS):
            rows = min(HEAD_ROWS, n - start)
            block[:rows], block_domains[:rows] = features[start : start + rows], domains[start : start + rows]
            relaxed = self._session.run(None, {"feature": block, "domain": block_domains})[0]
            out[start : start + rows] = relaxed[:rows]
        return out

    def codes(self, features: Features, domains: NDArray[np.int64]) -> NDArray[np.uint8]:
        """As `relaxed`, as packed codes (n, n_bits / 8)."""
        return codes.from_relaxed(self.relaxed(features, domains))


class TowerSession:
    """tower.onnx, ready to run."""

    def __init__(self, path: Path, digest: str, context: int, dim: int) -> None:
        """Load `path`, whose SHA-256 must be `digest`. Raises DamagedError."""
        data = _contents(path, digest)
        onnx_check.check(data, onnx_check.tower_ports(context, dim), str(path))
        self._session = _session(data, path, threads=os.cpu_count() or 1)

    def feature(self, tokens: NDArray[np.int64]) -> Features:
        """tokens (context,) of one text -> feature float16 (d,); on its own, so that others beside it do not matter."""
        feature: Features = self._session.run(None, {"tokens": tokens[None]})[0][0].astype(np.float16)
        return feature


class Encoder:
    """The one place that turns photos into codes. Sessions are made at their first use."""

    def __init__(self, hasher: Hasher, threads: int | None = None) -> None:
        self.hasher = hasher
        self._threads = threads

    @cached_property
    def backbone(self) -> BackboneSession:
        """The hasher's backbone. Raises DamagedError."""
        return BackboneSession(self.hasher.backbone_folder, self.hasher.spec, self._threads)

    @cached_property
    def head(self) -> HeadSession:
        """The hasher's head. Raises DamagedError."""
        return HeadSession(self.hasher.head_path)

    def features(self, pixels: Pixels) -> Features:
        """pixels uint8 (n, s, s, 3) -> features float16 (n, d)."""
        return self.backbone.features(pixels)

    def codes(self, features: Features, domains: NDArray[np.int64]) -> NDArray[np.uint8]:
        """features float16 (n, d), fresh or cached, and their domains int64 (n,) -> packed codes (n, n_bits / 8)."""
        return self.head.codes(features, domains)


def _contents(path: Path, digest: str | None) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise unreadable(str(path), error, GO_BACK) from None
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise not_written(path)
    return data


def _head_sizes(ports: Ports) -> tuple[int, int]:
    """d and n_bits as the graph has them; 0 where it has none, which no head equals."""
    dims = {port.name: port.shape[-1] if port.shape else None for ports_ in ports for port in ports_}
    return dims.get("feature") or 0, dims.get("relaxed") or 0


def _session(data: bytes, path: Path, threads: int) -> Any:
    """An ONNX Runtime session of exactly the bytes that were checked."""
    import onnxruntime  # type: ignore[import-untyped]
    from onnxruntime.capi import onnxruntime_pybind11_state as reasons  # type: ignore[import-untyped]

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # no slower, and gives memory back between photos
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads leave cores to decoders
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except (
        reasons.Fail, reasons.InvalidArgument, reasons.InvalidGraph, reasons.InvalidProtobuf, reasons.NotImplemented,
        reasons.RuntimeException,
    ) as error:  # fmt: skip
        raise DamagedError(f"ONNX Runtime refuses {path}: {error}") from None
