"""Which PVE token a caller works with: its grant's own, or the configured one."""

from __future__ import annotations

from collections.abc import Sequence

from pvemcp.access.grants import Grant
from pvemcp.call import ApiToken, Effect, Principal
from pvemcp.errors import Misconfigured
from pvemcp.settings import Settings, require_token


def default_token(settings: Settings, grants: Sequence[Grant]) -> ApiToken | None:
    """Return the configured token; None when the grants bring their own.

    A service beyond loopback waits for grants that will. Raises Misconfigured when there is no
    token at all.
    """
    waits = not grants and not settings.loopback_only
    if not settings.pve_token_id and (waits or any(grant.token for grant in grants)):
        return None
    return ApiToken(*require_token(settings))


def local_principal(
    settings: Settings, grants: Sequence[Grant], *, client: str | None, ceiling: Effect
) -> Principal:
    """Return who calls over stdin: the named client, or whoever has the configured token.

    Without a name and without a configured token the only client is meant. A client's own ceiling
    holds too. Raises Misconfigured when nobody, or more than one, could be meant.
    """
    if client is None and settings.pve_token_id:
        return Principal("stdio", ceiling, ApiToken(*require_token(settings)))
    own = {grant.name: grant for grant in grants if grant.token}
    names = [client] if client is not None else list(own)
    if not own:
        require_token(settings)
    if len(names) != 1 or names[0] not in own:
        problem = (
            f"No client is named {client}" if client else "More than one client could be meant"
        )
        raise Misconfigured(
            f"{problem}.", hint=f"Choose one: pvemcp stdio --client {' | '.join(sorted(own))}"
        )
    grant = own[names[0]]
    assert grant.token is not None  # noqa: S101 - chosen so above
    return Principal(grant.name, min(ceiling, grant.ceiling), grant.token, grant=grant.id)
