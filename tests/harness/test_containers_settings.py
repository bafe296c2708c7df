"""Settings and secrets of containers: checked, stored, and used by later commands."""

import ast
import fcntl
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from harness.containers import settings, up
from harness.files import REPOSITORY
from tests.harness.conftest import Operator

LIVE = {
    "CAP": "6c8g",
    "SCALE": "2",
    "SEED": "none",
    "FRONTROW_BIND": "127.0.0.2",
    "FRONTROW_VERSION": "7.1",
    "PAYMENT_PROVIDER": "http",
    "PAYMENT_HTTP_BASE_URL": "https://psp.example/v1?a='b'",
    "PAYMENT_HTTP_API_KEY": "'sk-$live' ü",
    "QUEUE_CAPACITY": "800",
}


JWT = {
    "GATEWAY_IDENTITY": "jwt",
    "GATEWAY_IDENTITY_ISSUER": "https://login.example",
    "GATEWAY_IDENTITY_AUDIENCE": "frontrow",
}


@pytest.mark.parametrize("later", ["up", "roll", "restore"])
def test_a_later_command_uses_the_settings_of_up(
    operator: Operator, tmp_path: Path, later: str
) -> None:
    operator.run("up", PORT=operator.port, **LIVE)
    file = operator.state / "frontrow.env"
    secrets = file.read_text()
    dump = str(tmp_path / "a.sql.gz")
    operator.run("backup", dump)
    operator.run(later, *([dump] if later == "restore" else []))
    assert file.read_text() == secrets, "created once"
    ports = {each.port for each in operator.docker.of("gateway")}
    assert ports == {operator.port, str(int(operator.port) + 1)}
    assert len(operator.docker.of("payment")) == 2
    variables = operator.docker.of("payment")[0].variables
    expected = {**LIVE, "MARIADB_MB": "3072", "PAYMENT_MB": "192"}
    del expected["CAP"], expected["SCALE"]
    assert {name: variables[name] for name in expected} == expected


def test_the_environment_wins_and_is_stored(operator: Operator) -> None:
    operator.run("up", PORT=operator.port, QUEUE_CAPACITY="800", SEED="small")
    operator.run("roll", FRONTROW_VERSION="2", SCALE="2")
    assert {each.variables["FRONTROW_VERSION"] for each in operator.docker.of("queue")} == {"2"}
    operator.run("up", SEED="none")
    found = operator.docker.of("queue")[0].variables
    assert (found["SEED"], found["QUEUE_CAPACITY"], found["FRONTROW_VERSION"]) == (
        "none",
        "800",
        "2",
    )
    # An empty variable counts as not set.
    operator.run("up", PORT="", SCALE="", CAP="")
    assert operator.docker.running()["queue"] == 2


def test_the_protections_of_an_on_sale_reach_the_programs_and_are_remembered(
    operator: Operator,
) -> None:
    given = {
        "GATEWAY_TRUSTED_PROXIES": '["10.0.0.0/8"]',
        "GATEWAY_REQUESTS_PER_SECOND_PER_SOURCE": "50",
        "GATEWAY_CHALLENGE": "altcha",
        "GATEWAY_CHALLENGE_ALTCHA_KEY": "a key of the tests, 32 bytes or $more",
        "QUEUE_ENTRIES_PER_SOURCE": "30",
        "RESERVATION_COOL_DOWN_SECONDS": "60",
        "PAYMENT_FAILED_RETENTION_DAYS": "2",
    }
    # An empty variable would not be a number; it counts as not set.
    unset = {"QUEUE_MAX_WAITING": "", "GATEWAY_CORS_ORIGINS": ""}
    operator.run("up", PORT=operator.port, **given, **unset)
    for name, value in operator.one("gateway").variables.items():
        assert name not in unset
        assert given.get(name, value) == value
    operator.run("roll", GATEWAY_REQUESTS_PER_SECOND_PER_SOURCE="80")
    expected = given | {"GATEWAY_REQUESTS_PER_SECOND_PER_SOURCE": "80"}
    found = operator.one("gateway").variables
    assert {name: found[name] for name in given} == expected
    stored = (operator.state / "frontrow.settings").read_text()
    assert "QUEUE_ENTRIES_PER_SOURCE='30'" in stored
    assert "32 bytes" not in stored
    assert "$more" in (operator.state / "frontrow.env").read_text()


def test_the_jwks_is_named_only_to_a_gateway_that_uses_it(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "jwks.json"
    file.touch()
    monkeypatch.setattr(settings, "JWKS", file)
    operator.run("up", PORT=operator.port)
    assert operator.one("gateway").variables["GATEWAY_IDENTITY_JWKS_FILE"] == ""
    operator.run("up", **JWT)
    found = operator.one("gateway").variables
    assert found["GATEWAY_IDENTITY_JWKS_FILE"] == "/run/identity/jwks.json"
    assert {name: found[name] for name in JWT} == JWT
    # The settings of a login may stay.
    operator.run("up", GATEWAY_IDENTITY="open")
    assert operator.one("gateway").variables["GATEWAY_IDENTITY_JWKS_FILE"] == ""


def test_refused_settings_are_not_stored(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    operator.refused("up", SEED="smal")
    operator.docker.failing = "run migrate"
    operator.refused("roll", SEED="small")
    operator.docker.failing = None
    operator.run("up")
    assert operator.one("queue").variables["SEED"] == "full"


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"CAP": "1c1g"}, "CAP must be 2c4g or 6c8g, not '1c1g'."),
        ({"CAP": "../caps/2c4g"}, "CAP must be 2c4g or 6c8g"),
        ({"SCALE": "0"}, "SCALE must be 1 to 2 with CAP=2c4g, not '0'."),
        ({"SCALE": "3"}, "SCALE must be 1 to 2"),
        ({"SCALE": "two"}, "SCALE must be 1 to 2"),
        ({"SEED": "smal"}, "SEED must be full, small or none, not 'smal'."),
        ({"SEED": "$(touch x)"}, "SEED must be full"),
        ({"PORT": "abc"}, "PORT must be a port, 1 to 65535, not 'abc'."),
        ({"PORT": "99999"}, "PORT must be a port"),
        ({"PORT": "65535", "SCALE": "2"}, "PORT must be a port, 1 to 65534"),
        ({"FRONTROW_BIND": "localhost"}, "FRONTROW_BIND must be an IPv4 address"),
        (
            {"FRONTROW_BIND": "192.0.2.1", "PAYMENT_PROVIDER": "sandbox"},
            "192.0.2.1 is no address of this machine.",
        ),
        ({"FRONTROW_VERSION": "a b"}, "FRONTROW_VERSION must be the tag of an image"),
        ({"PAYMENT_PROVIDER": "paypal"}, "PAYMENT_PROVIDER must be sandbox or http"),
        ({"PAYMENT_PROVIDER": "http"}, "PAYMENT_HTTP_BASE_URL must be the URL of"),
        (
            {"FRONTROW_BIND": "0.0.0.0"},
            "PAYMENT_PROVIDER must be http, or sandbox, which approves nearly everything",
        ),
        ({"PAYMENT_HTTP_BASE_URL": "ftp://x"}, "PAYMENT_HTTP_BASE_URL must be the URL"),
        ({"QUEUE_CAPACITY": "-1"}, "QUEUE_CAPACITY must be 0 or more, not '-1'."),
        ({"GATEWAY_ENFORCE_PACE": "no"}, "GATEWAY_ENFORCE_PACE must be true or false, not 'no'."),
        ({"GATEWAY_REENTRY_WITHOUT_TOKEN": "0"}, "GATEWAY_REENTRY_WITHOUT_TOKEN must be true or"),
        ({"GATEWAY_IDENTITY": "JWT"}, "GATEWAY_IDENTITY must be open or jwt, not 'JWT'."),
        ({"GATEWAY_IDENTITY": "jwt"}, "GATEWAY_IDENTITY_ISSUER must be that of the tokens"),
        (
            {"GATEWAY_IDENTITY": "jwt", "GATEWAY_IDENTITY_ISSUER": "a"},
            "GATEWAY_IDENTITY_AUDIENCE must be that of the tokens",
        ),
        ({**JWT}, "GATEWAY_IDENTITY must be open, as long as there is no "),
        ({"QUEUE_CAPACITY": "1\nSEED=none"}, "QUEUE_CAPACITY must be one line of text"),
        ({"GATEWAY_LOG_LEVEL": "a\nb"}, "GATEWAY_LOG_LEVEL must be one line of text, not 'a\\nb'."),
        (
            {"GATEWAY_CHALLENGE_HTTP_SECRET": "a\nb"},
            "GATEWAY_CHALLENGE_HTTP_SECRET must be one line of text.",
        ),
        ({"PROJECT": "a/b"}, "PROJECT must be small letters, digits, _ and -"),
        ({"PROJECT": "Front"}, "PROJECT must be small letters"),
    ],
)
def test_wrong_settings_are_refused(operator: Operator, given: dict[str, str], error: str) -> None:
    assert error in operator.refused("up", **given)
    assert not operator.state.exists() or not list(operator.state.glob("*.settings"))
    assert not operator.docker.containers


@pytest.mark.parametrize("changed", ["GATEWAY_MB=256", "GATEWAY_WORKERS=3", "GATEWAY_WORKERS=0"])
def test_a_cap_with_too_little_memory_for_its_gateways_is_refused(
    operator: Operator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    caps = shutil.copytree(settings.CAPS, tmp_path / "caps")
    name = changed.partition("=")[0]
    small = re.sub(rf"(?m)^{name}=.*$", changed, (caps / "2c4g.env").read_text())
    (caps / "small.env").write_text(small)
    monkeypatch.setattr(settings, "CAPS", caps)
    error = operator.refused("up", CAP="small", SCALE="2")
    assert "CAP must be one with enough memory for its gateways with SCALE=2" in error
    assert not operator.docker.containers


def test_the_key_is_only_in_the_file_of_secrets_and_never_shown(operator: Operator) -> None:
    operator.run("up", PORT=operator.port, PAYMENT_HTTP_API_KEY="sk-1")
    assert "sk-1" not in (operator.state / "frontrow.settings").read_text()
    assert "sk-1" in (operator.state / "frontrow.env").read_text()
    assert (operator.state / "frontrow.env").stat().st_mode & 0o777 == 0o600
    assert "sk-2" not in operator.refused("up", PAYMENT_HTTP_API_KEY="sk-2\n")


def test_a_taken_port_is_refused(operator: Operator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        assert f"port {port} is taken" in operator.refused("up", PORT=port)


def test_mounts_that_the_servers_cannot_read_are_refused(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "config" / "start.sh"
    file.parent.mkdir(mode=0o755)
    file.touch(mode=0o644)
    monkeypatch.setattr(up, "CONFIG", file.parent)
    operator.run("up", PORT=operator.port)
    file.chmod(0o600)
    assert f"chmod -R a+rX {file.parent}" in operator.refused("up")


@pytest.mark.parametrize(
    ("damage", "error"),
    [
        (("MYSQL_PAYMENT_PASSWORD='", "MYSQL_PAYMENT_PASSWORD=''"), "must be letters and digits"),
        (("REDIS_PASSWORD", "REDIS_PASSPHRASE"), "lacks REDIS_PASSWORD"),
        (('{"k1"', "{k1"), "TOKEN_KEYS"),
        (("KEY_ID='k1'", "KEY_ID='k2'"), "TOKEN_KEYS"),
    ],
)
def test_unusable_secrets_are_refused(
    operator: Operator, damage: tuple[str, str], error: str
) -> None:
    operator.run("up", PORT=operator.port)
    file = operator.state / "frontrow.env"
    file.write_text(file.read_text().replace(*damage))
    assert error in operator.refused("roll")


def test_secrets_of_a_version_without_an_admin_token_get_one(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    file = operator.state / "frontrow.env"
    before = file.read_text()
    file.write_text(re.sub(r"ADMIN_TOKEN='\w+'\n", "", before))
    operator.run("roll")
    found = re.search(r"^ADMIN_TOKEN='(\w{64})'$", file.read_text(), re.MULTILINE)
    assert found
    assert operator.docker.of("queue")[0].variables["ADMIN_TOKEN"] == found[1]
    assert "TOKEN_KEYS" in file.read_text()
    operator.run("roll")
    assert found[0] in file.read_text()


def test_a_command_that_needs_a_start_is_refused_before_it(operator: Operator) -> None:
    assert "begin with make up" in operator.refused("roll")
    assert "begin with make up" in operator.refused("compose", "ps")
    assert "no container of queue runs" in operator.refused("exec", "queue", "true")


@pytest.mark.parametrize("line", ["CAP='9c9g'", "PORT='$(touch x)'", "}{", "SCALE=${SCALE:-1}"])
def test_down_works_with_wrong_stored_settings(operator: Operator, line: str) -> None:
    operator.run("up", PORT=operator.port)
    file = operator.state / "frontrow.settings"
    file.write_text(f"{file.read_text()}{line}\n")
    if "=" in line:
        assert "as in" in operator.refused("up")
    operator.run("down", DATA="delete")
    assert not operator.docker.containers
    assert not file.exists()
    assert not (operator.state / "frontrow.env").exists()


def test_compose_and_exec_become_their_commands(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    operator.run("compose", "logs", "--follow", "payment")
    ports = f"{operator.port}-{operator.port}"
    assert operator.docker.log[-1] == f"compose logs --follow payment {ports}"
    operator.run("roll")
    operator.run("exec", "queue", "python", "-m", "queue_service.admin", "capacity", "800")
    assert operator.docker.log[-1] == "exec queue_2 python -m queue_service.admin capacity 800"


def test_a_second_command_at_the_same_time_is_refused(operator: Operator) -> None:
    operator.run("up", PORT=operator.port)
    with (operator.state / "frontrow.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "is running: wait" in operator.refused("roll")


def test_a_custom_cap_must_be_complete(
    operator: Operator, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    caps = tmp_path / "caps"
    shutil.copytree(settings.CAPS, caps)
    monkeypatch.setattr(settings, "CAPS", caps)
    example = (caps / "2c4g.env").read_text()
    (caps / "mine.env").write_text(example.replace("REDIS_MB=", "REDIS_MIB="))
    assert "which differ in REDIS_MB, REDIS_MIB" in operator.refused("up", CAP="mine")
    (caps / "mine.env").write_text(example.replace("REDIS_MB=704", "REDIS_MB=lots"))
    assert "NAME=number, not 'REDIS_MB=lots'" in operator.refused("up", CAP="mine")


def test_it_needs_only_the_standard_library_of_python_3_9() -> None:
    program = (
        "import sys; sys.path.insert(0, '.'); import harness.containers.__main__;"
        "ours = [m for name, m in sys.modules.items() if name.startswith(('harness', 'protos'))];"
        "print(*(module.__file__ for module in ours))"
    )
    # Without site-packages.
    ran = subprocess.run(
        [sys.executable, "-IS", "-c", program], cwd=REPOSITORY, check=True, capture_output=True
    )
    files = ran.stdout.decode().split()
    assert len(files) > 10
    for file in files:
        ast.parse(Path(file).read_text(), feature_version=(3, 9))
