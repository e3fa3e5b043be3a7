"""Guesses of what a node does whose class the simulator does not model: its outputs, files and time.

Values of types that the simulator does not model, such as NOISE or GUIDER, are parcels: they carry the weights,
pictures and steps that went into them, so that the sampler that receives them finds what it would really use.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pytest_comfyload.simulator.inference import MODEL_SUFFIXES
from pytest_comfyload.simulator.vram import SDXL, Weights, part_of
from pytest_comfyload.simulator.work import (
    PNG,
    SOCKET,
    Call,
    Conditioning,
    Media,
    NodeWork,
    Picture,
    Save,
    working_bytes,
)

__all__ = ["guessed_work"]

_PARTS = {"MODEL": "unet", "CLIP": "clip", "VAE": "vae", "CONTROL_NET": "controlnet", "UPSCALE_MODEL": "upscaler"}
_PICTURES = ("IMAGE", "LATENT", "MASK", "VIDEO")
_SIDE = 1024
_STEPS = 20
_FPS = 16.0
_QUICK = 0.001
"""Seconds taken by a node that only passes values on."""
_SAMPLING, _CODING, _TEXT = 0.99, 0.95, 0.6
_FRAME_COUNTS = ("length", "num_frames", "frames", "video_frames", "frame_count")
_RATES = ("fps", "frame_rate")
_VIDEO_WORDS = ("video", "gif", "webm", "webp", "animat", "movie")
_VIDEO_SUFFIXES = {"webm": ".webm", "webp": ".webp", "gif": ".gif"}
_AUDIO_SUFFIXES = {"mp3": ".mp3", "wav": ".wav"}


@dataclass(frozen=True, slots=True)
class Parcel:
    """A value of a type that is not modelled, with what went into it; `steps`: sampling steps, if known."""

    contents: tuple[Any, ...] = ()
    steps: int | None = None


def guessed_work(class_type: str, call: Call, types: Sequence[Any], is_output: bool) -> NodeWork:
    """Guess the work of a node from its class, its inputs and the types of its outputs."""
    node = _Node(class_type.lower(), call, list(_unpacked(call.inputs.values())))
    work = node.work(types)
    return replace(work, save=node.save()) if is_output else work


def _unpacked(values: Any) -> Iterator[Any]:
    for value in values:
        yield value
        if isinstance(value, Parcel):
            yield from _unpacked(value.contents)


class _Node:
    """One node about to run; `found` has all values in its inputs, including the contents of parcels."""

    def __init__(self, name: str, call: Call, found: list[Any]) -> None:
        self._name = name
        self._call = call
        self._found = found
        self._first = next((value for value in found if isinstance(value, Weights | Conditioning | Picture)), None)
        self._weights = [value for value in found if isinstance(value, Weights)]
        self._picture = next((value for value in found if isinstance(value, Picture)), None)

    def work(self, types: Sequence[Any]) -> NodeWork:
        made = tuple(self._made(kind) for kind in types)
        picture = next((value for value in made if isinstance(value, Picture)), None)
        read = [value for value in made if isinstance(value, Weights) and value not in self._weights]
        if read:
            return NodeWork(made, self._call.gpu.read(sum(weights.size for weights in read)), read=read[0].file)
        if picture and self._is_sampler():
            return self._sampling(made, picture)
        if picture and self._of_part("vae"):
            seconds = self._call.gpu.decode(picture.pixels, picture.images)
            return NodeWork(made, seconds, _CODING, needs=tuple(self._of_part("vae")), working=working_bytes(picture))
        if (clips := self._of_part("clip")) and any(isinstance(value, Conditioning) for value in made):
            return NodeWork(made, self._call.gpu.encode_text(clips[0].family), _TEXT, needs=tuple(clips))
        return NodeWork(made, self._handling(picture or self._picture))

    def _sampling(self, made: tuple[Any, ...], picture: Picture) -> NodeWork:
        steps = self._steps() or _STEPS
        models = self._of_part("unet")
        family = models[0].family if models else SDXL
        step = self._call.gpu.sampling_step(family, picture.pixels, picture.latents)
        needs, working = tuple(models), working_bytes(picture)
        return NodeWork(made, step * steps, _SAMPLING, steps, needs=needs, working=working, preview=picture)

    def _handling(self, picture: Picture | None) -> float:
        return self._call.gpu.resize(picture.pixels, picture.images) if picture else _QUICK

    def _is_sampler(self) -> bool:
        return "sampler" in self._name or self._steps() is not None

    def _steps(self) -> int | None:
        own = self._number("steps")
        return own or next((value.steps for value in self._found if isinstance(value, Parcel) and value.steps), None)

    def _of_part(self, part: str) -> list[Weights]:
        return [weights for weights in self._weights if weights.part == part]

    def _made(self, kinds: Any) -> Any:
        """Return the value of an output of this type: the first of `IMAGE,MASK`; for `*`, what came in, if anything."""
        kind = kinds.partition(",")[0] if isinstance(kinds, str) else "STRING"
        if kind == "*" and isinstance(self._first, Weights | Conditioning):
            return self._first
        if kind in _PARTS:
            return self._model(_PARTS[kind])
        if kind in _PICTURES or (kind == "*" and isinstance(self._first, Picture)):
            return self._changed_picture()
        if kind == "CONDITIONING":
            return next((value for value in self._found if isinstance(value, Conditioning)), Conditioning())
        if kind in _LITERALS:
            literals = [value for value in self._call.inputs.values() if type(value) in _LITERALS[kind]]
            return literals[0] if literals else _LITERALS[kind][0]()
        contents = tuple(value for value in self._found if not isinstance(value, Parcel | str | int | float))
        return Parcel(contents, self._steps())

    def _model(self, part: str) -> Weights:
        """Return the model that came in, patched if a file is named too.

        If none came in, return the part of the named file, or else of a file with the node's name.
        """
        file = next((value for value in self._call.inputs.values() if _is_model_file(value)), None)
        if passed := self._of_part(part):
            return replace(passed[0], patches=(*passed[0].patches, self._call.key)) if file else passed[0]
        return part_of(file or self._name, part)

    def _changed_picture(self) -> Picture:
        """Return the first picture that came in, with the sizes that the node's inputs specify."""
        picture = self._picture or Picture(_SIDE, _SIDE, 1, "")
        scale = float(self._number("scale_by", "upscale_by") or 1)
        return Picture(
            int(self._number("width") or round(picture.width * scale)),
            int(self._number("height") or round(picture.height * scale)),
            int(self._number("batch_size") or picture.batch),
            self._call.key,
            int(self._number(*_FRAME_COUNTS) or picture.frames),
        )

    def _number(self, *names: str) -> Any:
        """Return the first positive number among these inputs, or None."""
        values = (self._call.inputs.get(name) for name in names)
        return next((value for value in values if isinstance(value, int | float) and value > 0), None)

    def save(self) -> Save | None:
        """Return the files that an output node delivers, in the form that well-known nodes of its kind use."""
        prefix = self._call.inputs.get("filename_prefix")
        if "websocket" in self._name and self._picture is not None:
            return Save(self._picture, SOCKET, None)
        temporary = self._call.inputs.get("save_output") is False or ("preview" in self._name and prefix is None)
        folder = "temp" if temporary else "output"
        media = self._media()
        if media is None:
            return None
        picture = self._picture or Picture(_SIDE, _SIDE, 1, self._call.key)
        return Save(picture, folder, str(prefix) if prefix else None, media)

    def _media(self) -> Media | None:
        form = str(self._call.inputs.get("format", "")).lower()
        if self._picture is None and "audio" in self._name:
            return Media("audio", _suffix_of(self._name + form, _AUDIO_SUFFIXES, ".flac"))
        moving = any(word in self._name for word in _VIDEO_WORDS) or any(rate in self._call.inputs for rate in _RATES)
        if self._picture is None or not moving:
            return PNG if self._picture else None
        suffix = _suffix_of(form or self._name, _VIDEO_SUFFIXES, ".mp4")
        rate = float(self._number(*_RATES) or _FPS)
        return Media("gifs" if "vhs_" in self._name else "images", suffix, moving=True, format=form, rate=rate)


_LITERALS: dict[str, tuple[type, ...]] = {
    "INT": (int,), "FLOAT": (float, int), "STRING": (str,), "BOOLEAN": (bool,),
}  # fmt: skip


def _is_model_file(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(MODEL_SUFFIXES)


def _suffix_of(text: str, suffixes: dict[str, str], otherwise: str) -> str:
    return next((suffix for word, suffix in suffixes.items() if word in text), otherwise)
