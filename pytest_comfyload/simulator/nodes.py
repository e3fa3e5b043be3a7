"""Work of each node class, given its inputs: only sizes and costs are computed, no pixels."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from pytest_comfyload.simulator.vram import part_of
from pytest_comfyload.simulator.work import Call, Conditioning, NodeFailure, NodeWork, Picture, Save, working_bytes

__all__ = ["CLASSES", "OUT_OF_MEMORY", "work_of"]

_TILE, _OVERLAP = 512, 32
_PROBE_STEPS = 10
_SAMPLING, _CODING, _TEXT = 0.99, 0.95, 0.6
"""Shares of the time in which kernels run: text is encoded in bursts, between which the CPU tokenizes it."""
_CELL = 8
_OOM_ADVICE = (
    "\nThis error means you ran out of memory on your GPU.\n\nTIPS: If the workflow worked before "
    "you might have accidentally set the batch_size to a large number."
)
OUT_OF_MEMORY = f"Allocation on device {_OOM_ADVICE}"
"""Torch's message with the asynchronous allocator, which the simulated GPUs report; the probe has the classic text."""
_PROBE_OOM = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 23.69 GiB of which "
    f"12.06 GiB is free.{_OOM_ADVICE}"
)
_TILED = "Warning: Ran out of memory when regular VAE {0}, retrying with tiled VAE {0}.\n"


def work_of(class_type: str, call: Call) -> NodeWork:
    """Return the work of a node of this class with these inputs. Raises NodeFailure if the node would raise."""
    return CLASSES[class_type](call)


def _load_checkpoint(call: Call) -> NodeWork:
    file = call.inputs["ckpt_name"]
    parts = tuple(part_of(file, part) for part in ("unet", "clip", "vae"))
    return NodeWork(parts, call.gpu.read(sum(part.size for part in parts)), read=file)


def _load_part(call: Call, name: str, part: str) -> NodeWork:
    weights = part_of(call.inputs[name], part)
    return NodeWork((weights,), call.gpu.read(weights.size), read=weights.file)


def _apply_lora(call: Call) -> NodeWork:
    lora = part_of(call.inputs["lora_name"], "lora")
    targets = [call.weights(name) for name in ("model", "clip") if name in call.inputs]
    patched = tuple(replace(weights, patches=(*weights.patches, call.key)) for weights in targets)
    return NodeWork(patched, call.gpu.read(lora.size))


def _encode_text(call: Call) -> NodeWork:
    clip = call.weights("clip")
    return NodeWork((Conditioning(),), call.gpu.encode_text(clip.family), _TEXT, needs=(clip,))


def _apply_controlnet(call: Call) -> NodeWork:
    net = call.weights("control_net")
    both = (call.conditioning("positive"), call.conditioning("negative"))
    return NodeWork(tuple(Conditioning((*conditioning.controlnets, net)) for conditioning in both))


def _empty_image(call: Call) -> NodeWork:
    return NodeWork((Picture(call.whole("width"), call.whole("height"), call.whole("batch_size"), call.key),))


def _empty_latent(call: Call) -> NodeWork:
    return _on_latent_grid(_empty_image(call))


def _sample(call: Call) -> NodeWork:
    return _sampling(call, call.whole("steps"))


def _sample_advanced(call: Call) -> NodeWork:
    steps = call.whole("steps")
    return _sampling(call, max(0, min(call.whole("end_at_step"), steps) - call.whole("start_at_step")))


def _sampling(call: Call, steps: int) -> NodeWork:
    model, latent = call.weights("model"), call.picture("latent_image")
    controlnets = call.conditioning("positive").controlnets
    call.conditioning("negative")
    made = replace(latent, key=call.key)
    step = call.gpu.sampling_step(model.family, latent.pixels, latent.latents, len(controlnets))
    working = working_bytes(latent)
    return NodeWork((made,), step * steps, _SAMPLING, steps, needs=(model, *controlnets), working=working, preview=made)


def _decode(call: Call) -> NodeWork:
    return _through_vae(call, "samples", "decoding")


def _encode(call: Call) -> NodeWork:
    return _on_latent_grid(_through_vae(call, "pixels", "encoding"))


def _through_vae(call: Call, name: str, way: str) -> NodeWork:
    vae, source = call.weights("vae"), call.picture(name)
    made = replace(source, key=call.key)
    seconds = call.gpu.decode(source.pixels, source.images)
    return NodeWork((made,), seconds, _CODING, needs=(vae,), working=working_bytes(source), tiled=_TILED.format(way))


def _resized(call: Call, name: str) -> NodeWork:
    source = call.picture(name)
    if "scale_by" in call.inputs:
        factor = float(call.inputs["scale_by"])
        width, height = round(source.width * factor), round(source.height * factor)
    else:
        width, height = _size_asked_for(call, source)
    made = replace(source, width=width, height=height, key=call.key)
    return NodeWork((made,), call.gpu.resize(made.pixels, made.images))


def _size_asked_for(call: Call, source: Picture) -> tuple[int, int]:
    """Return the requested size; one side of 0 keeps the aspect ratio, two keep the size."""
    width, height = call.whole("width"), call.whole("height")
    if not width and not height:
        return source.width, source.height
    return width or round(source.width * height / source.height), height or round(source.height * width / source.width)


def _upscale_with_model(call: Call) -> NodeWork:
    model, source = call.weights("upscale_model"), call.picture("image")
    made = replace(source, width=source.width * 4, height=source.height * 4, key=call.key)
    seconds = call.gpu.upscale(source.pixels, source.images)
    steps = _tiles(source.width) * _tiles(source.height) * source.images
    tile = replace(made, width=min(made.width, 4 * _TILE), height=min(made.height, 4 * _TILE), batch=1, frames=1)
    return NodeWork((made,), seconds, _CODING, steps, needs=(model,), working=working_bytes(tile))


def _changed(call: Call, name: str) -> NodeWork:
    return NodeWork((replace(call.picture(name), key=call.key),))


def _repeat(call: Call) -> NodeWork:
    source = call.picture("samples")
    return NodeWork((replace(source, batch=source.batch * call.whole("amount"), key=call.key),))


def _load_image(call: Call) -> NodeWork:
    width, height = call.uploaded_size(call.inputs["image"])
    picture = Picture(width, height, 1, call.key)
    return NodeWork((picture, picture), call.gpu.resize(picture.pixels, 1))


def _save(call: Call) -> NodeWork:
    picture = call.picture("images")
    seconds = call.gpu.write_png(picture.pixels, picture.images)
    return NodeWork((picture,), seconds, save=Save(picture, "output", call.inputs["filename_prefix"]))


def _preview(call: Call) -> NodeWork:
    picture = call.picture("images")
    seconds = call.gpu.write_png(picture.pixels, picture.images)
    return NodeWork((picture,), seconds, save=Save(picture, "temp", None))


def _sleep(call: Call) -> NodeWork:
    width = call.whole("width")
    made = Picture(width, width, 1, call.key)
    return NodeWork((made,), float(call.inputs["seconds"]), steps=_PROBE_STEPS, noisy=False)


def _fail(call: Call) -> NodeWork:
    raise NodeFailure("ValueError", "probe failure\n")


def _run_out_of_memory(call: Call) -> NodeWork:
    raise NodeFailure("torch.OutOfMemoryError", _PROBE_OOM)


def _on_latent_grid(work: NodeWork) -> NodeWork:
    """Crop the sides to whole latent cells, which are eight pixels wide."""
    picture: Picture = work.outputs[0]
    width, height = (max(_CELL, side // _CELL * _CELL) for side in (picture.width, picture.height))
    return replace(work, outputs=(replace(picture, width=width, height=height),))


def _tiles(length: int) -> int:
    return max(1, math.ceil((length - _OVERLAP) / (_TILE - _OVERLAP)))


CLASSES: dict[str, Callable[[Call], NodeWork]] = {
    "CheckpointLoaderSimple": _load_checkpoint,
    "VAELoader": lambda call: _load_part(call, "vae_name", "vae"),
    "ControlNetLoader": lambda call: _load_part(call, "control_net_name", "controlnet"),
    "UpscaleModelLoader": lambda call: _load_part(call, "model_name", "upscaler"),
    "LoraLoader": _apply_lora,
    "LoraLoaderModelOnly": _apply_lora,
    "CLIPSetLastLayer": lambda call: NodeWork((call.weights("clip"),)),
    "CLIPTextEncode": _encode_text,
    "CLIPTextEncodeSDXL": _encode_text,
    "ControlNetApplyAdvanced": _apply_controlnet,
    "EmptyLatentImage": _empty_latent,
    "LatentUpscale": lambda call: _on_latent_grid(_resized(call, "samples")),
    "LatentUpscaleBy": lambda call: _on_latent_grid(_resized(call, "samples")),
    "RepeatLatentBatch": _repeat,
    "SetLatentNoiseMask": lambda call: _changed(call, "samples"),
    "KSampler": _sample,
    "KSamplerAdvanced": _sample_advanced,
    "VAEDecode": _decode,
    "VAEEncode": _encode,
    "VAEEncodeForInpaint": _encode,
    "LoadImage": _load_image,
    "LoadImageMask": _load_image,
    "EmptyImage": _empty_image,
    "ImageInvert": lambda call: _changed(call, "image"),
    "ImageScale": lambda call: _resized(call, "image"),
    "ImageScaleBy": lambda call: _resized(call, "image"),
    "ImageUpscaleWithModel": _upscale_with_model,
    "SaveImage": _save,
    "PreviewImage": _preview,
    "ProbeSleep": _sleep,
    "ProbeFail": _fail,
    "ProbeOOM": _run_out_of_memory,
}
