"""The files of a simulated server: uploads are stored as received, generated files are drawn when requested."""

from __future__ import annotations

import hashlib
import io
import json
import mimetypes
import random
import re
import string
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from PIL import Image, PngImagePlugin

from pytest_comfyload.image_containers import PictureError
from pytest_comfyload.image_files import decoding
from pytest_comfyload.simulator.media import SOUND_SUFFIXES, animation, sound
from pytest_comfyload.simulator.work import PNG, Media, NodeFailure, Picture, Save

__all__ = ["Drawing", "FilePlace", "Pictures", "preview_jpeg", "split_annotation"]

_GRAIN = 8
_PREVIEW_SIDE = 512
_INPUT_SIDE = 1024
_MOST_FRAMES = 8
_FOLDERS = ("input", "output", "temp")


@dataclass(frozen=True, slots=True)
class FilePlace:
    """Location of a file: the folder `input`, `output` or `temp`, a subfolder and a name."""

    folder: str
    subfolder: str
    name: str


@dataclass(frozen=True, slots=True)
class Drawing:
    """Generated file that is drawn on request; `key` determines its content, `texts` are stored in a PNG."""

    width: int
    height: int
    key: str
    texts: tuple[tuple[str, Any], ...] = field(default=(), repr=False)
    media: Media = PNG
    frames: int = 1

    def content(self) -> bytes:
        """Draw the file, of a long video only the first frames. This is slow: call it in a thread."""
        if self.media.suffix in SOUND_SUFFIXES:
            return sound(self.media.suffix)
        if not self.media.moving:
            return self._png()
        shown = range(min(self.frames, _MOST_FRAMES))
        frames = [_noise(self.width, self.height, f"{self.key}/{number}") for number in shown]
        return animation(frames, self.media.suffix, self.media.rate)

    def _png(self) -> bytes:
        """Draw coarse coloured noise, which takes 15 ms per megapixel (fine noise takes ten times as long)."""
        info = PngImagePlugin.PngInfo()
        for name, value in self.texts:
            info.add_text(name, json.dumps(value))
        out = io.BytesIO()
        _noise(self.width, self.height, self.key).save(out, "PNG", pnginfo=info, compress_level=1)
        return out.getvalue()


class Pictures:
    """All files by location; of the generated ones, only the newest `keep` are kept."""

    def __init__(self, keep: int, rng: random.Random) -> None:
        self._keep = keep
        self._drawings: OrderedDict[FilePlace, Drawing] = OrderedDict()
        self._uploads: dict[FilePlace, bytes] = {}
        self._counters: dict[FilePlace, int] = {}
        self._temp_prefix = "ComfyUI_temp_" + "".join(rng.choices(string.ascii_lowercase, k=5))

    def find(self, place: FilePlace) -> bytes | Drawing | None:
        """Return the bytes of an upload, the drawing of a generated file, or None."""
        return self._uploads.get(place) or self._drawings.get(place)

    def save(self, save: Save, prompt: Any, extra_pnginfo: dict[str, Any]) -> dict[str, Any]:
        """Store a batch under the next numbers, as SaveImage does, and return the files as its node reports them.

        Raises NodeFailure if the prefix leads out of the folder.
        """
        picture, media = save.picture, save.media
        subfolder, prefix = _target(save.prefix or self._temp_prefix, picture)
        texts = (("prompt", prompt), *extra_pnginfo.items())
        shown = []
        for number in range(picture.batch if media.moving else picture.images):
            named = prefix.replace("%batch_num%", str(number))
            name = f"{named}_{self._next(save.folder, subfolder, prefix):05}_{media.suffix}"
            key = f"{picture.key}/{number}"
            drawing = Drawing(picture.width, picture.height, key, texts, media, picture.frames)
            self._drawings[FilePlace(save.folder, subfolder, name)] = drawing
            shown.append({"filename": name, "subfolder": subfolder, "type": save.folder, **_told(media)})
        while len(self._drawings) > self._keep:
            self._drawings.popitem(last=False)
        return {media.kind: shown, **({"animated": [True]} if media.moving and media.kind == "images" else {})}

    def sent(self, save: Save) -> list[Drawing]:
        """Return the drawings of a batch that is sent without being stored."""
        picture = save.picture
        return [Drawing(picture.width, picture.height, f"{picture.key}/{number}") for number in range(picture.images)]

    def draw_input(self, name: str) -> None:
        """Create a picture of this name in the input folder."""
        drawing = Drawing(_INPUT_SIDE, _INPUT_SIDE, name)
        self._uploads[_loader_place(name)] = drawing.content()

    def upload(self, content: bytes, place: FilePlace, overwrite: bool) -> FilePlace:
        """Store an upload; unless `overwrite`, it becomes `name (1).png` and so on if the name has other content."""
        stem, suffix = PurePosixPath(place.name).stem, PurePosixPath(place.name).suffix
        free = place
        number = 1
        while not overwrite and self._uploads.get(free, content) != content:
            free = FilePlace(place.folder, place.subfolder, f"{stem} ({number}){suffix}")
            number += 1
        self._uploads[free] = content
        return free

    def input_names(self) -> list[str]:
        """Return the pictures directly in the input folder, sorted."""
        names = [place.name for place in self._uploads if place.folder == "input" and not place.subfolder]
        return sorted(name for name in names if (mimetypes.guess_type(name)[0] or "").startswith("image/"))

    def generated_names(self, folder: str) -> list[str]:
        """Return the generated files directly in a folder, newest first."""
        return [place.name for place in reversed(self._drawings) if place.folder == folder and not place.subfolder]

    def has_input(self, name: str) -> bool:
        """Return whether a loader finds `name`, such as `a.png`, `sub/a.png` or `a.png [output]`."""
        return isinstance(name, str) and self.find(_loader_place(name)) is not None

    def input_digest(self, name: str) -> str:
        """Return a digest of the content, on which a loader's result depends besides the name."""
        found = self.find(_loader_place(name))
        return hashlib.sha256(found).hexdigest() if isinstance(found, bytes) else repr(found)

    def input_size(self, name: str) -> tuple[int, int]:
        """Return width and height of an input picture. Raises NodeFailure if it is missing or not a picture."""
        found = self.find(_loader_place(name))
        if isinstance(found, Drawing):
            return found.width, found.height
        try:
            with decoding(found or b"") as image:
                return image.size
        except PictureError as error:
            raise NodeFailure("PIL.UnidentifiedImageError", f"cannot identify image file {name!r}\n") from error

    def _next(self, folder: str, subfolder: str, prefix: str) -> int:
        counter = FilePlace(folder, subfolder, prefix)
        if counter not in self._counters:
            self._counters[counter] = self._highest(counter)
        self._counters[counter] += 1
        return self._counters[counter]

    def _highest(self, counter: FilePlace) -> int:
        """Return the highest number that uploads to this folder have already taken."""
        numbered = re.compile(re.escape(counter.name) + r"_(\d+)_")
        names = [p.name for p in self._uploads if (p.folder, p.subfolder) == (counter.folder, counter.subfolder)]
        return max((int(match[1]) for name in names if (match := numbered.match(name))), default=0)


def split_annotation(name: str) -> tuple[str, str | None]:
    """Split `a.png [temp]` into the file a.png and the folder temp; without an annotation the folder is None."""
    for folder in _FOLDERS:
        if name.endswith(f"[{folder}]"):
            return name[: -len(folder) - 3], folder
    return name, None


def _loader_place(name: str) -> FilePlace:
    path, folder = split_annotation(name)
    subfolder, _, file = path.rpartition("/")
    return FilePlace(folder or "input", subfolder, file)


def _target(prefix: str, picture: Picture) -> tuple[str, str]:
    """Expand a filename_prefix into a subfolder and a file prefix. Raises: NodeFailure."""
    now = time.localtime()
    words = {
        "%width%": picture.width, "%height%": picture.height, "%year%": now.tm_year,
        "%month%": f"{now.tm_mon:02}", "%day%": f"{now.tm_mday:02}", "%hour%": f"{now.tm_hour:02}",
        "%minute%": f"{now.tm_min:02}", "%second%": f"{now.tm_sec:02}",
    }  # fmt: skip
    for word, value in words.items():
        prefix = prefix.replace(word, str(value))
    path = PurePosixPath(prefix)
    if path.is_absolute() or ".." in path.parts:
        raise NodeFailure("Exception", "**** ERROR: Saving image outside the output folder is not allowed.\n")
    subfolder = str(path.parent)
    return "" if subfolder == "." else subfolder, path.name


def _told(media: Media) -> dict[str, Any]:
    """Return what a node that reports its files as `gifs` adds to their names."""
    return {"format": media.format, "frame_rate": media.rate} if media.kind == "gifs" else {}


def _noise(width: int, height: int, key: str) -> Image.Image:
    small = (max(1, width // _GRAIN), max(1, height // _GRAIN))
    grain = random.Random(key).randbytes(small[0] * small[1] * 3)
    return Image.frombytes("RGB", small, grain).resize((width, height), Image.Resampling.NEAREST)


@lru_cache(maxsize=64)
def preview_jpeg(width: int, height: int, variant: int) -> bytes:
    """Return a preview of a picture of this shape, 512 pixels on the longer side; cheap, since cached by variant."""
    scale = _PREVIEW_SIDE / max(width, height)
    out = io.BytesIO()
    _noise(max(1, round(width * scale)), max(1, round(height * scale)), str(variant)).save(out, "JPEG", quality=95)
    return out.getvalue()
