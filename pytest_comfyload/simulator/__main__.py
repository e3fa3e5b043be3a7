"""`python -m pytest_comfyload.simulator`: read settings from the command line and serve until stopped."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from pytest_comfyload.errors import UsageError
from pytest_comfyload.simulator.faults import FAULTS, Kind, parse_fault
from pytest_comfyload.simulator.server import serve
from pytest_comfyload.simulator.settings import (
    CACHE_MODES,
    GPU_NAMES,
    PREVIEW_METHODS,
    Calibration,
    SimulatorSettings,
    parse_node_time,
)
from pytest_comfyload.simulator.versions import VERSIONS

__all__ = ["build_parser", "main"]

_DEFAULT = SimulatorSettings()


Calibrate = Callable[[str, str | None], Calibration]
"""Function that returns the times of a stored run, given its name and its store."""


def main(
    arguments: Sequence[str] | None = None,
    program: str = "python -m pytest_comfyload.simulator",
    calibrate: Calibrate | None = None,
) -> int:
    """Serve with the settings from the command line; return the exit status.

    Args:
        arguments: The command line without the program's name; None: that of this process.
        program: The name under which the program was called.
        calibrate: Reads the times of a stored run; with it, the command line has options that name one.
    """
    options = build_parser(program, calibrated=calibrate is not None).parse_args(arguments)
    try:
        stated = dict(parse_node_time(text) for text in options.node_time)
        run = _calibration(options, calibrate).with_times(stated)
        settings = SimulatorSettings(
            gpu=options.gpu,
            devices=options.devices,
            time_scale=options.time_scale,
            seed=options.seed,
            models=_by_folder(options.model),
            stock_models=not options.no_stock_models,
            probe_nodes=options.probe_nodes,
            preview_method=options.preview_method,
            keep_pictures=options.keep_pictures,
            comfyui_version=options.comfyui_version,
            cache=options.cache,
            ram=options.ram,
            strict=options.strict,
            object_info=options.object_info,
            node_times=run.node_times,
            measured=run.prompts,
            gaps=run.gaps,
            custom_nodes=dict(_pack_and_commit(text) for text in options.custom_node),
            faults=dict(parse_fault(text) for text in options.fault),
        )
        serve(settings, options.host, options.port, exit_with_parent=options.exit_with_parent)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def _calibration(options: argparse.Namespace, calibrate: Calibrate | None) -> Calibration:
    """Return the calibration from stdin or from a stored run, or an empty one. Raises: UsageError."""
    if options.calibration_on_stdin:
        return Calibration.from_json(sys.stdin.readline())
    return calibrate(options.calibrate, options.store) if calibrate and options.calibrate else Calibration()


class _HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Help formatter that states an option's default, if it has one; switches and repeatable options have none."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if isinstance(action.default, str | int | float) and action.default != "" and action.nargs != 0:
            return f"{action.help} (default: %(default)s)"
        return action.help


def build_parser(program: str, *, calibrated: bool) -> argparse.ArgumentParser:
    """Return the parser of the simulator's options; `calibrated` adds those for the times of a stored run."""
    parser = argparse.ArgumentParser(
        prog=program,
        description="A ComfyUI-compatible server with a simulated GPU, whose sensors are under /metrics.",
        epilog=_fault_help(),
        formatter_class=_HelpFormatter,
    )
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on")
    add("--port", type=int, default=8188, help="port to listen on; 0: any free port")
    add("--gpu", choices=GPU_NAMES, default=_DEFAULT.gpu, help="GPU model")
    add(
        "--devices",
        type=int,
        default=_DEFAULT.devices,
        help="number of GPUs in /system_stats; prompts run on the first",
    )
    add("--time-scale", type=float, default=_DEFAULT.time_scale, help="virtual seconds per wall second")
    add("--seed", type=int, default=_DEFAULT.seed, help="seed of the noise in the timing model")
    add("--model", action="append", default=[], metavar="FOLDER/FILE", help="additional model file; repeatable")
    add("--no-stock-models", action="store_true", help="offer only the files named by --model")
    add("--probe-nodes", action="store_true", help="add ProbeSleep, ProbeFail and ProbeOOM")
    previews = "preview pictures sent during sampling"
    add("--preview-method", choices=PREVIEW_METHODS, default=_DEFAULT.preview_method, help=previews)
    add(
        "--keep-pictures",
        type=int,
        default=_DEFAULT.keep_pictures,
        help="number of generated pictures that /view keeps",
    )
    add("--comfyui-version", choices=VERSIONS, default=_DEFAULT.comfyui_version, help="version of ComfyUI to imitate")
    add(
        "--cache",
        default=_DEFAULT.cache,
        metavar="MODE",
        help=f"node cache: {', '.join(CACHE_MODES)} (default: that of the version, in 0.33 ram)",
    )
    add("--ram", type=float, default=_DEFAULT.ram, metavar="GIB", help="RAM of the machine, for the ram cache")
    add(
        "--object-info",
        default=_DEFAULT.object_info,
        metavar="FILE",
        help="file with the node classes of a server, as `comfyload record-nodes` prints them",
    )
    add(
        "--node-time",
        action="append",
        default=[],
        metavar="CLASS=SECONDS",
        help="how long a node of a class takes, models loaded; repeatable. Without it, times of classes that the "
        "simulator does not know are guessed",
    )
    add("--strict", action="store_true", help="reject unknown node classes and model files instead of inferring them")
    add(
        "--custom-node",
        action="append",
        default=[],
        metavar="NAME@COMMIT",
        help="custom node that ComfyUI-Manager reports as installed; repeatable",
    )
    add("--fault", action="append", default=[], metavar="NAME[=VALUE]", help="inject a fault, see below; repeatable")
    add("--calibration-on-stdin", action="store_true", help=argparse.SUPPRESS)
    add("--exit-with-parent", action="store_true", help="stop when stdin ends or the parent process is gone")
    if calibrated:
        _add_calibration(parser)
    return parser


def _add_calibration(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--calibrate",
        metavar="RUN",
        help="take the times of prompts and nodes from a stored run (its id, label, commit, latest~3 ...)",
    )
    parser.add_argument("--store", metavar="PATH-or-URL", help="store of RUN (default: the store of this repository)")


def _fault_help() -> str:
    lines = ["faults, with the values they have when only named:"]
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
