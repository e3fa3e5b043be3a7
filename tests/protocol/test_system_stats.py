"""What is installed on a server, as reported by ComfyUI-Manager and newer servers."""

from __future__ import annotations

import pytest
from hypothesis import given

from pytest_comfyload.errors import NotComfyUI
from pytest_comfyload.protocol.system_stats import parse_custom_nodes, parse_model_sizes
from tests.protocol.strategies import ANY_JSON
from tests.protocol.test_bodies import value_or_not_comfyui


@given(ANY_JSON)
def test_no_body_breaks_the_parsers(body: object) -> None:
    for parse in (parse_custom_nodes, parse_model_sizes):
        value_or_not_comfyui(parse, body)


def test_packs_by_commit_or_version() -> None:
    told = {
        "from-git": {"ver": "0123456789abcdef0123456789abcdef01234567", "cnr_id": "", "aux_id": "a/b", "enabled": True},
        "registered": {"ver": "1.4.2", "cnr_id": "registered", "aux_id": None, "enabled": True},
        "strange": {"ver": "unknown", "cnr_id": "", "aux_id": "strange", "enabled": True},
        "off": {"ver": "1.0.0", "cnr_id": "off", "aux_id": None, "enabled": False},
    }
    assert parse_custom_nodes(told) == {"from-git": "0123456", "registered": "1.4.2", "strange": ""}


def test_files_by_size() -> None:
    told = [{"name": "a.safetensors", "pathIndex": 0, "modified": 1.7e9, "size": 340858370}, {"name": "b"}, 3]
    assert parse_model_sizes(told) == {"a.safetensors": 340858370}


def test_another_language() -> None:
    with pytest.raises(NotComfyUI, match="/customnode/installed answered with a list"):
        parse_custom_nodes([])
    with pytest.raises(NotComfyUI, match="/experiment/models answered with an object"):
        parse_model_sizes({})
