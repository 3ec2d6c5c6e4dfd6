"""What all tests share: the installed `hashcli` command in a world of its own, and folders of synthetic photos."""

from __future__ import annotations

import os
import signal
import subprocess
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[1]

# a shell that starts the tests in the background makes them ignore Ctrl-C, and every command they start as well
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of a `world`, which takes a command to make, come first: so they share a worker, and it is made once.

    The workers begin with an equal share each, in order, and then take from each other's end (--dist worksteal).
    """
    items.sort(key=lambda item: "world" not in getattr(item, "fixturenames", ()))


@dataclass(frozen=True)
class Command:
    """The installed console script; each call is a fresh process that sees `library`, `cache` and `home` only."""

    home: Path
    library: Path
    cache: Path

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        """This process's environment with every place hashcli could write to moved below `home` and `cache`."""
        ours = ("HASHCLI_", "XDG_", "_HASHCLI_", "_TYPER_")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return kept | {
            "HOME": str(self.home),
            "XDG_CACHE_HOME": str(self.home / "cache"),
            "XDG_CONFIG_HOME": str(self.home / "config"),
            "XDG_DATA_HOME": str(self.home / "data"),
            "HASHCLI_LIBRARY": str(self.library),
            "HASHCLI_CACHE": str(self.cache),
            "NO_COLOR": "1",
            **(env or {}),
        }

    def __call__(
        self,
        *arguments: str | os.PathLike[str],
        code: int | None = 0,
        stdin: str | bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 900,
    ) -> subprocess.CompletedProcess[str]:
        """Run `hashcli ARGUMENTS`; both outputs as text, odd bytes as surrogates.

        `code` is the exit code the test expects (None: any); another one fails with what the command said.
        """
        script = Path(sysconfig.get_path("scripts")) / "hashcli"
        done = subprocess.run(
            [script, *arguments],
            input=stdin.encode() if isinstance(stdin, str) else stdin,
            capture_output=True,
            env=self.environment(env),
            cwd=cwd or self.home,
            timeout=timeout,
            check=False,
        )
        out, err = (part.decode("utf-8", "surrogateescape") for part in (done.stdout, done.stderr))
        said = f"hashcli {' '.join(map(str, arguments))}\n--- stdout\n{out}\n--- stderr\n{err}"
        assert code is None or done.returncode == code, f"exit code {done.returncode}, not {code}, from {said}"
        return subprocess.CompletedProcess(done.args, done.returncode, out, err)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One HASHCLI_CACHE for the whole run: exporting a backbone costs seconds, and the workers can share it."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "hashcli-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def hashcli(tmp_path: Path, shared_cache: Path) -> Command:
    """The installed command with an empty home and no library yet (`hashcli.library` is where it will be)."""
    home = tmp_path / "home"
    home.mkdir()
    return Command(home, tmp_path / "library", shared_cache)


@pytest.fixture
def rng() -> np.random.Generator:
    """The test's own generator; the same numbers in every run."""
    return np.random.default_rng(20240)


def photo(kind: int, seed: int, size: int = 48, tint: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """A small synthetic photo: `kind` decides pattern and color, `seed` the place, scale and noise.

    `tint` is added to every pixel: one value per folder makes two domains of the same kinds.
    """
    draw = np.random.default_rng([kind, seed])
    y, x = np.mgrid[0:size, 0:size] / size
    cx, cy = draw.uniform(0.35, 0.65, 2)
    scale = draw.uniform(0.8, 1.2)
    angle = kind * 2.4
    stripes = np.sin((3 + kind % 5 * 2) * scale * 6.3 * (x * np.cos(angle) + y * np.sin(angle)))
    blob = np.hypot(x - cx, y - cy) < 0.12 * scale * (2 + kind % 3)
    color = np.random.default_rng(kind).integers(30, 220, 3)
    pixels = 90 + 50 * stripes[:, :, None] + blob[:, :, None] * (color - 90) + draw.normal(0, 6, (size, size, 3))
    return Image.fromarray((pixels + np.asarray(tint)).clip(0, 255).astype(np.uint8))


PhotoFolder = Callable[..., Path]


@pytest.fixture(scope="session")
def photo_folder() -> PhotoFolder:
    """Write a folder of synthetic photos and give it back.

    `photo_folder(path, kinds=3, each=4)` writes path/0/000.png ...; `flat=True` leaves the class folders out
    (an unlabeled collection); `first` shifts the seeds, so that two folders share no photo; `tint` shifts the domain.
    """

    def write(
        folder: Path,
        *,
        kinds: int = 3,
        each: int = 4,
        flat: bool = False,
        first: int = 0,
        size: int = 48,
        tint: tuple[int, int, int] = (0, 0, 0),
        suffix: str = ".png",
    ) -> Path:
        for kind in range(kinds):
            for number in range(first, first + each):
                name = f"{kind}-{number:03d}{suffix}" if flat else f"{kind}/{number:03d}{suffix}"
                file = folder / name
                file.parent.mkdir(parents=True, exist_ok=True)
                photo(kind, number, size, tint).save(file)
        return folder

    return write
