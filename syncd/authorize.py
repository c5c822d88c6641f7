"""`syncd authorize`: a person grants a destination's credential in a browser (OAuth 2.0).

    page → browser → callback (or pasted) → code → credential → whose account → pinned, sealed

Nothing is kept before the account has told who it is, and is the one this destination fills.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from syncd import account, log, meter
from syncd.assemble import Held, limits_of, options_of
from syncd.callback import Attempt
from syncd.control import Destination
from syncd.credential import parse
from syncd.errors import ConfigError, Refused, Transient
from syncd.providers import Authorizes, Credential, Grant, Owner, Provider, TellsOwner, provider
from syncd.secrets import account_key
from syncd.wire import HttpWire

if TYPE_CHECKING:
    from syncd.app import App

Come = Callable[[Attempt, str], Awaitable[str]]
"""How the code comes: given the attempt and its page, which it shows; raises what `code` does."""


class Granted(NamedTuple):
    """What was sealed, and for whom."""

    destination: str
    secret: str
    account: str
    name: str


class Application(NamedTuple):
    """The keys of an application, as its provider's model, and as they lie in the secret."""

    model: Credential
    kept: Mapping[str, Any]


class Asked(NamedTuple):
    """One destination that a credential is to be granted for."""

    destination: Destination
    kind: type[Provider]
    options: Any
    application: Application


async def asked(app: App, name: str, secret: str | None) -> Asked:
    """What has to be known before a browser is opened; ConfigError naming what is missing.

    secret: where the application's keys are; None: in the destination's own secret.
    """
    [destination] = await app.destinations([name])
    kind = provider(destination.provider)
    if not isinstance(kind, Authorizes):
        raise ConfigError(
            f"{destination.provider} grants no credential in a browser: put it into the secret"
            f" with `syncd secret set {destination.credential}`"
        )
    options = options_of(destination, kind)
    app.secrets.check_sealable(destination.credential)
    application = await _application(app, kind, secret or destination.credential)
    if secret not in (None, destination.credential):
        application = application._replace(kept={})
    return Asked(destination, kind, options, application)


async def _application(app: App, kind: Any, name: str) -> Application:
    """The application's keys, whatever else of the credential lies beside them."""
    wanted, known = kind.application_model, kind.credential_model.model_fields
    try:
        given = orjson.loads(await app.secrets.get(name))
    except orjson.JSONDecodeError:
        given = None
    if not isinstance(given, dict):
        raise ConfigError(f"secret {name!r}: is not a JSON object; {_keys(name, wanted)}")
    beside = {key: value for key, value in given.items() if key not in wanted.model_fields}
    keys = {key: value for key, value in given.items() if key in wanted.model_fields}
    model, faults = parse(orjson.dumps(keys).decode(), wanted)
    if model is None:
        raise ConfigError(*(f"secret {name!r}: {one}; {_keys(name, wanted)}" for one in faults))
    if set(beside) - set(known):
        raise ConfigError(f"secret {name!r}: holds a key that is not known; {_keys(name, wanted)}")
    return Application(model, keys)


def _keys(name: str, wanted: type[Credential]) -> str:
    needed = [key for key, field in wanted.model_fields.items() if field.is_required()]
    return f"`syncd secret set {name}` with {', '.join(needed)} of your application"


async def authorize(app: App, wish: Asked, redirect_uri: str, come: Come) -> Granted:
    """One attempt, from the page to the sealed credential.

    Raises Refused (no code, no credential), OtherAccount, ConfigError, or what the wire does.
    """
    attempt = Attempt()
    kind: Any = wish.kind
    grant = kind.grant(wish.options, wish.application.model, redirect_uri, attempt.state)
    code = await come(attempt, grant.page)
    log.hide(code)
    held = Held(wish.application.model, "")
    async with _wire(app, wish, held) as wire:
        value = {**wish.application.kept, **await _redeemed(wire, wish, grant, code)}
        text = orjson.dumps(value).decode()
        held.value, faults = parse(text, wish.kind.credential_model)
        if held.value is None:
            raise Refused(f"what was granted is no credential: {'; '.join(faults)}")
        owner = await _owner(wish, wire)
    return await _kept(app, wish, owner, text)


@asynccontextmanager
async def _wire(app: App, wish: Asked, held: Held) -> AsyncIterator[HttpWire]:
    """Metered on its own: whose account it will be is not known yet."""
    scope = meter.scope_key(
        wish.kind.name, f"authorize {wish.destination.id}", account_key(app.environ)
    )
    timeout = app.settings.request_timeout_seconds
    limits = limits_of(wish.destination, wish.kind, wish.options)
    permits = meter.Meters(app.pool, scope, limits, "0", timeout)
    try:
        async with HttpWire(
            wish.kind, wish.options, lambda: held.value, permits, timeout=timeout
        ) as wire:
            yield wire
    finally:
        await permits.release()


async def _redeemed(wire: HttpWire, wish: Asked, grant: Grant, code: str) -> Mapping[str, Any]:
    """The credential's keys for the code, which is good for one answer: asked a second time only
    where none came."""
    asks, first = grant.redeem(code), next(iter(wish.kind.meters(wish.options)))
    try:
        told, _ = await wire.exchanged(asks, first, "options.base_url")
    except Transient as error:
        if error.status is not None:
            raise
        told, _ = await wire.exchanged(asks, first, "options.base_url")
    return dict(told)


async def _owner(wish: Asked, wire: HttpWire) -> Owner:
    adapter = wish.kind(wire, wish.options, {})
    return await adapter.owner() if isinstance(adapter, TellsOwner) else Owner("")


async def _kept(app: App, wish: Asked, owner: Owner, text: str) -> Granted:
    """The account first: where it is another one, the old credential stays."""
    destination = wish.destination
    if owner.id:
        await account.pin(app.pool, destination, owner, app.secrets.fingerprint(text))
    await app.secrets.set(destination.credential, text)
    return Granted(destination.name, destination.credential, owner.id, owner.name)
