"""Commands that run until they are ended: serve, stdio, demo, simulate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, get_args

import click

from pvemcp.call import Effect
from pvemcp.cli import lean, words

World = Literal["homelab", "cluster", "large"]
CEILING = click.Choice([str(effect) for effect in Effect])


_world = click.option(
    "--world",
    type=click.Choice(get_args(World)),
    default="homelab",
    show_default=True,
    help="1 node and 12 guests; 5 nodes (one down) and 200; 32 nodes and 10,000.",
)


def _port(default: int) -> Callable[[Callable[..., int]], Callable[..., int]]:
    return click.option(
        "--port",
        type=click.IntRange(0, 65535),
        metavar="PORT",
        default=default,
        show_default=True,
        help="0 takes any free one.",
    )


@click.command(short_help="Serve MCP clients over HTTP.")
@click.option("--listen", metavar="HOST:PORT", help="Overrides the setting of that name.")
@click.option("--tls-cert", metavar="FILE", help="Overrides the setting of that name.")
@click.option("--tls-key", metavar="FILE", help="Overrides the setting of that name.")
@click.pass_context
def serve(
    context: click.Context, listen: str | None, tls_cert: str | None, tls_key: str | None
) -> int:
    """Serve MCP clients over HTTP until a signal ends it."""
    settings = words.settings(
        context, files=True, listen=listen, tls_cert=tls_cert, tls_key=tls_key
    )
    code: int = lean.service().serve(settings)
    return code


@click.command(short_help="Serve one MCP client on stdin and stdout.")
@click.option(
    "--ceiling",
    type=CEILING,
    default="read",
    show_default=True,
    help="The most that the client may do.",
)
@click.option(
    "--client",
    metavar="NAME",
    help="Work with the PVE token of that client, instead of the configured one.",
)
@click.pass_context
def stdio(context: click.Context, ceiling: str, client: str | None) -> int:
    """Serve the one MCP client that started this command, on stdin and stdout."""
    settings = words.settings(context, files=True)
    code: int = lean.service().stdio(settings, Effect.parse(ceiling), client)
    return code


@click.command(short_help="Try everything on a simulated Proxmox VE.")
@_world
@_port(8080)
def demo(world: World, port: int) -> int:
    """Try everything on a simulated Proxmox VE: nothing real is touched, no settings are read."""
    from pvemcp import trial  # noqa: PLC0415 - slow to import

    return trial.demo(world, port, words.this_program())


@click.command(short_help="Run only the simulated Proxmox VE API.")
@_world
@_port(8006)
@click.option(
    "--listen",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="Address of this machine; whoever can reach it may work the simulated PVE.",
)
def simulate(world: World, port: int, listen: str) -> int:
    """Run only the simulated Proxmox VE API (HTTPS), for tests of other programs.

    Prints its URL, the fingerprint of its certificate, an API token, and the login of root@pam.
    """
    from pvemcp import trial  # noqa: PLC0415 - slow to import

    return trial.simulate(world, port, listen)
