"""Every prompt must be work, not a cache hit: seeds and the positive text change, what the user set stays as set."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.workflow.graph import (
    Graph,
    InputRef,
    downstream,
    link_of,
    literal_spot,
    replaced,
    spots,
    value_at,
)
from pytest_comfyload.workflow.input_values import ChoiceInput, DistributionInput, filled, is_unique
from pytest_comfyload.workflow.must_run import freshened, needed, nodes_of, picture_spots, with_white_space
from pytest_comfyload.workflow.object_info import InputSpec, ObjectInfo, is_whole

__all__ = ["Variation", "text_places", "varied"]

UNDECLARED_MAX = 2**32 - 1
JSON_SAFE_MAX = 2**53  # beyond it JavaScript, and so the editor that opens the picture, loses digits

TEXT_INPUTS = {
    "text", "text_g", "text_l", "clip_g", "clip_l", "t5xxl", "llama", "bert", "mt5xl", "prompt", "user_prompt",
}  # fmt: skip
# What nodes put between the texts that they join.
_JOINTS = {"delimiter", "separator"}


@dataclass(frozen=True, slots=True)
class Variation:
    """One prompt to send: `graph` for POST /prompt, and what is new in it."""

    graph: dict[str, Any]
    fresh: frozenset[str]  # ids of the nodes that must run, since their input is new; see `fresh.py`
    needed: frozenset[str]  # ids of the nodes that an output is made of
    seeds: dict[str, int]  # by `id.input`, where the literal stands
    text: str | None  # as given; None if no text was asked for, or it has no place to go
    inputs: dict[str, Any] = field(default_factory=dict)  # what the user set, by the user's address
    helpless: tuple[str, ...] = ()  # ids of nodes that must run and that nothing new could be fed to
    pictures: dict[str, str] = field(default_factory=dict)  # of which each prompt needs a variant, by `id.input`


def varied(
    graph: Graph,
    kept: Set[InputRef],
    rng: random.Random,
    *,
    text: str | None,
    filename_prefix: str,
    object_info: ObjectInfo,
    settings: Sequence[ChoiceInput | DistributionInput] = (),
    must_run: Sequence[str] = (),
    place: Mapping[str, int] | None = None,
    variants: Mapping[str, Sequence[str]] | None = None,
    text_spots: Sequence[InputRef] | None = None,
    vary_text: bool = True,
) -> Variation:
    """`graph` with fresh seeds from `rng`, `text` as positive prompt and `filename_prefix`; `kept` spots stay.

    `settings` are drawn from `rng` too; `place` fills `{index}`, `{user}` and `{iteration}` in them and in the text.
    Nodes of the classes `must_run` get something new each time, if there is a way; `variants` are those of a picture,
    which prompts take in turn. `text_spots`: where the text goes; None: where it is found that it can. With `vary_text`
    the text is no other prompt's: white space follows one that does not name the seed.
    """
    ranges = _seed_ranges(graph, kept, object_info)
    seeds = {spot: rng.randint(low, high) for spot, (low, high) in ranges.items()}
    fields = {**(place or {}), "seed": next(iter(seeds.values()), rng.getrandbits(32))}
    drawn = {spot: value for setting in settings for spot, value in setting.draw(rng).items()}
    set_values = {spot: filled(value, fields) for spot, value in drawn.items()}
    places = _text_spots(graph, kept, object_info) if text_spots is None else set(text_spots) - kept
    given = None if text is None else filled(text, fields)
    own = given if given is None or is_unique(text) or not vary_text else with_white_space(given, rng)
    texts = {} if own is None else dict.fromkeys(places, own)
    prefixes = dict.fromkeys(_prefix_spots(graph, kept, object_info), filename_prefix)
    new = replaced(graph, {**prefixes, **texts, **seeds, **set_values})
    unique = {*seeds, *(texts if vary_text or is_unique(text) else ())}
    unique |= {spot for setting in settings if setting.unique for spot in setting.spots}
    changing = {spot.node for setting in settings if setting.changes for spot in setting.spots}
    loaded = picture_spots(new, object_info)
    free_texts = _free_texts(new, kept, object_info)
    marks, helpless = freshened(new, must_run, {spot.node for spot in unique}, changing, free_texts, loaded)
    pictures = {spot: value_at(new, spot) for spot in loaded if spot in marks}
    turn = fields.get("index", 0)
    shown = {spot: _in_turn((variants or {}).get(value, (value,)), turn) for spot, value in pictures.items()}
    marked = {spot: with_white_space(value_at(new, spot), rng) for spot in sorted(marks - pictures.keys())}
    roots = {spot.node for spot in (*unique, *marks) if spot.input != "filename_prefix"}
    roots |= {*nodes_of(new, must_run)} - {*helpless}
    return Variation(
        graph=replaced(new, {**shown, **marked}),
        fresh=downstream(new, roots),
        needed=needed(new, object_info),
        seeds={str(spot): seed for spot, seed in seeds.items()},
        text=given if texts else None,
        inputs={setting.address: set_values[next(iter(setting.first))] for setting in settings},
        helpless=helpless,
        pictures={str(spot): picture for spot, picture in pictures.items()},
    )


def _in_turn(values: Sequence[str], turn: int) -> str:
    return values[turn % len(values)]


def _spec(graph: Graph, spot: InputRef, object_info: ObjectInfo) -> InputSpec | None:
    return object_info.spec(graph[spot.node]["class_type"], spot.input)


def _take(kind: str, graph: Graph, inputs: Set[InputRef], object_info: ObjectInfo) -> bool:
    """Whether the server takes a `kind` at all of `inputs`, or does not say."""
    specs = [_spec(graph, spot, object_info) for spot in inputs]
    return all(spec is None or spec.kind == kind for spec in specs)


def _is_seed(name: str) -> bool:
    return name == "seed" or name.endswith("_seed")


def _carries_seed(name: str) -> bool:
    return _is_seed(name) or name == "value"


def _carries_text(name: str) -> bool:
    return name in TEXT_INPUTS or name in ("value", "string")


def _seed_ranges(graph: Graph, kept: Set[InputRef], object_info: ObjectInfo) -> dict[InputRef, tuple[int, int]]:
    """Where seeds stand, with the range that every input fed from there allows."""
    ranges: dict[InputRef, tuple[int, int]] = {}
    for spot, _ in spots(graph):
        source = literal_spot(graph, spot, is_whole, _carries_seed) if _is_seed(spot.input) else None
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


def _prefix_spots(graph: Graph, kept: Set[InputRef], object_info: ObjectInfo) -> list[InputRef]:
    return [
        spot
        for spot, _ in spots(graph)
        if spot.input == "filename_prefix" and spot not in kept and _take("STRING", graph, {spot}, object_info)
    ]


def _text_spots(graph: Graph, kept: Set[InputRef], object_info: ObjectInfo) -> list[InputRef]:
    """Where the positive texts stand that may be changed."""
    return _places(_encoder_inputs(graph), graph, kept, object_info)[0]


def text_places(
    graph: Graph, kept: Set[InputRef], object_info: ObjectInfo
) -> tuple[tuple[InputRef, ...], tuple[InputRef, ...]]:
    """Find where a prompt text goes: the one free text that feeds each encoder of the positive prompt.

    Without such an encoder, it is the text input of whatever node has one.

    Returns:
        The places; and the texts of an encoder that has more than one, among which only the user can choose.
    """
    if encoders := list(_encoder_inputs(graph)):
        found, several = _places(encoders, graph, kept, object_info)
    else:
        found, several = _places((spot for spot, _ in spots(graph) if _is_text(spot)), graph, kept, object_info)
        found, several = (found, several) if len(found) < 2 else ([], found)
    return tuple(found), tuple(several)


def _places(
    inputs: Iterable[InputRef], graph: Graph, kept: Set[InputRef], object_info: ObjectInfo
) -> tuple[list[InputRef], list[InputRef]]:
    found: dict[InputRef, None] = {}
    several: dict[InputRef, None] = {}
    for spot in inputs:
        texts = [] if spot in kept else [each for each in _texts_of(graph, spot, object_info) if each not in kept]
        written = [each for each in texts if value_at(graph, each)] or texts
        (found if len(written) == 1 else several).update(dict.fromkeys(written))
    return list(found), [] if found else list(several)


def _texts_of(graph: Graph, spot: InputRef, object_info: ObjectInfo) -> list[InputRef]:
    """The literal texts that `spot` is made of, through nodes that hold, pass on or join texts."""
    found: list[InputRef] = []
    pending, seen = [spot], set[InputRef]()
    while pending:
        here = pending.pop()
        value = value_at(graph, here)
        source = link_of(value)
        if isinstance(value, str) and _take("STRING", graph, {spot, here}, object_info):
            found.append(here)
        elif source is not None and here not in seen:
            seen.add(here)
            pending += reversed(_text_inputs(graph, source, object_info))
    return found


def _text_inputs(graph: Graph, node_id: str, object_info: ObjectInfo) -> list[InputRef]:
    """The inputs of a node that its text is made of: the one whose name says so, or all that may be."""
    inputs = [InputRef(node_id, name) for name in graph[node_id]["inputs"]]
    inputs = [spot for spot in inputs if _may_carry_text(graph, spot, object_info)]
    named = [spot for spot in inputs if _carries_text(spot.input)]
    return named if len(named) == 1 else inputs


def _may_carry_text(graph: Graph, spot: InputRef, object_info: ObjectInfo) -> bool:
    """A literal with words in it, or none yet; a link may come to an input of any type."""
    spec, value = _spec(graph, spot, object_info), value_at(graph, spot)
    if isinstance(value, str):
        return spot.input not in _JOINTS and (not value or any(map(str.isalnum, value))) and _is(spec, "STRING")
    return link_of(value) is not None and _is(spec, "STRING", "ANY", "*")


def _is(spec: InputSpec | None, *kinds: str) -> bool:
    return spec is None or spec.kind in kinds


def _free_texts(graph: Graph, kept: Set[InputRef], object_info: ObjectInfo) -> list[InputRef]:
    """Every text for an encoder, positive or not, that the user did not set; where its literal stands."""
    sources = [
        (spot, literal_spot(graph, spot, _is_literal_text, _carries_text)) for spot, _ in spots(graph) if _is_text(spot)
    ]
    return [
        source
        for spot, source in sources
        if source and not {spot, source} & kept and _take("STRING", graph, {spot, source}, object_info)
    ]


def _is_literal_text(value: object) -> bool:
    return isinstance(value, str)


def _is_text(spot: InputRef) -> bool:
    return spot.input in TEXT_INPUTS


def _encoder_inputs(graph: Graph) -> Iterator[InputRef]:
    """The text inputs of the first encoders upstream of what samplers take as positive."""
    pending = [spot for spot, _ in spots(graph) if _is_positive(graph, spot)]
    seen: set[str] = set()
    while pending:
        spot = pending.pop()
        node_id = link_of(value_at(graph, spot))
        if node_id is None or node_id in seen:
            continue
        seen.add(node_id)
        texts = [InputRef(node_id, name) for name in graph[node_id]["inputs"] if name in TEXT_INPUTS]
        yield from texts
        pending += [] if texts else _conditioning_inputs(graph, node_id)


def _is_positive(graph: Graph, spot: InputRef) -> bool:
    """A guider without a negative side calls its positive `conditioning`, or `cond1` and `cond2`."""
    is_guider = "Guider" in graph[spot.node]["class_type"]
    return spot.input == "positive" or (is_guider and spot.input.startswith("cond"))


def _conditioning_inputs(graph: Graph, node_id: str) -> list[InputRef]:
    """The way on through a node that passes a conditioning along: ControlNet, guidance, combine, reroute."""
    linked = [name for name, value in graph[node_id]["inputs"].items() if link_of(value) is not None]
    names = [name for name in linked if name != "negative"]
    named = [name for name in names if name == "positive"] or [name for name in names if "cond" in name]
    return [InputRef(node_id, name) for name in named or names]
