"""Every prompt must be work, not a cache hit: seeds and the positive text change, what the user set stays as set."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.scenario.draws import Setting, filled, is_unique
from pytest_comfyload.scenario.fresh import freshened, picture_spots, white_space
from pytest_comfyload.scenario.graph import Graph, Spot, link_of, literal_spot, replaced, spots, value_at
from pytest_comfyload.scenario.specs import InputSpec, spec_of
from pytest_comfyload.scenario.spread import Spread

__all__ = ["Variation", "varied"]

UNDECLARED_MAX = 2**32 - 1
JSON_SAFE_MAX = 2**53  # beyond it JavaScript, and so the editor that opens the picture, loses digits

TEXT_INPUTS = {
    "text", "text_g", "text_l", "clip_g", "clip_l", "t5xxl", "llama", "bert", "mt5xl", "prompt", "user_prompt",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Variation:
    """One prompt to send: `graph` for POST /prompt, and what is new in it."""

    graph: dict[str, Any]
    varied: frozenset[str]  # ids of the nodes that got a new seed, text or picture
    seeds: dict[str, int]  # by `id.input`, where the literal stands
    text: str | None  # None if no text was asked for, or it has no place to go
    inputs: dict[str, Any] = field(default_factory=dict)  # what the user set, by the user's address
    helpless: tuple[str, ...] = ()  # ids of nodes that must run and that nothing new could be fed to
    pictures: dict[str, str] = field(default_factory=dict)  # of which each prompt needs a variant, by `id.input`


def varied(
    graph: Graph,
    kept: Set[Spot],
    rng: random.Random,
    *,
    text: str | None,
    filename_prefix: str,
    object_info: Mapping[str, Any] | None,
    settings: Sequence[Setting | Spread] = (),
    must_run: Sequence[str] = (),
    place: Mapping[str, int] | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
) -> Variation:
    """`graph` with fresh seeds from `rng`, `text` as positive prompt and `filename_prefix`; `kept` spots stay.

    `settings` are drawn from `rng` too; `place` fills `{index}`, `{user}` and `{iteration}` in them and in the text.
    Nodes of the classes `must_run` get something new each time, if there is a way; `variants` are those of a picture,
    which prompts take in turn.
    """
    ranges = _seed_ranges(graph, kept, object_info)
    seeds = {spot: rng.randint(low, high) for spot, (low, high) in ranges.items()}
    fields = {**(place or {}), "seed": next(iter(seeds.values()), rng.getrandbits(32))}
    drawn = {spot: value for setting in settings for spot, value in setting.draw(rng).items()}
    set_values = {spot: filled(value, fields) for spot, value in drawn.items()}
    texts = {} if text is None else dict.fromkeys(_text_spots(graph, kept, object_info), filled(text, fields))
    prefixes = dict.fromkeys(_prefix_spots(graph, kept, object_info), filename_prefix)
    new = replaced(graph, {**prefixes, **texts, **seeds, **set_values})
    unique = {spot.node for spot in (*seeds, *(texts if is_unique(text) else ()))}
    unique |= {spot.node for setting in settings if setting.unique for spot in setting.spots}
    changing = {spot.node for setting in settings if setting.changes for spot in setting.spots}
    loaded = picture_spots(new, object_info)
    marks, helpless = freshened(new, must_run, unique, changing, _free_texts(new, kept, object_info), loaded)
    pictures = {spot: value_at(new, spot) for spot in loaded if spot in marks}
    turn = fields.get("index", 0)
    shown = {spot: _in_turn((variants or {}).get(value, (value,)), turn) for spot, value in pictures.items()}
    marked = {spot: value_at(new, spot) + white_space(rng) for spot in sorted(marks - pictures.keys())}
    return Variation(
        graph=replaced(new, {**shown, **marked}),
        varied=frozenset(spot.node for spot in (*seeds, *texts, *pictures)),
        seeds={str(spot): seed for spot, seed in seeds.items()},
        text=filled(text, fields) if texts else None,
        inputs={setting.address: set_values[next(iter(setting.first))] for setting in settings},
        helpless=helpless,
        pictures={str(spot): picture for spot, picture in pictures.items()},
    )


def _in_turn(values: Sequence[str], turn: int) -> str:
    return values[turn % len(values)]


def _spec(graph: Graph, spot: Spot, object_info: Mapping[str, Any] | None) -> InputSpec | None:
    return spec_of(object_info, graph[spot.node]["class_type"], spot.input)


def _take(kind: str, graph: Graph, inputs: Set[Spot], object_info: Mapping[str, Any] | None) -> bool:
    """Whether the server takes a `kind` at all of `inputs`, or does not say."""
    specs = [_spec(graph, spot, object_info) for spot in inputs]
    return all(spec is None or spec.kind == kind for spec in specs)


def _is_seed(name: str) -> bool:
    return name == "seed" or name.endswith("_seed")


def _carries_seed(name: str) -> bool:
    return _is_seed(name) or name == "value"


def _carries_text(name: str) -> bool:
    return name in TEXT_INPUTS or name in ("value", "string")


def _seed_ranges(graph: Graph, kept: Set[Spot], object_info: Mapping[str, Any] | None) -> dict[Spot, tuple[int, int]]:
    """Where seeds stand, with the range that every input fed from there allows."""
    ranges: dict[Spot, tuple[int, int]] = {}
    for spot, _ in spots(graph):
        source = literal_spot(graph, spot, int, _carries_seed) if _is_seed(spot.input) else None
        if source is None or {spot, source} & kept or not _take("INT", graph, {spot, source}, object_info):
            continue
        allowed = [_range(_spec(graph, each, object_info)) for each in (spot, source)]
        allowed += [ranges[source]] if source in ranges else []
        ranges[source] = max(low for low, _ in allowed), min(high for _, high in allowed)
    return {spot: (low, high) for spot, (low, high) in ranges.items() if low <= high}


def _range(spec: InputSpec | None) -> tuple[int, int]:
    low = 0 if spec is None or spec.minimum is None else int(spec.minimum)
    high = UNDECLARED_MAX if spec is None or spec.maximum is None else int(spec.maximum)
    return (max(low, 0) if high >= 0 else low), min(high, JSON_SAFE_MAX)


def _prefix_spots(graph: Graph, kept: Set[Spot], object_info: Mapping[str, Any] | None) -> list[Spot]:
    return [
        spot
        for spot, _ in spots(graph)
        if spot.input == "filename_prefix" and spot not in kept and _take("STRING", graph, {spot}, object_info)
    ]


def _text_spots(graph: Graph, kept: Set[Spot], object_info: Mapping[str, Any] | None) -> list[Spot]:
    """Where the positive texts stand that may be changed."""
    found: dict[Spot, None] = {}
    for spot in _encoder_inputs(graph):
        source = literal_spot(graph, spot, str, _carries_text)
        if source and not {spot, source} & kept and _take("STRING", graph, {spot, source}, object_info):
            found[source] = None
    return list(found)


def _free_texts(graph: Graph, kept: Set[Spot], object_info: Mapping[str, Any] | None) -> list[Spot]:
    """Every text for an encoder, positive or not, that the user did not set; where its literal stands."""
    sources = [(spot, literal_spot(graph, spot, str, _carries_text)) for spot, _ in spots(graph) if _is_text(spot)]
    return [
        source
        for spot, source in sources
        if source and not {spot, source} & kept and _take("STRING", graph, {spot, source}, object_info)
    ]


def _is_text(spot: Spot) -> bool:
    return spot.input in TEXT_INPUTS


def _encoder_inputs(graph: Graph) -> Iterator[Spot]:
    """The text inputs of the first encoders upstream of what samplers take as positive."""
    pending = [spot for spot, _ in spots(graph) if _is_positive(graph, spot)]
    seen: set[str] = set()
    while pending:
        spot = pending.pop()
        node_id = link_of(value_at(graph, spot))
        if node_id is None or node_id in seen:
            continue
        seen.add(node_id)
        texts = [Spot(node_id, name) for name in graph[node_id]["inputs"] if name in TEXT_INPUTS]
        yield from texts
        pending += [] if texts else _conditioning_inputs(graph, node_id)


def _is_positive(graph: Graph, spot: Spot) -> bool:
    """A guider without a negative side calls its positive `conditioning`, or `cond1` and `cond2`."""
    is_guider = "Guider" in graph[spot.node]["class_type"]
    return spot.input == "positive" or (is_guider and spot.input.startswith("cond"))


def _conditioning_inputs(graph: Graph, node_id: str) -> list[Spot]:
    """The way on through a node that passes a conditioning along: ControlNet, guidance, combine, reroute."""
    linked = [name for name, value in graph[node_id]["inputs"].items() if link_of(value) is not None]
    names = [name for name in linked if name != "negative"]
    named = [name for name in names if name == "positive"] or [name for name in names if "cond" in name]
    return [Spot(node_id, name) for name in named or names]
