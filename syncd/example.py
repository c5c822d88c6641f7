"""The annotated files of config/: what `init` writes, and where they are."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

from syncd.errors import ConfigError

SETTINGS = "syncd.toml"


@cache
def folder() -> Path:
    """Installed, they lie in `syncd/_config`; in an editable install in `config/` beside it."""
    package = Path(__file__).parent
    for place in (package / "_config", package.parent / "config"):
        if place.is_dir():
            return place
    raise FileNotFoundError("syncd was installed without its config/ folder; install it again")


def names() -> list[str]:
    """Providers that there is an annotated destination of."""
    return sorted(path.stem for path in folder().glob("*.toml") if path.name != SETTINGS)


def files(provider: str) -> Mapping[str, str]:
    """Name and text of what a folder begins with; ConfigError for a provider without example."""
    if provider not in names():
        raise ConfigError(
            f"there is no example for provider {provider!r}; there is: {', '.join(names())}"
        )
    wanted = (SETTINGS, f"{provider}.toml")
    return {name: (folder() / name).read_text("utf-8") for name in wanted}


def write(provider: str, place: Path) -> list[Path]:
    """Write them into *place*, made if need be; ConfigError if one is there already: then none."""
    texts = {place / name: text for name, text in files(provider).items()}
    if there := [path for path in texts if path.exists() or path.is_symlink()]:
        raise ConfigError(*(f"{path} is there already, and is left as it is" for path in there))
    try:
        place.mkdir(parents=True, exist_ok=True)
        for path, text in texts.items():
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise ConfigError(f"{error.filename}: cannot be written ({error.strerror})") from None
    return list(texts)
