"""The outputs of nodes as servers report them: images, videos, audio, text, and anything else."""

from __future__ import annotations

from typing import Any

from pytest_comfyload.protocol.outputs import OutputFile, output_files, output_texts

VIDEO_COMBINE: dict[str, Any] = {
    "11": {
        "gifs": [
            {
                "filename": "AnimateDiff_00001.mp4",
                "subfolder": "",
                "type": "output",
                "format": "video/h264-mp4",
                "frame_rate": 8.0,
                "workflow": "AnimateDiff_00001.png",
                "fullpath": "/srv/comfyui/output/AnimateDiff_00001.mp4",
            }
        ]
    }
}
SAVE_AUDIO: dict[str, Any] = {
    "13": {"audio": [{"filename": "ComfyUI_00001_.flac", "subfolder": "audio", "type": "output"}]}
}
SAVE_VIDEO: dict[str, Any] = {
    "3": {"images": [{"filename": "v_00001_.mp4", "subfolder": "video", "type": "output"}], "animated": [True]}
}
PREVIEW_ANY: dict[str, Any] = {"3": {"text": ["two lighthouses, at night"]}}
CHART: dict[str, Any] = {"4": {"bg_image": None, "values": [1, 2.5, None], "summary": {"text": "no list"}}}


def test_files_of_every_kind_are_found() -> None:
    assert output_files({**VIDEO_COMBINE, **SAVE_AUDIO}) == (
        OutputFile("11", "gifs", "AnimateDiff_00001.mp4", "", "output"),
        OutputFile("13", "audio", "ComfyUI_00001_.flac", "audio", "output"),
    )
    assert output_files(SAVE_VIDEO) == (OutputFile("3", "images", "v_00001_.mp4", "video", "output"),)


def test_text_is_no_file_and_figures_are_neither() -> None:
    assert output_files(PREVIEW_ANY) == ()
    assert output_texts(PREVIEW_ANY) == ("two lighthouses, at night",)
    assert output_files(CHART) == ()
    assert output_texts(CHART) == ()
