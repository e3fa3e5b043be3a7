"""The settings of a simulator: one frozen value, which is validated when it is created."""

from __future__ import annotations

import contextlib
import difflib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator.faults import check_faults
from pytest_comfyload.simulator.versions import NEWEST, VERSIONS, Version
from pytest_comfyload.user_paths import user_path

__all__ = [
    "CACHE_MODES",
    "GPU_NAMES",
    "PREVIEW_METHODS",
    "STOCK_MODELS",
    "CacheMode",
    "Calibration",
    "MeasuredPrompt",
    "SimulatorSettings",
    "parse_node_time",
    "read_object_info",
]

GPU_NAMES = ("rtx3060", "rtx3090", "rtx4090", "a100", "h100")
_MOST_DEVICES = 16
CACHE_MODES = ("classic", "lru=N", "ram", "none")
PREVIEW_METHODS = ("none", "latent2rgb")

STOCK_MODELS: Mapping[str, Sequence[str]] = {
    "checkpoints": ("sd_xl_base_1.0.safetensors", "tiny_sd15.safetensors", "v1-5-pruned-emaonly.safetensors"),
    "loras": ("add_detail.safetensors", "pixel-art-xl.safetensors", "tiny_lora.safetensors"),
    "vae": ("vae-ft-mse-840000-ema-pruned.safetensors",),
    "controlnet": ("control_v11p_sd15_canny.pth", "tiny_controlnet.safetensors"),
    "upscale_models": ("RealESRGAN_x4plus.pth", "tiny_x4.safetensors"),
}


@dataclass(frozen=True, slots=True)
class CacheMode:
    """Which node results a server keeps; `most` is the maximum number of results in an `lru` cache."""

    kind: str
    most: int = 0

    @classmethod
    def parse(cls, text: str) -> CacheMode:
        """Parse `classic`, `lru=200`, `ram` or `none`. Raises: UsageError."""
        number = re.fullmatch(r"lru=(\d{1,9})", text, re.ASCII)
        if number and int(number[1]) > 0:
            return cls("lru", int(number[1]))
        if text in ("classic", "ram", "none"):
            return cls(text)
        raise UsageError(
            f"cache mode {text!r} is not supported; choose one of: {', '.join(CACHE_MODES)}, with N from 1"
        )

    @property
    def flags(self) -> list[str]:
        """The mode as flags of ComfyUI's command line."""
        return [f"--cache-{self.kind}", *([f"{self.most}"] if self.kind == "lru" else [])]


@dataclass(frozen=True, slots=True)
class MeasuredPrompt:
    """Times of one prompt of a stored run, in seconds: those of its nodes by class, in order, and `other` time.

    `cold`: the prompt loaded models, and the times of its nodes include that.
    """

    nodes: Mapping[str, Sequence[float]]
    other: float = 0.0
    cold: bool = False

    def with_times(self, stated: Mapping[str, float]) -> MeasuredPrompt:
        """Return a copy with the stated seconds in place of the measured ones of these classes."""
        nodes = {name: [stated[name]] * len(times) if name in stated else times for name, times in self.nodes.items()}
        return replace(self, nodes=nodes)


@dataclass(frozen=True, slots=True)
class Calibration:
    """Times from a stored run: medians by node class, whole prompts, and the seconds between two prompts."""

    node_times: Mapping[str, float] = field(default_factory=dict)
    prompts: Sequence[MeasuredPrompt] = ()
    gaps: Sequence[float] = ()

    def with_times(self, stated: Mapping[str, float]) -> Calibration:
        """Return a copy with the stated seconds in place of the measured ones of these classes."""
        return replace(
            self, node_times={**self.node_times, **stated}, prompts=[each.with_times(stated) for each in self.prompts]
        )

    def to_json(self) -> str:
        """Return the calibration as one line of JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Calibration:
        """Parse the output of `to_json`. Raises: UsageError."""
        try:
            read = json.loads(text)
            return Calibration(read["node_times"], [MeasuredPrompt(**each) for each in read["prompts"]], read["gaps"])
        except (ValueError, TypeError, KeyError) as error:
            raise UsageError(f"the calibration on stdin cannot be read: {error}") from None


@dataclass(frozen=True, slots=True)
class SimulatorSettings:
    """All settings that determine how a simulator behaves.

    Equal settings and equal requests in the same order give equal generation times.

    `devices` is the number of GPUs that /system_stats lists; prompts run on the first, the others stay idle.
    `time_scale` is virtual seconds per wall second. `models` are files by folder, in addition to the stock models
    unless `stock_models` is False. `keep_pictures` is the number of generated pictures that stay available under /view.

    `comfyui_version` is the version to emulate, `cache` its node cache: one of CACHE_MODES, or empty for the version's
    default. `ram` is the machine's memory in GiB, which the `ram` cache fills. `strict` rejects unknown node classes
    and files, as a real server does; otherwise they are inferred from the workflows that name them. `object_info` is
    the path of a file with a server's /object_info.

    `node_times` are seconds by node class. A prompt takes the times of one of `measured`, drawn at random from those
    that ran the same number of nodes of each class, if there are any. `gaps` are seconds between the end of a prompt
    and the start of the next; one of them is drawn for each prompt.

    `custom_nodes` are commits by pack, as ComfyUI-Manager reports them; if it is empty, there is no Manager. `faults`
    are the faults to inject, by name with a value or True; `faults.FAULTS` lists them.

    Raises UsageError for an invalid GPU, folder, preview method, fault or number.
    """

    gpu: str = "rtx4090"
    devices: int = 1
    time_scale: float = 1.0
    seed: int = 0
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    stock_models: bool = True
    probe_nodes: bool = False
    preview_method: str = "none"
    keep_pictures: int = 5000
    comfyui_version: str = NEWEST
    cache: str = ""
    ram: float = 256.0
    strict: bool = False
    object_info: str = ""
    node_times: Mapping[str, float] = field(default_factory=dict)
    measured: Sequence[MeasuredPrompt] = ()
    gaps: Sequence[float] = ()
    custom_nodes: Mapping[str, str] = field(default_factory=dict)
    faults: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _one_of("GPU", self.gpu, GPU_NAMES)
        _one_of("preview method", self.preview_method, PREVIEW_METHODS)
        _one_of("ComfyUI version", self.comfyui_version, tuple(VERSIONS))
        if self.cache_mode.kind == "ram" and not self.version.ram_headroom:
            raise UsageError(f"ComfyUI {self.comfyui_version} has no RAM-pressure cache: choose another cache")
        for folder in self.models:
            _one_of("model folder", folder, self.version.folders)
        if not 1 <= self.devices <= _MOST_DEVICES:
            raise UsageError(f"devices={self.devices} is not supported; give a number from 1 to {_MOST_DEVICES}")
        _positive("time_scale", self.time_scale)
        _positive("keep_pictures", self.keep_pictures)
        _positive("ram", self.ram)
        for name, seconds in self.node_times.items():
            if not 0 <= seconds < float("inf"):
                raise UsageError(f"the time of {name} is {seconds!r}; give seconds from 0")
        read_object_info(self.object_info)
        check_faults(self.faults)

    @property
    def version(self) -> Version:
        return VERSIONS[self.comfyui_version]

    @property
    def cache_mode(self) -> CacheMode:
        return CacheMode.parse(self.cache or self.version.cache)

    def models_in(self, folder: str) -> list[str]:
        """Return the files of one model folder, sorted as ComfyUI sorts them."""
        stock = STOCK_MODELS.get(folder, ()) if self.stock_models else ()
        return sorted({*stock, *self.models.get(folder, ())})


def parse_node_time(text: str) -> tuple[str, float]:
    """Parse `CLASS=SECONDS`; the class may itself contain an equals sign. Raises: UsageError."""
    name, _, seconds = text.rpartition("=")
    with contextlib.suppress(ValueError):
        if name and 0 <= float(seconds) < float("inf"):
            return name, float(seconds)
    raise UsageError(f"{text!r} is not a node time; give CLASS=SECONDS, such as KSampler=2.5")


def read_object_info(path: str) -> dict[str, Any]:
    """Return the node classes from a file with a server's /object_info; none without a path. Raises: UsageError."""
    if not path:
        return {}
    try:
        described = json.loads(user_path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"cannot read the object info {path}: {error.strerror}") from None
    except ValueError as error:
        raise UsageError(f"the object info {path} is not JSON: {error}") from None
    if not isinstance(described, dict) or not described:
        raise UsageError(f"{path} has no node classes; `comfyload record-nodes URL` saves a server's")
    for name, info in described.items():
        if not _is_class(info):
            raise UsageError(f"{path}: {name} lacks input or output; `comfyload record-nodes URL` saves a server's")
    return described


def _is_class(info: object) -> bool:
    if (
        not isinstance(info, dict)
        or not isinstance(info.get("input"), dict)
        or not isinstance(info.get("output"), list)
    ):
        return False
    sections = [info["input"].get(section) or {} for section in ("required", "optional")]
    return all(
        isinstance(section, dict) and all(isinstance(each, list) and each for each in section.values())
        for section in sections
    )


def _one_of(what: str, value: str, legal: Sequence[str]) -> None:
    if value not in legal:
        near = difflib.get_close_matches(value, legal, n=1, cutoff=0.0)
        names = ", ".join(dict.fromkeys([*near, *legal]))
        raise UsageError(f"unknown {what} {value!r}; choose one of: {names}")


def _positive(name: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise UsageError(f"{name} must be a positive number, not {value!r}")
