"""The Typer app and the one error boundary: every exception becomes an exit code here and nowhere else.

Exit codes: 0 done, 1 a bug, 2 usage or config, 3 artifact or data, 4 environment, 5 numerical, 130 interrupted,
143 terminated.
"""

from __future__ import annotations

import signal
import sys
import traceback
from typing import TYPE_CHECKING, Annotated

import typer

from rgs_cli import console
from rgs_cli.commands import build_bank, data, evaluate, import_, search, show, synthesize, train

if TYPE_CHECKING:
    from pipelines.errors import RgsError

app = typer.Typer(
    name="rgs",
    help="Retrieval-guided image synthesis: from labelled photos to new images, in shell pipelines.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.add_typer(data.app, name="data")
app.command("build-bank")(build_bank.build_bank)
app.add_typer(train.app, name="train")
app.command("search")(search.search)
app.command("synthesize")(synthesize.synthesize)
app.command("eval")(evaluate.evaluate)
app.command("import")(import_.import_)
app.command("show")(show.show)


def _version(value: bool) -> None:
    if value:
        from pipelines.artifact import tool_version

        console.emit(f"rgs {tool_version()}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing on stderr but errors.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the stack trace of an error.")] = False,
) -> None:
    """Retrieval-guided image synthesis: banks of real pieces, and generators that lean on them."""
    console.quiet, console.debug = quiet, debug


def main() -> None:
    """Run the command line; end with a documented exit code. Ctrl-C and usage errors are Typer's: 130 and 2."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        app(prog_name="rgs")
    except Exception as error:
        sys.exit(_explain(error))


def _explain(error: Exception) -> int:
    """Say what happened on stderr and return the exit code."""
    if console.debug:
        traceback.print_exception(error)
    known = _known(error)
    if known is not None:
        console.report(known)
        return known.exit_code
    print(f"this is a bug in rgs: {type(error).__name__}: {error}", file=sys.stderr)
    print("  run it again with `rgs --debug …` for the stack trace, and report it", file=sys.stderr)
    return 1


OUT_OF_MEMORY = (
    "OutOfMemoryError",  # torch's for devices, and in the message of OpenCV's
    "can't allocate memory",  # torch's for the CPU, a mere RuntimeError
    "std::bad_alloc",
    "CUDNN_STATUS_ALLOC_FAILED",
    "can't start new thread",
    "is killed by signal: Killed",  # torch's for a data worker that the system has ended
)
"""What the libraries' own errors say when there is too little memory."""


def _known(error: Exception) -> RgsError | None:
    """The error as one that a user can act on, None for a bug."""
    from pipelines.artifact import disk_faults
    from pipelines.errors import EnvironmentFault, RgsError

    said = str(error)
    if isinstance(error, MemoryError) or any(sign in f"{type(error).__name__}: {said}" for sign in OUT_OF_MEMORY):
        return EnvironmentFault(
            "out of memory",
            where=said.strip().partition("\n")[0] or "this machine",
            fix="use a smaller batch or size (--set train.batch=…, --size …), or fewer --jobs and --threads",
        )
    if isinstance(error, PermissionError):
        return EnvironmentFault("no permission for this file", where=error.filename, fix="change it, or name another")
    try:
        with disk_faults("standard output"):
            raise error
    except RgsError as known:
        return known
    except Exception:
        return None


if __name__ == "__main__":
    main()
