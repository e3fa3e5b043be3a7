"""Templates of prompts: what all prompts of a workflow share is determined once, each prompt fills in the rest.

Every prompt must cause work instead of a cache hit: seeds and the positive text change; inputs set by the user do not.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

from pytest_comfyload.workflow.graph import InputRef, NodeGraph, link_of, replaced
from pytest_comfyload.workflow.input_values import ChoiceInput, DistributionInput, filled, is_unique
from pytest_comfyload.workflow.must_run import NewWork, new_work, with_white_space
from pytest_comfyload.workflow.slots import Slots, names_picture

__all__ = ["DrawnPrompt", "PromptTemplate"]

# A workflow that draws links has one form per combination of links.
_MOST_FORMS = 256


@dataclass(frozen=True, slots=True)
class DrawnPrompt:
    """One prompt to send: `graph` and `extra_data` for POST /prompt, and what is new in it.

    Args:
        fresh: Ids of the nodes that must run, since their input is new; see `must_run.py`.
        needed: Ids of the nodes that an output depends on.
        seeds: The seeds, by the `id.input` that contains the literal.
        text: The text as given; None if there was none, or the graph has no input for it.
        inputs: The values of the inputs that the user set, by the user's address.
        unsatisfied: Ids of nodes that must run but could not be given new input.
        pictures: The pictures of which each prompt needs a variant, by `id.input`.
    """

    workflow: str
    graph: Mapping[str, Any]
    fresh: frozenset[str]
    needed: frozenset[str]
    seeds: Mapping[str, int]
    text: str | None
    inputs: Mapping[str, Any]
    extra_data: Mapping[str, Any] = field(repr=False)
    unsatisfied: tuple[str, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict)


class PromptTemplate:
    """A graph whose seeds, texts, output names and drawn inputs are filled in for each prompt.

    Args:
        name: The workflow's name.
        nodes: The graph, with the first value of each setting.
        kept: The inputs that the user set; only `settings` change them.
        settings: The inputs that each prompt draws.
        must_run: Classes whose nodes get new input in each prompt, if possible.
        variants: The variants that prompts use in turn, by picture.
        extra_data: Data sent with each prompt.
        text_spots: The inputs for texts; None to detect them.
    """

    def __init__(
        self,
        name: str,
        nodes: NodeGraph,
        *,
        kept: Set[InputRef],
        settings: Sequence[ChoiceInput | DistributionInput],
        must_run: Sequence[str],
        variants: Mapping[str, Sequence[str]],
        extra_data: Mapping[str, Any],
        text_spots: Sequence[InputRef] | None,
    ) -> None:
        slots = Slots(nodes, kept)
        self._name, self._extra_data = name, extra_data
        self._nodes, self._kept = nodes, kept
        self._must_run, self._variants = must_run, variants
        self._settings = settings
        self._shown = {setting.address: next(iter(setting.spots)) for setting in settings}
        self._unique = frozenset(spot for setting in settings if setting.unique for spot in setting.spots)
        self._changing = frozenset(spot.node for setting in settings if setting.changes for spot in setting.spots)
        self._seed_ranges = slots.seed_ranges()
        self._prefixes = slots.filename_prefixes()
        self._texts = slots.positive_texts() if text_spots is None else set(text_spots) - kept
        self._works: dict[tuple[object, ...], NewWork] = {}

    def draw(
        self,
        rng: random.Random,
        *,
        text: str | None,
        filename_prefix: str,
        place: Mapping[str, int] | None = None,
        vary_text: bool = True,
    ) -> DrawnPrompt:
        """Draw the next prompt. Random values come from `rng` in a fixed order, so that a seed repeats a run.

        Args:
            text: The positive prompt.
            filename_prefix: Where outputs are saved.
            place: The prompt's `index`, `user` and `iteration`, for texts that contain these fields.
            vary_text: Make the text unique to the prompt, by trailing white space unless it contains the seed.
        """
        seeds = {spot: rng.randint(low, high) for spot, (low, high) in self._seed_ranges.items()}
        fields = {**(place or {}), "seed": next(iter(seeds.values()), rng.getrandbits(32))}
        drawn = {spot: value for setting in self._settings for spot, value in setting.draw(rng).items()}
        given = None if text is None else filled(text, fields)
        is_new = vary_text or is_unique(text)
        own = with_white_space(given, rng) if given is not None and vary_text and not is_unique(text) else given
        texts = {} if own is None else dict.fromkeys(self._texts, own)
        values: dict[InputRef, Any] = {**dict.fromkeys(self._prefixes, filename_prefix), **texts, **seeds}
        values |= {spot: filled(value, fields) for spot, value in drawn.items()}
        work = self._work_of(values, texts.keys() if is_new else frozenset())
        inputs = {address: values[spot] for address, spot in self._shown.items()}
        pictures = {spot: self._value(values, spot) for spot in work.pictures}
        values |= {spot: self._variant(picture, fields.get("index", 0)) for spot, picture in pictures.items()}
        values |= {spot: with_white_space(self._value(values, spot), rng) for spot in work.marked}
        return DrawnPrompt(
            workflow=self._name,
            graph=replaced(self._nodes.graph, values),
            fresh=work.fresh,
            needed=work.needed,
            seeds={str(spot): seed for spot, seed in seeds.items()},
            text=given if texts else None,
            inputs=inputs,
            extra_data=self._extra_data,
            unsatisfied=work.unsatisfied,
            pictures={str(spot): picture for spot, picture in pictures.items()},
        )

    def _work_of(self, values: Mapping[InputRef, Any], new_texts: Set[InputRef]) -> NewWork:
        """Return the work of a prompt, cached by the forms of its values, on which alone it depends."""
        form = (bool(new_texts), *map(_form, values.values()))
        if form not in self._works:
            if len(self._works) >= _MOST_FORMS:
                self._works.clear()
            nodes = NodeGraph(replaced(self._nodes.graph, values), self._nodes.object_info)
            unique = {*self._seed_ranges, *new_texts, *self._unique}
            self._works[form] = new_work(Slots(nodes, self._kept), self._must_run, unique, self._changing)
        return self._works[form]

    def _value(self, values: Mapping[InputRef, Any], spot: InputRef) -> Any:
        return values[spot] if spot in values else self._nodes.value(spot)

    def _variant(self, picture: str, turn: int) -> str:
        variants = self._variants.get(picture, (picture,))
        return variants[turn % len(variants)]


def _form(value: object) -> object:
    """Return the form of a value: the node that it links to or, for a text, whether it names a picture."""
    return names_picture(value) if isinstance(value, str) else link_of(value)
