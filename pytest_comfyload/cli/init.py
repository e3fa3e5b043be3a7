"""`comfyload init`: write a first suite with realistic bounds, and what is needed to run it here and in CI."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from pytest_comfyload.cli.loads import RunKeeper, interruptible
from pytest_comfyload.cli.options import HeaderFiles, addresses, only
from pytest_comfyload.cli.output import echo
from pytest_comfyload.errors import UsageError
from pytest_comfyload.history.location import project_of, shown_from

if TYPE_CHECKING:
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.result.load_result import LoadResult
    from pytest_comfyload.scenario.scenario import Scenario
    from pytest_comfyload.starter.measurement import Measurement
    from pytest_comfyload.starter.suite import CiSystem, WrittenFile
    from pytest_comfyload.starter.survey import StarterWorkflow

__all__ = ["init"]


class CiName(StrEnum):
    GITHUB = "github"
    GITLAB = "gitlab"
    JENKINS = "jenkins"
    NONE = "none"


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The project that gets a folder load_tests.")] = Path(),
    url: Annotated[
        str | None,
        typer.Option("--comfyui-url", envvar="COMFYUI_URL", metavar="URL", help="The server to measure on."),
    ] = None,
    header_files: HeaderFiles = None,
    simulate: Annotated[
        bool, typer.Option("--simulate", help="Measure on the embedded simulator; the default without a server.")
    ] = False,
    workflow: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Your workflow, exported in API format. Default: a shipped one."),
    ] = None,
    ci: Annotated[
        CiName | None, typer.Option(help="The CI file to write. Default: as the project's files say.")
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Ask no question; without a terminal none is asked.")
    ] = False,
) -> None:
    """Write a first suite of load tests with bounds from a short measurement, a pytest.ini, and a CI file.

    The measurement is one prompt and then, if they take less than a minute, up to ten. No file of yours is overwritten.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(f"{folder} is a file; give the folder of your project")
    if simulate and url:
        raise UsageError("--simulate and --comfyui-url contradict each other; give one")
    dialog = _Dialog(asking=sys.stdin.isatty() and not yes)
    here = folder.absolute()
    plan = _Plan(here, project_of(here, here), dialog)
    with interruptible("nothing is written"):
        plan.carry_out(url or ("" if simulate else dialog.url()), header_files or [], workflow, ci)


@dataclass(frozen=True, slots=True)
class _Dialog:
    """Questions to the user at a terminal; without one, every answer is the default."""

    asking: bool

    def url(self) -> str:
        return self._answer("ComfyUI server, such as http://127.0.0.1:8188 (empty: the simulator)", "")

    def workflow(self) -> Path | None:
        answer = self._answer("Your workflow, exported in API format (empty: a shipped one)", "")
        return Path(answer).expanduser() if answer else None

    def ci(self, default: str) -> str:
        if not self.asking:
            return default
        from pytest_comfyload.starter.suite import CI_SYSTEMS

        while (answer := self._answer(f"CI file ({', '.join(CI_SYSTEMS)})", default)) not in CI_SYSTEMS:
            echo(f"{answer!r} is not one of {', '.join(CI_SYSTEMS)}", err=True)
        return answer

    def agreed(self, outlook: str) -> bool:
        echo(f"comfyload: {outlook}", err=True)
        return not self.asking or typer.confirm("Measure them?", default=True, err=True)

    def _answer(self, question: str, default: str) -> str:
        if not self.asking:
            return default
        return str(typer.prompt(question, default=default, show_default=bool(default), err=True)).strip()


@dataclass(frozen=True, slots=True)
class _Plan:
    """The work to do. `folder` gets the suite; `project` is the top of its repository."""

    folder: Path
    project: Path
    dialog: _Dialog

    def carry_out(self, url: str, header_files: list[str], workflow: Path | None, ci: CiName | None) -> None:
        """Measure and write the suite unless it exists, and the files around it. Raises: UsageError, ServerError."""
        from pytest_comfyload.starter.suite import SUITE, write

        suite = self.folder / SUITE
        written: list[WrittenFile] = []
        tests = sorted(suite.glob("test_*.py"))
        address = only(addresses([url], header_files)) if url else None
        if tests:
            echo(f"{self._shown(tests[0])} already exists: nothing is measured, and the suite is left as it is")
        else:
            files = self._measured_suite(address, workflow)
            written += write(files, suite)
        written += self._surroundings(suite, ci, simulated=address is None)
        self._tell(written, suite, address)

    def _measured_suite(self, address: ServerAddress | None, path: Path | None) -> dict[str, str]:
        """Return the files of a suite, with bounds from a new measurement."""
        from pytest_comfyload.starter.suite import suite_files
        from pytest_comfyload.starter.survey import own_workflow, shipped_workflow, survey

        path = path or self.dialog.workflow()
        own = None if path is None else own_workflow(path)
        with _served(address) as server:
            found = survey(server)
            echo(f"comfyload: {server.url if address else 'embedded simulator'}: {found.sentence()}", err=True)
            workflow = own or shipped_workflow(found.checkpoints)
            measured = self._measured(workflow, server, private=address is None)
        return suite_files(workflow, measured, found, _written_url(address), datetime.date.today())

    def _measured(self, workflow: StarterWorkflow, server: ServerAddress, *, private: bool) -> Measurement:
        from pytest_comfyload.run.load_run import LoadRun, run_load
        from pytest_comfyload.run.observer import ProgressPrinter
        from pytest_comfyload.starter.measurement import measure

        with RunKeeper.begin("none") as keeping:

            def named(scenario: Scenario) -> str:
                return str(scenario).replace(str(workflow.path or workflow.source), workflow.source)

            def run(scenario: Scenario) -> LoadResult:
                return run_load(
                    LoadRun(
                        servers=(server,),
                        scenario=scenario,
                        title="init",
                        files=self.folder,
                        store=keeping.root,
                        told=keeping.header(),
                        observer=ProgressPrinter("init", named(scenario), (1, 1), lambda line: echo(line, err=True)),
                        private=private,
                        keep_pictures=False,
                    )
                )

            echo("comfyload: measuring one prompt, and one before it that loads the models", err=True)
            return measure(workflow, run, self.dialog.agreed)

    def _surroundings(self, suite: Path, ci: CiName | None, *, simulated: bool) -> Iterator[WrittenFile]:
        """Write the files that the suite needs elsewhere in the project."""
        from pytest_comfyload.history.git import Git
        from pytest_comfyload.starter.suite import ci_files, ci_of, ignore_store, write

        remote = Git(self.project, by_folder=True).ask("remote", "get-url", "origin")
        system = ci.value if ci is not None else self.dialog.ci(ci_of(self.project, remote))
        relative = suite.relative_to(self.project).as_posix()
        yield from write(ci_files(cast("CiSystem", system), relative, simulated=simulated), self.project)
        yield from ignore_store(self.project)

    def _tell(self, written: Iterable[WrittenFile], suite: Path, address: ServerAddress | None) -> None:
        for each in written:
            beside = f"; ours is in {each.path.name}.new: compare them" if each.state == "kept" else ""
            echo(f"{each.state}: {self._shown(each.path)}{beside}")
        if address is not None and _written_url(address) is None:
            echo(f"the server's credentials are written nowhere: set COMFYUI_URL or COMFYUI_HEADERS for {address.url}")
        echo(f"next: pytest {self._shown(suite)}")

    def _shown(self, path: Path) -> str:
        return shown_from(str(path), Path.cwd())


@contextmanager
def _served(address: ServerAddress | None) -> Iterator[ServerAddress]:
    """Yield the server, or without one a simulator with the settings that pytest uses for the suite."""
    from pytest_comfyload.client.address import ServerAddress
    from pytest_comfyload.launch.simulator import SimulatorProcess
    from pytest_comfyload.starter.suite import SIMULATED_TIME_SCALE

    if address is not None:
        yield address
        return
    with SimulatorProcess(time_scale=SIMULATED_TIME_SCALE) as simulator:
        yield ServerAddress.parse(simulator.url)


def _written_url(address: ServerAddress | None) -> str | None:
    """Return the URL to write to pytest.ini; None if the server needs credentials as well, which are not written."""
    return None if address is None or address.headers or address.query else address.url
