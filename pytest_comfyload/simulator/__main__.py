"""`python -m pytest_comfyload.simulator`: settings from the command line, then serve until stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator.faults import FAULTS, Kind, parse_fault
from pytest_comfyload.simulator.server import serve
from pytest_comfyload.simulator.settings import GPU_NAMES, PREVIEW_METHODS, Settings

__all__ = ["main"]

_DEFAULT = Settings()


def main(arguments: Sequence[str] | None = None, program: str = "python -m pytest_comfyload.simulator") -> int:
    """Serve as the arguments say; the exit status. `program` is the name under which it was called."""
    options = _parser(program).parse_args(arguments)
    try:
        settings = Settings(
            gpu=options.gpu,
            devices=options.devices,
            time_scale=options.time_scale,
            seed=options.seed,
            models=_by_folder(options.model),
            stock_models=not options.no_stock_models,
            probe_nodes=options.probe_nodes,
            preview_method=options.preview_method,
            keep_pictures=options.keep_pictures,
            custom_nodes=dict(_pack_and_commit(text) for text in options.custom_node),
            faults=dict(parse_fault(text) for text in options.fault),
        )
        serve(settings, options.host, options.port, exit_with_parent=options.exit_with_parent)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """States the default of every option that has one; switches and repeatable options have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, str | int | float) and action.nargs != 0:
            return f"{action.help} (default: %(default)s)"
        return action.help


def _parser(program: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=program,
        description="A ComfyUI-compatible server with a simulated GPU, whose sensors are under /metrics.",
        epilog=_fault_help(),
        formatter_class=_HelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="the address to listen on")
    add("--port", type=int, default=8188, help="0 takes a free one")
    add("--gpu", choices=GPU_NAMES, default=_DEFAULT.gpu, help="the GPU model")
    add("--devices", type=int, default=_DEFAULT.devices, help="GPUs in /system_stats; prompts run on the first")
    add("--time-scale", type=float, default=_DEFAULT.time_scale, help="virtual seconds per wall second")
    add("--seed", type=int, default=_DEFAULT.seed, help="of the noise in the timing model")
    add("--model", action="append", default=[], metavar="FOLDER/FILE", help="one more model file; repeatable")
    add("--no-stock-models", action="store_true", help="offer only the files named by --model")
    add("--probe-nodes", action="store_true", help="add ProbeSleep, ProbeFail and ProbeOOM")
    previews = "preview pictures sent during sampling"
    add("--preview-method", choices=PREVIEW_METHODS, default=_DEFAULT.preview_method, help=previews)
    add("--keep-pictures", type=int, default=_DEFAULT.keep_pictures, help="generated pictures that /view keeps")
    add("--custom-node", action="append", default=[], metavar="NAME@COMMIT", help="told as by Manager; repeatable")
    add("--fault", action="append", default=[], metavar="NAME[=VALUE]", help="see below; repeatable")
    add("--exit-with-parent", action="store_true", help="stop when stdin ends or the parent process is gone")
    return parser


def _fault_help() -> str:
    lines = ["faults, with the values that they have when only named:"]
    for fault in FAULTS.values():
        named = fault.name if fault.kind is Kind.SWITCH else f"{fault.name}={fault.default:g}"
        lines.append(f"  {named:<22}{fault.meaning}")
    return "\n".join(lines)


def _pack_and_commit(text: str) -> tuple[str, str]:
    name, _, commit = text.partition("@")
    return name, commit or "unknown"


def _by_folder(models: Sequence[str]) -> dict[str, list[str]]:
    folders: dict[str, list[str]] = {}
    for model in models:
        folder, _, file = model.partition("/")
        folders.setdefault(folder, []).append(file)
    return folders


if __name__ == "__main__":
    sys.exit(main())
