"""Coverage-guided fuzzing: `python -m tests.fuzz.with_atheris TARGET SECONDS`, if atheris is installed."""

from __future__ import annotations

import importlib
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from tests.hostile.bad_files import plain_run, spool_lines

_SEEDS: dict[str, list[bytes]] = {
    "run file": [msgspec.msgpack.encode(plain_run())],
    "store": [msgspec.msgpack.encode(plain_run())],
    "spool": [b"\n".join(spool_lines())],
    "import": [msgspec.json.encode({"format": "comfyload", "runs": [plain_run()]})],
    "workflow file": [Path("workflows/txt2img.json").read_bytes()],
}


def main() -> None:
    name, seconds = sys.argv[1:]
    atheris: Any = importlib.import_module("atheris")
    for module in [module for module in sys.modules if module.startswith("pytest_comfyload")]:
        # What the seeds imported is imported again, with instrumentation.
        del sys.modules[module]
    with atheris.instrument_imports(include=["pytest_comfyload"]):
        targets: Any = importlib.import_module("tests.fuzz.targets")
    texts: Any = targets.TEXTS.get(name)
    target = targets.BYTES[name] if texts is None else lambda content: texts(content.decode("utf-8", "surrogateescape"))
    with tempfile.TemporaryDirectory() as corpus:
        for number, seed in enumerate(_SEEDS.get(name, [])):
            (Path(corpus) / f"{number}").write_bytes(seed)
        atheris.Setup([sys.argv[0], f"-max_total_time={seconds}", "-rss_limit_mb=0", "-timeout=20", corpus], target)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
