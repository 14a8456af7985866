"""The command line: every command, thin. Whatever is slow to import is imported inside them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from pvemcp import __version__
from pvemcp.cli.alert import alert
from pvemcp.cli.approvals import approvals
from pvemcp.cli.audit import audit
from pvemcp.cli.backup import backup
from pvemcp.cli.changes import changes
from pvemcp.cli.check import connect, doctor
from pvemcp.cli.client import client
from pvemcp.cli.elevation import elevation
from pvemcp.cli.firewall import firewall
from pvemcp.cli.freeze import freeze, thaw
from pvemcp.cli.grant import grant
from pvemcp.cli.migrate import migrate
from pvemcp.cli.policy import policy
from pvemcp.cli.restore import restore
from pvemcp.cli.rollback import rollback
from pvemcp.cli.run import demo, serve, simulate, stdio
from pvemcp.cli.sessions import sessions
from pvemcp.cli.setup import setup
from pvemcp.errors import Fault

FAILED = 2
"""Exit code of a command that ended in a Fault."""
INTERRUPTED = 130


@click.group(
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Settings come from a TOML file and PVEMCP_* variables: see the settings reference.",
)
@click.version_option(__version__, "--version", message="pvemcp %(version)s")
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Settings file, instead of PVEMCP_CONFIG or /etc/pvemcp/pvemcp.toml.",
)
@click.pass_context
def commands(context: click.Context, config: Path | None) -> None:
    """The MCP service of a Proxmox VE host."""
    context.obj = config


for command in (serve, stdio, demo, simulate, setup, migrate, client, grant, sessions, alert):
    commands.add_command(command)
for command in (
    approvals,
    changes,
    policy,
    elevation,
    freeze,
    thaw,
    audit,
    backup,
    restore,
    firewall,
    doctor,
    connect,
    rollback,
):
    commands.add_command(command)


def main() -> int:
    """Run a command and return its exit code: 2 for a Fault, which prints without a traceback."""
    try:
        return commands(standalone_mode=False, prog_name="pvemcp") or 0
    except Fault as fault:
        click.echo(f"pvemcp: {fault}", err=True)
        return FAILED
    except click.exceptions.Exit as asked:
        return asked.exit_code
    except click.ClickException as wrong:
        wrong.show()
        return wrong.exit_code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:  # `pvemcp audit | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
