"""`optimum-cli export fgr-edge`: the same as `fgr-edge export`, for those whose hands know optimum.

The wheel has this file as `optimum/commands/register/register_fgr_edge.py`: there optimum looks for sub-commands of
other distributions, and reads `REGISTER_COMMANDS`. The options are those of `fgr-edge export`, passed on as given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand


class _PassOn(argparse.Action):
    """Collects an option and its value in `namespace.passed`, for `fgr-edge export` to read."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        value = [values] if isinstance(values, str) else []
        setattr(namespace, self.dest, [*(getattr(namespace, self.dest) or []), option_string, *value])


class FgrEdgeExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # optimum has no types
    """Model and output as in optimum's other exports, then `fgr-edge export`."""

    COMMAND = CommandInfo(
        name="fgr-edge", help="Export to a bundle for fgr-edge's runtime, proved against the original."
    )

    @staticmethod
    def parse_args(parser: argparse.ArgumentParser) -> None:
        """Optimum's two arguments, and the options of `fgr-edge export`."""
        from typer.main import get_command

        from fgr_edge.cli.root import app  # with its verbs: the package imports them

        parser.add_argument("-m", "--model", required=True, help="Checkpoint folder, or a hub id owner/name.")
        parser.add_argument("output", help="Folder of the bundle.")
        verbs: Any = get_command(app)
        for option in verbs.commands["export"].params:
            if option.param_type_name != "option" or option.name == "output":
                continue
            for names in filter(None, (option.opts, option.secondary_opts)):
                takes = {"nargs": 0} if option.is_flag else {"metavar": option.name.upper()}
                parser.add_argument(
                    *names, action=_PassOn, dest="passed", help=(option.help or "").replace("%", "%%"), **takes
                )

    def run(self) -> None:
        """Export, as the command `fgr-edge` does; a known failure is one line and exit code 1."""
        from fgr_edge.cli.root import main

        given = self.args
        sys.argv = ["fgr-edge", "export", *(given.passed or []), "--output", given.output, "--", given.model]
        main()


REGISTER_COMMANDS = [(FgrEdgeExportCommand, ExportCommand)]
