"""An installation whose ComfyUI is the simulator, so that code that launches real servers can be tested in a second.

Its node classes are the standard ones and, for each folder of `custom_nodes` with a file `seconds`, one class
`SlowNode` that takes this number of seconds.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["installation"]

_MAIN = """
import json, os, sys
from pathlib import Path

given = dict(zip(sys.argv[1:], sys.argv[2:]))
base = Path(given["--base-directory"])
said = {"argv": sys.argv[1:], "cwd": os.getcwd(), "gpu": os.environ.get("CUDA_VISIBLE_DEVICES")}
(base / "started.json").write_text(json.dumps(said))
print("starting", flush=True)
if "--broken" in sys.argv:
    sys.exit("no module named torch")
options = ["--port", given["--port"], "--time-scale", given.get("--time-scale", "20"), "--strict"]
for node in (base / "custom_nodes").iterdir():
    if (node / "seconds").exists():
        number = {"min": 0, "max": 2**32, "default": 0}
        described = {
            "SlowNode": {
                "input": {"required": {"seed": ["INT", number], "image": ["IMAGE"]}},
                "input_order": {"required": ["seed", "image"]},
                "output": ["IMAGE"], "output_is_list": [False], "output_name": ["IMAGE"], "name": "SlowNode",
                "display_name": "Slow", "description": "", "category": "test", "output_node": False,
                "python_module": f"custom_nodes.{node.name}",
            }
        }
        (base / "object_info.json").write_text(json.dumps(described))
        options += ["--object-info", str(base / "object_info.json")]
        options += ["--node-time", f"SlowNode={(node / 'seconds').read_text().strip()}"]
from pytest_comfyload.simulator.__main__ import main
sys.exit(main(options))
"""


def installation(folder: Path) -> Path:
    """Create the installation, with a model, an input image and a custom node of its own."""
    for name, content in {
        "main.py": _MAIN,
        "models/checkpoints/deep/sd.safetensors": "weights",
        "input/example.png": "picture",
        "input/comfyload/earlier.png": "uploaded by an earlier load",
        "custom_nodes/other_pack/__init__.py": "NODE_CLASS_MAPPINGS = {}",
        "custom_nodes/other_pack/.git/HEAD": "ref: refs/heads/main",
        "custom_nodes/my_node/__init__.py": "the user's own copy",
        "user/default/settings.json": "{}",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return folder
