"""What a client may open: by default, with published targets, with patterns, and as a user who is bound to targets."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.python.usage import UsageError

from kdsrv.auth.users import ANYBODY, Role, User
from kdsrv.connection_strings import KdSpec, SerialSpec, parse_kd_string
from kdsrv.errors import ConnectionStringError, KdsrvError, SetupError, TargetError
from kdsrv.policy.patterns import parse_pattern
from kdsrv.policy.places import HostPlaces, _controlling_terminal
from kdsrv.policy.policy import Device, NotAllowed, Permit, Policy, parse_target
from kdsrv.tap import Options
from kdsrv.transports.fifo import open_fifo_pair

KEY = "1u7vtp10n2y8v.2k3m4n5p6q7r8.3a.4b"


class Lab:
    """A host whose links lead where the test says; the terminal of its operator is /dev/pts/7."""

    links = {  # noqa: RUF012
        "/dev/serial/by-id/rack": "/dev/ttyUSB0",
        "/dev/out": "/tmp/x",
        "/dev/late": "/dev/shm/x",
        "/tmp/vm": "/dev/pts/3",
    }

    def device(self, port: str) -> Device:
        path = f"/dev/ttyS{int(port[3:]) - 1}" if port.startswith("com") else port
        return Device(path, self.links.get(path, path))

    def is_terminal(self, path: str) -> bool:
        return path == "/dev/pts/7"


def policy(*, targets: tuple[str, ...] = (), allowed: tuple[str, ...] = ()) -> Policy:
    return Policy(Lab(), dict(map(parse_target, targets)), [*map(parse_pattern, allowed)])


def opened(rules: Policy, text: str | None, user: User | None = ANYBODY, **environ: str) -> Permit:
    return rules.permit(None if text is None else parse_kd_string(text), user, environ)


def refused(rules: Policy, text: str | None, user: User | None = ANYBODY, **environ: str) -> str:
    with pytest.raises(NotAllowed) as refusal:
        opened(rules, text, user, **environ)
    return str(refusal.value)


# By default


@pytest.mark.parametrize(
    ("text", "what_opens"),
    [
        ("com:port=/dev/ttyUSB0,baud=9600", "com:port=/dev/ttyUSB0,baud=9600"),
        ("com:port=com1,baud=9600", "com:port=com1,baud=9600"),
        ("com:port=/dev/serial/by-id/rack,baud=9600", "com:port=/dev/ttyUSB0,baud=9600"),
        ("com:port=/tmp/vm,baud=9600", "com:port=/dev/pts/3,baud=9600"),
        ("com:port=/tmp/../dev//ttyUSB0,baud=9600", "com:port=/dev/ttyUSB0,baud=9600"),
        ("com:pipe,port=/run/vm/com1.sock", "com:pipe,port=/run/vm/com1.sock"),
        (r"com:pipe,port=\\.\pipe\com_1", r"com:pipe,port=\\.\pipe\com_1"),
        ("com:ipport=5003,port=127.0.0.1", "com:port=127.0.0.1,ipport=5003"),
        ("com:ipport=5003,port=LocalHost", "com:port=LocalHost,ipport=5003"),
        ("com:ipport=5003,port=::1", "com:port=::1,ipport=5003"),
        ("sim:name=a", "sim:name=a"),
        ("net:port=49152,key=1.2.3.4", "net:port=49152,key=*"),
        ("net:port=65535,key=1.2.3.4,target=127.0.0.1", "net:port=65535,key=*,target=127.0.0.1"),
    ],
)
def test_what_a_target_can_be_behind_is_open_by_default(text: str, what_opens: str) -> None:
    permit = opened(policy(), text)
    assert str(permit.spec) == permit.name == what_opens


@pytest.mark.parametrize(
    "text",
    [
        "com:port=/dev/out",
        "com:port=/dev/late",
        "com:port=/etc/passwd",
        "com:port=/dev/../etc/passwd",
        "com:port=/device/x",
        "com:port=//etc/passwd",
        "com:port=/dev/shm/x",
        "com:port=/dev",
    ],
)
def test_a_serial_port_is_a_device_in_dev(text: str) -> None:
    sentence = refused(policy(), text)
    assert "a serial port is a device in /dev" in sentence
    assert "/tmp/x" not in sentence, "where a link leads is not a client's business"


def test_nobody_reads_along_at_the_terminal_of_the_operator() -> None:
    assert "terminal of somebody" in refused(policy(), "com:port=/dev/pts/7")
    assert opened(policy(allowed=("com:port=/dev/pts/*",)), "com:port=/dev/pts/7")


@pytest.mark.parametrize(
    "host", ["10.0.0.5", "0.0.0.0", "127.1", "2130706433", "lab", "localhost.evil.example", "::", "169.254.169.254"]
)
def test_a_client_does_not_make_the_server_dial_into_its_network(host: str) -> None:
    sentence = refused(policy(), f"com:ipport=80,port={host}")
    assert f"--allow 'com:ipport=80,port={host}'" in sentence
    assert opened(policy(allowed=(f"com:ipport=80,port={host}",)), f"com:ipport=80,port={host}")


@pytest.mark.parametrize("host", ["10.0.0.5", "lab"])
def test_a_client_does_not_make_the_server_call_into_its_network(host: str) -> None:
    text = f"net:port=50000,key=1.2.3.4,target={host}"
    assert "--allow 'net:*'" in refused(policy(), text)
    assert opened(policy(allowed=(f"net:target={host}",)), text)


@pytest.mark.parametrize("port", [53, 5364, 49151])
def test_a_client_does_not_take_the_ports_of_other_services(port: int) -> None:
    text = f"net:port={port},key=1.2.3.4"
    assert f"--allow 'net:port={port}'" in refused(policy(), text)
    assert opened(policy(allowed=(f"net:port={port}",)), text)


def test_the_servers_environment_is_judged_like_a_client() -> None:
    assert opened(policy(), None).spec == SerialSpec("com1", 19200)
    assert opened(policy(), "com:", _NT_DEBUG_PORT="/dev/ttyUSB0").spec == SerialSpec("/dev/ttyUSB0", 19200)
    assert "in /dev" in refused(policy(), None, _NT_DEBUG_PORT="/tmp/x")
    assert "in /dev" in refused(policy(), "com:baud=9600", _NT_DEBUG_PORT="/dev/../tmp/x")
    assert "not open" in refused(policy(allowed=("sim:*",)), None)


# Published targets

RACKS = ("rack1=com:port=/dev/ttyUSB0,baud=115200", f"rack2=net:port=50000,key={KEY}", "old.3=com:port=/tmp/x")


def test_a_published_target_opens_by_its_name_alone() -> None:
    rules = policy(targets=RACKS)
    permit = opened(rules, "target:name=rack1")
    assert permit == Permit(SerialSpec("/dev/ttyUSB0", 115200), "target:name=rack1")
    assert KEY in opened(rules, "target:name=rack2").spec.to_string()
    assert opened(rules, "target:name=old.3", _NT_DEBUG_BAUD_RATE="9600").spec == SerialSpec("/tmp/x", 9600)


@pytest.mark.parametrize(
    "text", ["com:port=/dev/ttyUSB0,baud=115200", "sim:", "target:name=rack9", "target:name=RACK1", None]
)
def test_nothing_else_opens_then_and_the_refusal_names_what_does(text: str | None) -> None:
    sentence = refused(policy(targets=RACKS), text)
    assert "it offers target:name=rack1, target:name=rack2, target:name=old.3" in sentence
    assert KEY not in sentence
    assert "50000" not in sentence
    assert "/tmp/x" not in sentence


def test_where_one_is_published_that_is_the_default() -> None:
    assert opened(policy(targets=RACKS[:1]), None).name == "target:name=rack1"
    assert opened(policy(targets=RACKS), None, User("kim", Role.FULL, ("rack2",))).name == "target:name=rack2"


def test_where_several_are_one_has_to_be_named() -> None:
    """No word of com1, which the client never wrote."""
    offer = "it offers target:name=rack1, target:name=rack2"
    for targets, user in ((RACKS[:2], ANYBODY), (RACKS, User("kim", Role.FULL, ("rack*",)))):
        sentence = refused(policy(targets=targets, allowed=("*",)), None, user)
        assert sentence == f"name a target: trans=@{{target:name=rack1}}; {offer}"


def test_many_targets_are_not_all_named() -> None:
    rules = policy(targets=tuple(f"t{n}=sim:name=t{n}" for n in range(20)))
    assert "target:name=t7 and 12 more, see kdsrv list" in refused(rules, "sim:")


def test_a_user_bound_to_targets_opens_those_and_hears_of_no_other() -> None:
    rules = policy(targets=RACKS, allowed=("*",))
    kim = User("kim", Role.FULL, ("rack*",))
    assert rules.names(kim) == ["rack1", "rack2"]
    assert opened(rules, "target:name=rack2", kim)
    for text in ("target:name=old.3", "sim:", "com:port=/dev/ttyUSB0,baud=115200"):
        assert "old" not in refused(rules, text, kim).partition("it offers")[2]
    assert "ask its operator" in refused(rules, None, User("jo", Role.FULL, ()))
    assert "ask its operator" in refused(policy(), "sim:", kim), "also where everybody else opens what they like"


def test_the_servers_own_bridges_ask_nobody() -> None:
    rules = policy(targets=RACKS)
    assert opened(rules, "com:port=/tmp/x", None).spec == SerialSpec("/tmp/x", 19200)
    assert opened(rules, "target:name=rack1", None).spec == SerialSpec("/dev/ttyUSB0", 115200)
    with pytest.raises(NotAllowed):
        opened(rules, "target:name=rack9", None)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("rack1", "write NAME=KDSTRING"),
        ("=sim:", "the name of a target is"),
        ("a/b=sim:", "the name of a target is"),
        ("a=", "the string is empty"),
        ("a=com:prt=1", '"prt" is not a parameter'),
        ("a=target:name=b", "another name"),
        (f"a=net:port=1,key={KEY}x.y", "a key is four components"),
    ],
)
def test_a_wrong_target(text: str, why: str) -> None:
    with pytest.raises((SetupError, ConnectionStringError)) as refusal:
        parse_target(text)
    assert why in str(refusal.value)
    assert KEY not in str(refusal.value)


# Patterns

USB = "com:port=/dev/ttyUSB*,*"


@pytest.mark.parametrize(
    ("pattern", "text", "is_open"),
    [
        (USB, "com:port=/dev/ttyUSB0", True),
        (USB, "com:port=/dev/ttyUSB12,baud=115200", True),
        (USB, "com:port=/dev/serial/by-id/rack,baud=115200", True),
        (USB, "com:port=/dev/ttyS0", False),
        (USB, "com:port=/dev/ttyUSB0/../../tmp/x", False),
        (USB, "com:port=/tmp/dev/ttyUSB0", False),
        (USB, "com:pipe,port=/dev/ttyUSB0", False),
        (USB, "sim:", False),
        ("com:port=/dev/ttyUSB0", "com:port=/dev/ttyUSB0,baud=9600", True),
        ("com:port=/dev/ttyUSB0,baud=9600", "com:port=/dev/ttyUSB0", False),
        ("com:baudrate=9600,port=/dev/ttyUSB0", "com:port=/dev/ttyUSB0,baud=9600", True),
        ("com:port=/dev/ttyS*", "com:port=com1", True),
        ("com:port=com[12]", "com:port=com1", True),
        ("com:port=com[12]", "com:port=com3", False),
        ("com:*", "com:port=/tmp/x", True),
        ("com:*", "com:ipport=1,port=10.0.0.1", False),
        ("com:*", "com:pipe,port=/run/x", False),
        ("com:port=*", "com:ipport=1,port=10.0.0.1", False),
        ("com:pipe,port=/run/vms/*", "com:pipe,port=/run/vms/a.sock,reconnect", True),
        ("com:pipe,port=/run/vms/*", "com:pipe,port=/run/vms/../docker.sock", False),
        ("com:pipe,reconnect,port=/run/vms/*", "com:pipe,port=/run/vms/a.sock", False),
        ("com:ipport=500?,port=Lab", "com:ipport=5003,port=LAB", True),
        ("com:ipport=500?,port=lab", "com:ipport=5003,port=lab.evil.example", False),
        ("com:ipport=*,port=10.0.0.*", "com:ipport=1,port=10.0.0.7", True),
        ("com:ipport=*,port=10.0.0.*", "com:ipport=1,port=10.0.0.evil.example", False),
        ("com:ipport=*,port=lab?.*", "com:ipport=1,port=lab7.example", True),
        ("sim:", "sim:state=running", True),
        ("sim:name=sim", "sim:", True),
        ("sim:name=test-*", "sim:name=other", False),
        ("net:port=500*", f"net:port=50000,key={KEY}", True),
        ("usb:*", "usb2:targetname=x", True),
        ("*", "com:ipport=1,port=10.0.0.1", True),
        ("*", "com:port=/tmp/x", True),
    ],
)
def test_a_pattern(pattern: str, text: str, is_open: bool) -> None:
    rules = policy(allowed=("1394:channel=62", pattern))
    if is_open:
        opened(rules, text)
    else:
        assert "ask its operator" in refused(rules, text)


def test_a_link_that_a_pattern_does_not_name_is_opened_where_it_leads() -> None:
    by_link = "com:port=/dev/serial/by-id/rack,baud=9600"
    assert opened(policy(allowed=(USB,)), by_link).spec == SerialSpec("/dev/ttyUSB0", 9600)
    assert str(opened(policy(allowed=("com:port=/dev/serial/*",)), by_link).spec) == by_link


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the string is empty"),
        ("tty*", "begins with a transport"),
        ("con:*", "unknown transport"),
        ("tcp:port=*", "kd-string"),
        ("com:prt=*", "known: port, baud"),
        ("com:port=*,*,baud=1", "expected here"),
        ("net:key=1.2.3.*", "one key from another"),
        ("target:name=*", "without --allow"),
        ("com:channel=5", "it has a channel"),
    ],
)
def test_a_wrong_pattern(text: str, why: str) -> None:
    with pytest.raises(ConnectionStringError) as refusal:
        parse_pattern(text)
    assert why in str(refusal.value)


WORDS = st.sampled_from(["com:", "sim:", "net:", "port=", "ipport=", "pipe", "key=", ",", "*", ",*", "/dev/", "[", "}"])


@given(st.lists(WORDS | st.text(max_size=3), max_size=12).map("".join))
def test_any_text_is_a_pattern_or_a_mistake(text: str) -> None:
    specs: list[KdSpec] = [parse_kd_string("sim:"), parse_kd_string("com:ipport=1,port=a"), SerialSpec("com1", 1)]
    try:
        pattern = parse_pattern(text)
    except ConnectionStringError:
        return
    assert {pattern.matches(spec) for spec in specs} <= {True, False}


# On the command line


def test_options_come_to_a_policy() -> None:
    options = Options()
    options.parseOptions(["--listen", "tcp:0", "--target", RACKS[0], "--target=b=sim:", "--allow", USB])
    rules = options.policy()
    assert rules.names(ANYBODY) == ["rack1", "b"]
    assert opened(rules, "com:port=/dev/ttyUSB7").spec == SerialSpec("/dev/ttyUSB7", 19200)
    assert "target:name=rack1, target:name=b" in refused(rules, "sim:")
    hidden = Options()
    hidden.parseOptions(["-t", "tcp:port=1,hidden", "-t", "tcp:port=2"])
    assert [way.hidden for way in hidden.endpoints] == [True, False]
    assert opened(hidden.policy(), "sim:")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--target", "a"), "--target: 'a' is a name alone"),
        (("--target", "a=sim:", "--target", "a=com:"), "there is a target a already"),
        (("--target", f"a=net:port=1,key={KEY},prt=1"), "--target: column"),
        (("--allow", "tty*"), "--allow: column 1"),
    ],
)
def test_a_wrong_option(words: tuple[str, ...], why: str) -> None:
    with pytest.raises(UsageError) as refusal:
        Options().parseOptions(["--listen", "tcp:0", *words])
    assert why in str(refusal.value)
    assert KEY not in str(refusal.value)


# The host itself


def test_a_file_that_takes_the_place_of_a_fifo_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening: what was opened is looked at again."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"data")
    names = [tmp_path / "vm.in", tmp_path / "vm.out"]
    for name in names:
        os.mkfifo(name)
    real_stat = os.stat

    def stat_and_swap(path: object, **options: object) -> os.stat_result:
        found = real_stat(path, **options)  # type: ignore[call-overload]
        if str(path) == str(names[1]):
            names[1].unlink()
            names[1].symlink_to(precious)
        return cast(os.stat_result, found)

    monkeypatch.setattr(os, "stat", stat_and_swap)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(TargetError, match="is not a FIFO"):
        open_fifo_pair(cast(Any, None), str(tmp_path / "vm")).send(None)
    assert len(os.listdir("/proc/self/fd")) == before
    assert precious.read_bytes() == b"data"


@pytest.mark.parametrize("minor", [0, 5, 255, 256, 300, 65535, 1048575])
def test_the_kernels_way_to_write_a_terminals_number(minor: int, tmp_path: Path) -> None:
    number = (minor & 0xFF) | 136 << 8 | (minor & ~0xFF) << 12
    stat = tmp_path / "stat"
    stat.write_text(f"7 (a) 9) b) S 1 7 7 {number} 7 0")
    assert _controlling_terminal(stat) == os.makedev(136, minor)
    stat.write_text("7 (getty) S 1 7 7 0 7 0")
    assert _controlling_terminal(stat) is None


def test_a_host_follows_links(tmp_path: Path) -> None:
    master, slave = pty.openpty()
    try:
        name = os.ttyname(slave)
        link = tmp_path / "vm"
        link.symlink_to(name)
        places = HostPlaces()
        assert places.device(str(link)) == Device(str(link), name)
        assert places.device("com2").path == "/dev/ttyS1"
        assert not places.is_terminal(name)
        assert not places.is_terminal(str(tmp_path / "missing"))
        assert not places.is_terminal("/dev/a\0b")
        rules = Policy(places)
        assert rules.permit(SerialSpec(str(link), 9600), ANYBODY, {}).spec == SerialSpec(name, 9600)
        somebody = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); print(flush=True); sys.stdin.read()"
        )
        command = [sys.executable, "-c", somebody]
        with subprocess.Popen(command, stdin=slave, stdout=subprocess.PIPE, start_new_session=True) as shell:
            assert shell.stdout is not None
            shell.stdout.readline()
            try:
                assert places.is_terminal(name)
                with pytest.raises(KdsrvError, match="terminal of somebody"):
                    rules.permit(SerialSpec(str(link), 9600), ANYBODY, {})
            finally:
                shell.kill()
        assert not places.is_terminal(name)
    finally:
        os.close(master)
        os.close(slave)
