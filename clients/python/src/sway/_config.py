"""Settings: arguments, else the environment, else the config file, else defaults.

The same settings as the ``sway`` command's, found in the same places; the only reader of the
environment.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from ._errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib

_WORKER_URL = "http://127.0.0.1:8444"
"""Where ``sway up`` listens unless told otherwise."""

_OWNERS = "owners.json"
"""What ``sway owner`` writes, in the data directory."""

_USER = re.compile(r"(?!\.+$)[A-Za-z0-9._+@-]{1,128}")
_PIN = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Config:
    """Which worker, as whom.

    Attributes:
        worker_url: Such as ``http://127.0.0.1:8444``.
        user: Whom the operator's token speaks for; tokens of users ignore it.
        token: Bearer token; never shown.
        worker_pin: SHA-256 of the worker's certificate (DER) in hex: exactly this one is
            accepted. Without it the system's roots decide.
    """

    worker_url: str = _WORKER_URL
    user: str | None = None
    token: str | None = field(default=None, repr=False)
    worker_pin: str | None = None

    @classmethod
    def load(
        cls,
        worker_url: str | None = None,
        *,
        user: str | None = None,
        token: str | None = None,
        worker_pin: str | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Settle what is not given.

        From ``WORKER_URL``, ``SWAY_USERNAME``, ``SWAY_TOKEN``; else from the config file
        (``SWAY_CONFIG``, else ``~/.config/sway/config.toml``) with ``worker_url``, ``username``,
        ``token``, ``worker_pin`` and ``data``. Where there is no token, the one in the data
        directory (``SWAY_DATA``, else ``/var/lib/sway`` for root and ``~/.local/share/sway`` for
        others) is taken, as a server on this machine leaves it there.

        Raises:
            ConfigError: A setting can't be used.
        """
        environ = os.environ if environ is None else environ
        file = _read_file(environ)
        data = environ.get("SWAY_DATA") or file.get("data") or _default_data(environ)
        token = token or environ.get("SWAY_TOKEN") or file.get("token") or _token_in(data)
        return cls(
            worker_url=worker_url
            or environ.get("WORKER_URL")
            or file.get("worker_url")
            or _WORKER_URL,
            user=user or environ.get("SWAY_USERNAME") or file.get("username") or _login(environ),
            token=token.strip() if token else None,
            worker_pin=worker_pin or file.get("worker_pin"),
        )

    def __post_init__(self) -> None:
        """Refuse what can't be used, above all a token that would travel unencrypted."""
        url = self.worker_url
        try:
            parts = urlsplit(url)
            host, _ = parts.hostname, parts.port
        except ValueError:
            host = None
        if not host or parts.scheme not in ("http", "https") or parts.query or parts.username:
            raise ConfigError(
                f"not the URL of a worker: {url!r}", f"expected such as {_WORKER_URL}"
            )
        if parts.scheme == "http" and self.worker_pin is not None:
            raise ConfigError(f"{url} has no certificate to pin", "use https")
        if parts.scheme == "http" and self.token is not None and not _is_loopback(host):
            raise ConfigError(f"{url} would carry the token unencrypted", "use https")
        if self.token is not None and not re.fullmatch(r"[!-~]+", self.token):
            raise ConfigError("the token holds characters that no header can carry")
        if self.user is not None and not _USER.fullmatch(self.user):
            hint = "1 to 128 of letters, digits, and . _ - + @; set SWAY_USERNAME"
            raise ConfigError(f"not a user name: {self.user!r}", hint)
        if self.worker_pin is not None:
            pin = self.worker_pin.replace(":", "").lower()
            if not _PIN.fullmatch(pin):
                raise ConfigError(f"not a certificate's SHA-256 in hex: {self.worker_pin!r}")
            object.__setattr__(self, "worker_pin", pin)


@dataclass(frozen=True)
class Owner:
    """Where an owner decides whose worker is not one's own.

    Attributes:
        worker_url: Such as ``https://alice.example.org:8444``.
        queue: The label that jobs go there under; that of the `QueueConfig` where it is None.
        token: One's token for that worker; never shown. Without it, that of the settings is used if
            it is their worker.
        worker_pin: As `Config.worker_pin`.
    """

    worker_url: str
    queue: str | None = None
    token: str | None = field(default=None, repr=False)
    worker_pin: str | None = None

    def config(self, own: Config) -> Config:
        """Settle how to reach it; the token of ``own`` goes to the worker of ``own`` alone.

        Raises:
            ConfigError: There is no token for it, or a setting can't be used.
        """
        is_own = self.worker_url.rstrip("/") == own.worker_url.rstrip("/")
        token = self.token or (own.token if is_own else None)
        if token is None and not is_own:
            hint = "`sway owner add OWNER URL --token-file FILE`, or Owner(…, token=…)"
            raise ConfigError(f"no token for {self.worker_url}", hint)
        pin = self.worker_pin or (own.worker_pin if is_own else None)
        return Config(self.worker_url, own.user, token, pin)


def known_owners(environ: Mapping[str, str] | None = None) -> dict[str, Owner]:
    """Owners that ``sway owner`` knows, by name.

    Raises:
        ConfigError: The list can't be used.
    """
    environ = os.environ if environ is None else environ
    data = environ.get("SWAY_DATA") or _read_file(environ).get("data") or _default_data(environ)
    if data is None:
        return {}
    path = Path(data, _OWNERS)
    try:
        with path.open("rb") as file:
            if os.name == "posix" and os.fstat(file.fileno()).st_mode & 0o077:
                raise ConfigError(f"others can read {path}, which holds tokens", "chmod 600 it")
            told = json.load(file)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return {}
    except (OSError, ValueError) as error:
        # Not chained: the text of the file holds tokens.
        message = f"can't read the list of owners in {path}: {type(error).__name__}"
        raise ConfigError(message) from None
    try:
        return {str(name): Owner(**settings) for name, settings in told.items()}
    except (AttributeError, TypeError):
        raise ConfigError(f"the list of owners in {path} is not valid") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def _login(environ: Mapping[str, str]) -> str | None:
    """Name the user of this process: as the system has it, else as the environment says."""
    try:
        import pwd

        return pwd.getpwuid(os.geteuid()).pw_name
    except (ImportError, KeyError):
        return environ.get("USER") or environ.get("LOGNAME") or environ.get("USERNAME")


def state_folder() -> Path | None:
    """Where the `sway` command remembers what it exported."""
    return _home_folder(os.environ, "XDG_STATE_HOME", ".local/state")


def _home_folder(environ: Mapping[str, str], variable: str, default: str) -> Path | None:
    if environ.get(variable):
        return Path(environ[variable])
    return Path(environ["HOME"]) / default if environ.get("HOME") else None


def _default_data(environ: Mapping[str, str]) -> str | None:
    if _is_root():
        return "/var/lib/sway"
    folder = _home_folder(environ, "XDG_DATA_HOME", ".local/share")
    return str(folder / "sway") if folder else None


def _token_in(data: str | None) -> str | None:
    """Read the token that a server on this machine left; none where only others may read it."""
    if data is None:
        return None
    path = Path(data, "token")
    try:
        return path.read_text()
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the token in {path}: {type(error).__name__}") from None


def _read_file(environ: Mapping[str, str]) -> dict[str, str]:
    given = environ.get("SWAY_CONFIG")
    folder = _home_folder(environ, "XDG_CONFIG_HOME", ".config")
    path = Path(given) if given else folder / "sway/config.toml" if folder else None
    if path is None:
        return {}
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if given:
            raise ConfigError(f"there is no config file {path}", "SWAY_CONFIG names it") from error
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"can't read the config file {path}: {error}") from error
    try:
        return _parse(text)
    except ValueError as error:
        # Not chained: the text of the file holds the token.
        raise ConfigError(f"the config file {path} is not valid: {error}") from None


def _parse(text: str) -> dict[str, str]:
    if sys.version_info >= (3, 11):
        table = tomllib.loads(text)
        return {key: value for key, value in table.items() if isinstance(value, str)}
    return _parse_flat(text)


_LINE = re.compile(
    r"""\s*(?:(?P<key>[A-Za-z0-9_-]+)\s*=\s*(?P<value>"(?:[^"\\]|\\.)*"|'[^']*'))?\s*(?:\#.*)?"""
)


def _parse_flat(text: str) -> dict[str, str]:
    """Read the part of TOML that the config file needs, where Python has no reader of its own."""
    table = {}
    for number, line in enumerate(text.splitlines(), 1):
        match = _LINE.fullmatch(line)
        if match is None:
            raise ValueError(f'line {number} is not of the form: name = "value"')
        key, value = match["key"], match["value"]
        if key is not None:
            table[key] = value[1:-1] if value[0] == "'" else str(json.loads(value))
    return table
