"""What every stand-in's app does with a deed of POST /_act: it is done, noted, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from syncd.sandbox.standin import StandIn

S = TypeVar("S", bound=StandIn)
D = TypeVar("D", bound=BaseModel)


def carried_out(
    account: S, deed: D, work: Callable[[S, D], dict[str, Any]], refused: type[Exception]
) -> dict[str, Any]:
    """What *work* tells of it; ValueError where the account refuses."""
    try:
        told = work(account, deed)
    except refused as err:
        raise ValueError(f"{getattr(deed, 'do', 'deed')}: {err}") from None
    account.note(0, "act", **deed.model_dump(exclude_defaults=True))
    return told
