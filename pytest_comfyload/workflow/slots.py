"""Inputs that differ between prompts: seeds, texts, file names, pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from dataclasses import dataclass

from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of, spots
from pytest_comfyload.workflow.object_info import InputSpec, is_whole

__all__ = ["Slots", "names_picture"]

UNDECLARED_MAX = 2**32 - 1
JSON_SAFE_MAX = 2**53  # beyond it JavaScript loses digits, and so does the editor when it opens the picture

TEXT_INPUTS = {
    "text", "text_g", "text_l", "clip_g", "clip_l", "t5xxl", "llama", "bert", "mt5xl", "prompt", "user_prompt",
}  # fmt: skip
# Inputs for what nodes put between the texts that they join.
_JOINTS = {"delimiter", "separator"}
_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True, slots=True)
class Slots:
    """The inputs of a graph that prompts may change; `kept` are the inputs that the user set."""

    nodes: NodeGraph
    kept: Set[InputRef]

    # --- seeds ---

    def seed_ranges(self) -> dict[InputRef, tuple[int, int]]:
        """Return the inputs that contain seeds, with the range that all inputs fed from there allow."""
        ranges: dict[InputRef, tuple[int, int]] = {}
        for spot, _ in spots(self.nodes.graph):
            source = self.nodes.literal_spot(spot, is_whole, _carries_seed) if _is_seed(spot.input) else None
            if source is None or not self._free("INT", {spot, source}):
                continue
            allowed = [_range(self.nodes.spec(each)) for each in (spot, source)]
            allowed += [ranges[source]] if source in ranges else []
            ranges[source] = max(low for low, _ in allowed), min(high for _, high in allowed)
        return {spot: (low, high) for spot, (low, high) in ranges.items() if low <= high}

    def _free(self, kind: str, inputs: Set[InputRef]) -> bool:
        """Return whether the user set none of `inputs`, and each is declared with this `kind` or not declared."""
        return not inputs & self.kept and self.nodes.take(kind, inputs)

    # --- names of files ---

    def filename_prefixes(self) -> list[InputRef]:
        """Return the inputs that name the outputs."""
        return [
            spot
            for spot, _ in spots(self.nodes.graph)
            if spot.input == "filename_prefix" and self._free("STRING", {spot})
        ]

    def pictures(self) -> list[InputRef]:
        """Return the inputs that name a still picture in a server's folders, whether or not the user set them."""
        return [spot for spot, value in spots(self.nodes.graph) if names_picture(value) and self._takes_file(spot)]

    def _takes_file(self, spot: InputRef) -> bool:
        spec = self.nodes.spec(spot)
        return not self.nodes.object_info.known or (spec is not None and spec.upload)

    # --- texts ---

    def positive_texts(self) -> list[InputRef]:
        """Return the inputs that contain the positive texts that may be changed."""
        return self._places(self._encoder_inputs())[0]

    def text_places(self) -> tuple[tuple[InputRef, ...], tuple[InputRef, ...]]:
        """Find the inputs for a prompt text: the one free text that feeds each encoder of the positive prompt.

        Without an encoder, it is the only text input of the graph.

        Returns:
            The inputs. If there are none, also the several candidates among which only the user can choose.
        """
        if encoders := list(self._encoder_inputs()):
            found, several = self._places(encoders)
        else:
            found, several = self._places(spot for spot, _ in spots(self.nodes.graph) if _is_text(spot))
            found, several = (found, several) if len(found) < 2 else ([], found)
        return tuple(found), tuple(several)

    def free_texts(self) -> list[InputRef]:
        """Return the inputs that contain the texts of encoders, positive or not, and were not set by the user."""
        sources = [
            (spot, self.nodes.literal_spot(spot, _is_literal_text, _carries_text))
            for spot, _ in spots(self.nodes.graph)
            if _is_text(spot)
        ]
        return [source for spot, source in sources if source and self._free("STRING", {spot, source})]

    def _places(self, inputs: Iterable[InputRef]) -> tuple[list[InputRef], list[InputRef]]:
        found: dict[InputRef, None] = {}
        several: dict[InputRef, None] = {}
        for spot in inputs:
            texts = [] if spot in self.kept else [each for each in self._texts_of(spot) if each not in self.kept]
            written = [each for each in texts if self.nodes.value(each)] or texts
            (found if len(written) == 1 else several).update(dict.fromkeys(written))
        return list(found), [] if found else list(several)

    def _texts_of(self, spot: InputRef) -> list[InputRef]:
        """Return the literal texts that make up `spot`, through nodes that contain, pass on or join texts."""
        found: list[InputRef] = []
        pending, seen = [spot], set[InputRef]()
        while pending:
            here = pending.pop()
            source = self.nodes.source(here)
            if isinstance(self.nodes.value(here), str) and self.nodes.take("STRING", {spot, here}):
                found.append(here)
            elif source is not None and here not in seen:
                seen.add(here)
                pending += reversed(self._text_inputs(source))
        return found

    def _text_inputs(self, node_id: str) -> list[InputRef]:
        """Return the inputs that make up a node's text: the only one named like a text, or all that may carry text."""
        inputs = [InputRef(node_id, name) for name in self.nodes.inputs_of(node_id)]
        inputs = [spot for spot in inputs if self._may_carry_text(spot)]
        named = [spot for spot in inputs if _carries_text(spot.input)]
        return named if len(named) == 1 else inputs

    def _may_carry_text(self, spot: InputRef) -> bool:
        """Return whether an input may carry text: a literal that is empty or contains words, or a link."""
        spec, value = self.nodes.spec(spot), self.nodes.value(spot)
        if isinstance(value, str):
            return spot.input not in _JOINTS and (not value or any(map(str.isalnum, value))) and _is(spec, "STRING")
        return link_of(value) is not None and _is(spec, "STRING", "ANY", "*")

    def _encoder_inputs(self) -> Iterator[InputRef]:
        """Yield the text inputs of the first encoders upstream of the `positive` inputs of samplers."""
        pending = [spot for spot, _ in spots(self.nodes.graph) if self._is_positive(spot)]
        seen: set[str] = set()
        while pending:
            node_id = self.nodes.source(pending.pop())
            if node_id is None or node_id in seen:
                continue
            seen.add(node_id)
            texts = [InputRef(node_id, name) for name in self.nodes.inputs_of(node_id) if name in TEXT_INPUTS]
            yield from texts
            pending += [] if texts else self._conditioning_inputs(node_id)

    def _is_positive(self, spot: InputRef) -> bool:
        """Return whether an input takes a positive prompt; guiders without a negative prompt call it `cond…`."""
        is_guider = "Guider" in self.nodes.class_of(spot.node)
        return spot.input == "positive" or (is_guider and spot.input.startswith("cond"))

    def _conditioning_inputs(self, node_id: str) -> list[InputRef]:
        """Return the conditioning inputs of a node that passes it on: ControlNet, guidance, combine, reroute."""
        linked = [name for name, value in self.nodes.inputs_of(node_id).items() if link_of(value) is not None]
        names = [name for name in linked if name != "negative"]
        named = [name for name in names if name == "positive"] or [name for name in names if "cond" in name]
        return [InputRef(node_id, name) for name in named or names]


def names_picture(value: object) -> bool:
    """Return whether a value names a still picture, by its extension."""
    return isinstance(value, str) and value.partition(" [")[0].lower().endswith(_PICTURES)


def _is_seed(name: str) -> bool:
    return name == "seed" or name.endswith("_seed")


def _carries_seed(name: str) -> bool:
    return _is_seed(name) or name == "value"


def _carries_text(name: str) -> bool:
    return name in TEXT_INPUTS or name in ("value", "string")


def _is_text(spot: InputRef) -> bool:
    return spot.input in TEXT_INPUTS


def _is_literal_text(value: object) -> bool:
    return isinstance(value, str)


def _is(spec: InputSpec | None, *kinds: str) -> bool:
    return spec is None or spec.kind in kinds


def _range(spec: InputSpec | None) -> tuple[int, int]:
    low = 0 if spec is None or spec.minimum is None else int(spec.minimum)
    high = UNDECLARED_MAX if spec is None or spec.maximum is None else int(spec.maximum)
    return (max(low, 0) if high >= 0 else low), min(high, JSON_SAFE_MAX)
