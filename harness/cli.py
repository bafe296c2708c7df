"""The commands behind `make run`, `make stop`, `make clean` and `make demo`.

python -m harness.cli COMMAND
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence

import typer

from harness.errors import UserError
from harness.stopping import Stopped, stop_on_signals

# Each command imports what it needs: all of it together takes half a second, in which signals
# would not be handled.
app = typer.Typer(
    help=__doc__, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)


@app.command()
def run() -> int:
    """Serves in the foreground until Ctrl-C or `stop`; settings come from the environment."""
    from harness.local import supervisor

    return supervisor.run(os.environ)


@app.command()
def stop() -> int:
    """Stops what `run` started, and waits for its end."""
    from harness.local import supervisor

    return supervisor.stop_running()


@app.command()
def clean() -> int:
    """Deletes data, logs and secrets of `run`; refused while it runs."""
    from harness.local import supervisor

    return supervisor.clean()


@app.command()
def demo(event: str = typer.Argument("", help="An example of deploy/examples: theatre.")) -> None:
    """Buys one ticket at FRONTROW_URL, or at the gateway of `run`, and prints each step; with an
    example imports, publishes and opens it first."""
    from harness import demo, event_demo

    if event:
        event_demo.run(event, os.environ)
    else:
        demo.run(os.environ)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def event(context: typer.Context) -> int:
    """Imports, exports, publishes, cancels or lists events by the admin API: event --help."""
    from harness import event_commands

    status = event_commands.app(context.args, prog_name="frontrow event", standalone_mode=False)
    return status or 0


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
)
def keys(context: typer.Context) -> int:
    """Creates, lists or revokes API keys of the admin API of `run`: keys --help."""
    from harness.local import keys

    return keys.run(context.args, os.environ)


def run_app(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Runs a command line (default: that of this process) and returns its exit status.

    A command returns its own status, or None for 0. UserError, OSError and an argument that the
    command does not take become one sentence on standard error and status 2. Ctrl-C, SIGTERM and
    the end of the terminal request the stop (see `harness.stopping`), which becomes 128 + the
    signal's number.
    """
    with stop_on_signals():
        try:
            return app(arguments, standalone_mode=False) or 0
        except UserError as error:
            _complain(str(error))
        except typer.TyperException as error:
            _complain(f"{error.format_message().rstrip('.')}; --help lists what there is.")
        except PermissionError as error:
            _complain(
                f"No permission for {error.filename}: it probably belongs to another user who ran"
                " this before; make it yours with chown -R, or delete it."
            )
        except OSError as error:
            _complain(f"{error.strerror or error}: {error.filename or 'the disk'}.")
        except Stopped as stopped:
            _complain("Stopped.")
            return stopped.status
    return 2


def _complain(sentence: str) -> None:
    # The terminal may have been closed.
    with contextlib.suppress(OSError):
        print(f"frontrow: {sentence}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(run_app(app))
