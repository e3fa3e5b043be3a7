"""Making each prompt's text unique adds no tokens in the real CLIP and T5 tokenizers, and few in Llama's."""

from __future__ import annotations

import json
import os
import random
import subprocess
from typing import Any

from pytest_comfyload.launch import ComfyInstall
from pytest_comfyload.workflow.must_run import with_white_space
from pytest_comfyload.workflow.texts import DEFAULT_TEXTS

COUNTING = """
import json, os, sys
root = os.getcwd()
sys.path.insert(0, root)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import comfy.sd1_clip
from transformers import LlamaTokenizerFast, T5TokenizerFast
folder = os.path.join(root, "comfy", "text_encoders")
clip = comfy.sd1_clip.SDTokenizer()
t5 = T5TokenizerFast.from_pretrained(os.path.join(folder, "t5_tokenizer"))
llama = LlamaTokenizerFast.from_pretrained(os.path.join(folder, "llama_tokenizer"))
ends = (clip.start_token, clip.end_token)

def counts(text):
    chunks = clip.tokenize_with_weights(text)
    tokens = [token for chunk in chunks for token, _ in chunk if token not in ends]
    models = {"t5": len(t5(text).input_ids), "llama": len(llama(text).input_ids)}
    return {"chunks": len(chunks), "clip": len(tokens), **models}

print(json.dumps([counts(text) for text in json.load(sys.stdin)]))
"""


def counted(install: ComfyInstall, texts: list[str]) -> list[dict[str, int]]:
    done = subprocess.run(
        [install.python, "-c", COUNTING],
        cwd=install.main.parent,
        env={**os.environ, **install.env},
        input=json.dumps(texts),
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    counts: list[dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return counts


def test_a_text_of_its_own_has_the_same_tokens(real_comfyui_install: ComfyInstall) -> None:
    full = " ".join(["cat"] * 75)  # as many as fit in one chunk
    texts = [*DEFAULT_TEXTS, "(masterpiece:1.2), a cat, (blurry:0.8)", "cat", full]
    rng = random.Random(1)
    marked = [with_white_space(text, rng) for text in texts for _ in range(20)]
    counts = counted(real_comfyui_install, [*texts, *marked])
    plain, own = counts[: len(texts)], counts[len(texts) :]
    assert plain[-1]["clip"] == 75
    for place, count in enumerate(own):
        given = plain[place // 20]
        assert {name: count[name] for name in ("chunks", "clip", "t5")} == {
            name: given[name] for name in ("chunks", "clip", "t5")
        }
        assert 0 < count["llama"] - given["llama"] <= 9
