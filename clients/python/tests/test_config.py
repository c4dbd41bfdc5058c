from __future__ import annotations

import pickle
import traceback
from pathlib import Path

import pytest

import sway
from sway import _http
from sway._config import Config, _parse, _parse_flat, known_owners


def load(home: Path, file: str = "", **environ: str) -> Config:
    config = home / ".config/sway/config.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(file)
    return Config.load(environ={"HOME": str(home), "SWAY_DATA": str(home / "data"), **environ})


def test_arguments_win_over_the_environment_which_wins_over_the_file(tmp_path: Path) -> None:
    file = "worker_url = 'http://[::1]:1'\nusername = 'file'\ntoken = \"of-file\"\n"
    config = load(tmp_path, file)
    assert (config.worker_url, config.user, config.token) == ("http://[::1]:1", "file", "of-file")
    environ = {
        "WORKER_URL": "http://localhost:2",
        "SWAY_USERNAME": "env",
        "SWAY_TOKEN": " of-env\n",
    }
    config = load(tmp_path, file, **environ)
    assert (config.worker_url, config.user, config.token) == ("http://localhost:2", "env", "of-env")
    environ["HOME"] = str(tmp_path)
    config = Config.load("http://127.0.0.1:3", user="me", token="mine", environ=environ)
    assert (config.worker_url, config.user, config.token) == ("http://127.0.0.1:3", "me", "mine")


def test_a_server_on_this_machine_leaves_its_token_in_the_data_directory(tmp_path: Path) -> None:
    assert load(tmp_path).token is None
    (tmp_path / "data").mkdir()
    (tmp_path / "data/token").write_text("left-here\n")
    assert load(tmp_path).token == "left-here"
    assert load(tmp_path, SWAY_TOKEN="given").token == "given"
    assert load(tmp_path, f"data = '{tmp_path}'", SWAY_DATA="").token is None


def test_a_config_file_that_is_named_has_to_be_there(tmp_path: Path) -> None:
    with pytest.raises(sway.ConfigError, match=r"no config file .*nowhere"):
        load(tmp_path, SWAY_CONFIG=str(tmp_path / "nowhere"))


@pytest.mark.parametrize("parse", [_parse, _parse_flat])
def test_the_config_file_is_read_the_same_by_every_python(parse: type[_parse]) -> None:  # type: ignore[valid-type]
    text = (
        '# mine\n\nworker_url = "http://127.0.0.1:1" # here\nusername=\'a\\b\'\ntoken = "a\\"b"\n'
    )
    expected = {"worker_url": "http://127.0.0.1:1", "username": "a\\b", "token": 'a"b'}
    assert parse(text) == expected  # type: ignore[misc]
    for bad in ("token", "token = ", "token = 'a", "= 'a'", "token = 'a' b"):
        with pytest.raises(ValueError, match=r"line|end of document"):
            parse(bad)  # type: ignore[misc]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://127.0.0.1", "not the URL"),
        ("127.0.0.1:8444", "not the URL"),
        ("http://", "not the URL"),
        ("http://127.0.0.1:x", "not the URL"),
        ("http://ada:secret@127.0.0.1", "not the URL"),
        ("http://example.org", "unencrypted"),
        ("http://10.0.0.1:8444", "unencrypted"),
        ("http://localhost.example.org", "unencrypted"),
    ],
)
def test_a_token_goes_nowhere_unencrypted_but_to_loopback(url: str, message: str) -> None:
    with pytest.raises(sway.ConfigError, match=message):
        Config(url, token="token-of-ada")


def test_owners_are_known_from_a_list_that_nobody_else_can_read(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "SWAY_DATA": str(tmp_path)}
    assert known_owners(environ) == {}
    path = tmp_path / "owners.json"
    path.write_text(
        '{"alice": {"worker_url": "https://alice.example.org", "token": "b4d5ecre7"},'
        ' "bob": {"worker_url": "http://127.0.0.1:1/", "queue": "nightly"}}'
    )
    path.chmod(0o644)
    with pytest.raises(sway.ConfigError, match="others can read"):
        known_owners(environ)
    path.chmod(0o600)
    owners = known_owners(environ)
    assert owners["bob"] == sway.Owner("http://127.0.0.1:1/", queue="nightly")
    assert "b4d5ecre7" not in repr(owners)
    for broken in ('["b4d5ecre7"]', '{"alice": {"tokens": "b4d5ecre7"}}', "b4d5ecre7"):
        path.write_text(broken)
        with pytest.raises(sway.ConfigError, match="list of owners") as caught:
            known_owners(environ)
        assert "b4d5ecre7" not in "".join(
            traceback.format_exception(type(caught.value), caught.value, caught.value.__traceback__)
        )


def test_a_token_goes_to_no_owners_worker_that_it_is_not_for() -> None:
    own = Config("http://127.0.0.1:1", user="ada", token="mine")
    assert sway.Owner("http://127.0.0.1:1/").config(own).token == "mine"
    far = sway.Owner("https://alice.example.org", token="for-alice")
    assert far.config(own).token == "for-alice"
    with pytest.raises(sway.ConfigError, match="no token"):
        sway.Owner("https://alice.example.org").config(own)
    with pytest.raises(sway.ConfigError, match="unencrypted"):
        sway.Owner("http://alice.example.org", token="for-alice").config(own)


def test_pins_are_fingerprints_of_https(tmp_path: Path) -> None:
    pin = ":".join(["AB"] * 32)
    assert Config("https://example.org", worker_pin=pin).worker_pin == "ab" * 32
    with pytest.raises(sway.ConfigError, match="SHA-256"):
        Config("https://example.org", worker_pin="abc")
    with pytest.raises(sway.ConfigError, match="no certificate to pin"):
        load(tmp_path, f"worker_pin = '{'ab' * 32}'")


def test_names_and_tokens_that_no_header_can_carry_are_refused() -> None:
    for user in ("", "..", "a b", "a\n", "é"):
        with pytest.raises(sway.ConfigError, match="not a user name"):
            Config(user=user)
    with pytest.raises(sway.ConfigError, match="no header") as caught:
        Config(token="se\ncret")
    assert "cret" not in str(caught.value)


def test_no_token_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_http, "PAUSES_S", ())
    secret = "b4d5ecre7"
    client = sway.Client("http://127.0.0.1:1", user="ada", token=secret)
    job = sway.Job(
        client._http, dict.fromkeys(["id", "filename", "image", "manifest", "created_at"], "x")
    )
    shown = [repr(thing) for thing in (client, client.config, client._http, job)]
    with pytest.raises(sway.Unreachable) as caught:
        list(client.runs())
    shown += [str(caught.value), repr(caught.value)]
    shown += traceback.format_exception(
        type(caught.value), caught.value, caught.value.__traceback__
    )
    with pytest.raises(sway.ConfigError) as broken:
        load(tmp_path, f"token = '{secret}")
    shown += traceback.format_exception(
        type(broken.value), broken.value, broken.value.__traceback__
    )
    assert not [text for text in shown if secret in text]


def test_errors_survive_pickling() -> None:
    refused = sway.Refused(404, "image_not_found", "no image x", "export it", 5.0)
    copy = pickle.loads(pickle.dumps(refused))
    assert (str(copy), copy.code, copy.retry_after_s) == (
        "no image x\nhint: export it",
        "image_not_found",
        5.0,
    )


def test_the_package_is_typed_and_needs_nothing() -> None:
    from importlib.metadata import requires

    assert Path(sway.__file__).with_name("py.typed").exists()
    needed = [line for line in requires("sway") or [] if "extra ==" not in line]
    assert needed == []
