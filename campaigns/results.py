"""The campaigns' results as committed JSON."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hashcli import __version__

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "results" / "trust"


def write(name: str, result: dict[str, Any], seconds: float, path: Path | None = None) -> None:
    """Put the result of the campaign `name` among the committed ones, or at `path`."""
    path = path or FOLDER / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "campaign": name,
        "date": datetime.now(UTC).date().isoformat(),
        "hashcli": __version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "seconds": round(seconds),
    }
    path.write_text(json.dumps(about | result, indent=1, ensure_ascii=True) + "\n")
