"""Connection strings against the vectors of connection strings, 10, and against text nobody would write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kdsrv.connection_strings import (
    BridgeSpec,
    ClientSpec,
    ComClientSpec,
    ComServerSpec,
    FireWireClientSpec,
    FireWireServerSpec,
    FireWireSpec,
    HypervServerSpec,
    KdSpec,
    KdsrvSpec,
    ModemSpec,
    NetSpec,
    NpipeClientSpec,
    NpipeServerSpec,
    PipeSpec,
    PortRange,
    SerialSpec,
    ServerSpec,
    SimSpec,
    SpipeClientSpec,
    SpipeServerSpec,
    SslClientSpec,
    SslServerSpec,
    TargetSpec,
    TcpClientSpec,
    TcpSerialSpec,
    TcpServerSpec,
    UsbSpec,
    fill_in,
    parse_bridge_string,
    parse_client_string,
    parse_kd_string,
    parse_kdsrv_string,
    parse_server_string,
)
from kdsrv.connection_strings.masking import FLAG_NAMES, SECRET_NAMES, VALUE_NAMES, masked
from kdsrv.errors import ConnectionStringError, SetupError

Parse = Callable[[str], Any]
PARSERS: tuple[Parse, ...] = (
    parse_kd_string,
    parse_server_string,
    parse_client_string,
    parse_kdsrv_string,
    parse_bridge_string,
)
SECRET = "Zq7secretZq7"


def ports(low: int, high: int | None = None) -> PortRange:
    return PortRange(low, low if high is None else high)


THUMBPRINT = "ab 38 f7 ae 13 20 ac da 05 14 65 60 30 83 7b 83 09 2c d2 34"

GOOD: list[tuple[str, Parse, str, object]] = [
    (
        "V1",
        parse_kdsrv_string,
        "kdsrv:server=@{npipe:server=127.0.0.42,pipe=KernelPipe},trans=@{com:baud=57600}",
        KdsrvSpec(NpipeClientSpec(server="127.0.0.42", pipe="KernelPipe"), SerialSpec(None, 57600)),
    ),
    (
        "V2",
        parse_kdsrv_string,
        "kdsrv:server=@{tcp:server=127.0.0.42,port=1027},trans=@{com:port=com1,baud=57600}",
        KdsrvSpec(TcpClientSpec(server="127.0.0.42", ports=ports(1027)), SerialSpec("com1", 57600)),
    ),
    (
        "V3",
        parse_kdsrv_string,
        "kdsrv:server=@{tcp:server=127.0.20.20,port=9001,password=Password},trans=@{1394:channel=9}",
        KdsrvSpec(TcpClientSpec(server="127.0.20.20", ports=ports(9001), password="Password"), FireWireSpec(9)),
    ),
    ("V4", parse_client_string, "npipe:pipe=fdsa,server=localhost", NpipeClientSpec(server="localhost", pipe="fdsa")),
    ("V5", parse_server_string, "npipe:pipe=myproc%x", NpipeServerSpec(pipe="myproc%x")),
    (
        "V6",
        parse_client_string,
        r"npipe:server=\\BOXC,pipe=randomname",
        NpipeClientSpec(server="BOXC", pipe="randomname"),
    ),
    (
        "V7",
        parse_server_string,
        f"ssl:proto=tls1,machuser={THUMBPRINT},port=1234",
        SslServerSpec(proto="tls1", machuser=THUMBPRINT, ports=ports(1234)),
    ),
    (
        "V8",
        parse_client_string,
        "tcp:Port=5005,Server=YourHostComputer",
        TcpClientSpec(server="YourHostComputer", ports=ports(5005)),
    ),
    (
        "V9 client",
        parse_client_string,
        "tcp:clicon=127.0.0.20,port=1033",
        TcpClientSpec(clicon="127.0.0.20", ports=ports(1033)),
    ),
    (
        "V9 server",
        parse_server_string,
        "tcp:clicon=127.0.0.20,port=1033",
        TcpServerSpec(clicon="127.0.0.20", ports=ports(1033)),
    ),
    (
        "V10",
        parse_server_string,
        "tcp:port=9000,clicon=127.0.20.20,password=Password",
        TcpServerSpec(clicon="127.0.20.20", ports=ports(9000), password="Password"),
    ),
    (
        "V11",
        parse_kdsrv_string,
        "kdsrv:server=@{tcp:server=1,port=2},trans=@{com:}",
        KdsrvSpec(TcpClientSpec(server="1", ports=ports(2)), SerialSpec()),
    ),
    (
        "V12",
        parse_kd_string,
        r"com:pipe,port=\\.\pipe\com_1,baud=115200,reconnect,resets=0",
        PipeSpec(r"\\.\pipe\com_1", resets=0, reconnect=True, baud=115200),
    ),
    ("V13", parse_kd_string, "com:ipport=5003,port=10.73.0.140", TcpSerialSpec("10.73.0.140", 5003)),
    ("V14", parse_kd_string, "net:port=50000,key=1.2.3.4,target=::", NetSpec(50000, "1.2.3.4", "::")),
    (
        "V15",
        parse_kdsrv_string,
        "KdSrv:Server=@{npipe:server=a,pipe=b},Trans=@{NET:Port=50000,Key=1.2.3.4,Target}",
        KdsrvSpec(NpipeClientSpec(server="a", pipe="b"), NetSpec(50000, "1.2.3.4")),
    ),
    (
        "V16",
        parse_server_string,
        "tcp:port=51:60,hidden,password=abc,IcfEnable",
        TcpServerSpec(ports=ports(51, 60), hidden=True, password="abc", icfenable=True),
    ),
    ("bare number", parse_kd_string, "com:port=2,baudrate=9600", SerialSpec("com2", 9600)),
    ("device", parse_kd_string, "com:port=/dev/ttyUSB0", SerialSpec("/dev/ttyUSB0")),
    ("device with a comma", parse_kd_string, "com:port=@{/dev/a,b}", SerialSpec("/dev/a,b")),
    ("device path of Windows", parse_kd_string, r"com:port=\\.\com12", SerialSpec(r"\\.\com12")),
    ("unix socket", parse_kd_string, "com:pipe,port=/run/vm/com1.sock", PipeSpec("/run/vm/com1.sock")),
    ("modem", parse_kd_string, "com:modem", ModemSpec()),
    ("usb", parse_kd_string, "usb:targetname=Lab-1", UsbSpec("Lab-1")),
    ("1394 symlink", parse_kd_string, "1394:channel=0,symlink=Instance", FireWireSpec(0, "instance")),
    (
        "sim",
        parse_kd_string,
        "sim:state=running,loss=0.05,readcap=1000",
        SimSpec(state="running", loss=0.05, read_cap=1000),
    ),
    ("published", parse_kd_string, "Target:Name=rack-3.b", TargetSpec("rack-3.b")),
    (
        "quoted value",
        parse_server_string,
        "tcp:port=@{5},password=@{a,@{b}}",
        TcpServerSpec(ports=ports(5), password="a,@{b}"),
    ),
    ("IPv6", parse_client_string, "tcp:server=[::1],port=5", TcpClientSpec(server="::1", ports=ports(5))),
    ("client range", parse_client_string, "ssl:clicon=a,port=5:6", SslClientSpec(clicon="a", ports=ports(5, 6))),
    (
        "com server",
        parse_server_string,
        "com:port=2,baud=9600,channel=254",
        ComServerSpec(port="com2", baud=9600, channel=254),
    ),
    ("1394 server", parse_server_string, "1394:channel=3", FireWireServerSpec(channel=3)),
    ("hyperv", parse_server_string, "hyperv:vmid=a-1,serviceid=b-2", HypervServerSpec(vmid="a-1", serviceid="b-2")),
    (
        "no trans",
        parse_kdsrv_string,
        "kdsrv:server=@{tcp:server=a,port=1}",
        KdsrvSpec(TcpClientSpec(server="a", ports=ports(1))),
    ),
    (
        "empty trans",
        parse_kdsrv_string,
        "kdsrv:trans=@{},server=@{tcp:server=a,port=1}",
        KdsrvSpec(TcpClientSpec(server="a", ports=ports(1))),
    ),
    (
        "bridge",
        parse_bridge_string,
        "listen=@{tcp:5001:interface=127.0.0.1},trans=@{com:port=com3}",
        BridgeSpec("tcp:5001:interface=127.0.0.1", SerialSpec("com3")),
    ),
]


@pytest.mark.parametrize(("parse", "text", "spec"), [row[1:] for row in GOOD], ids=[row[0] for row in GOOD])
def test_documented_strings_are_read_and_written_back(parse: Parse, text: str, spec: Any) -> None:
    assert parse(text) == spec
    assert parse(spec.to_string()) == spec


BAD: list[tuple[str, Parse, str, int, str]] = [
    (
        "R1",
        parse_server_string,
        "foo:port=1",
        1,
        'unknown transport "foo"; known: tcp, ssl, npipe, spipe, com, 1394, hyperv',
    ),
    ("R1 kd", parse_kd_string, "foo:a=1", 1, 'unknown transport "foo"; known: com, net, 1394, usb, usb2, sim, target'),
    ("name of a target", parse_kd_string, "target:name=a/b", 13, "the name of a target is up to 64 letters"),
    ("no name of a target", parse_kd_string, "target:", 8, "name is missing"),
    (
        "R2",
        parse_server_string,
        "tcp:prot=1",
        5,
        '"prot" is not a parameter of tcp; known: port, clicon, hidden, password, ipversion, icfenable',
    ),
    ("R3", parse_server_string, "tcp:port=1,port=2", 12, "port is already given at column 5"),
    ("R4", parse_server_string, "tcp:port=70000", 10, "port must be a number, 1 to 65535"),
    ("R5", parse_server_string, "tcp:port=60:51", 10, "port range 60:51 is empty; write low:high"),
    ("R6", parse_kdsrv_string, "kdsrv:server=@{tcp:server=a,port=1,trans=@{com:}", 14, '"@{" at column 14 has no "}"'),
    ("R7", parse_client_string, "tcp:server=a},port=1", 13, 'this "}" has no "@{" before it'),
    ("R8", parse_server_string, "npipe:pipe=my pipe", 12, "a pipe name holds no space"),
    ("R9", parse_kd_string, "net:port=50000,key=1.2.3", 20, "a key is four components"),
    (
        "R10",
        parse_server_string,
        "ssl:proto=ssl3,certuser=x,port=1",
        11,
        "ssl3 is obsolete and not offered; write proto=tls1",
    ),
    ("R11", parse_server_string, "com:port=com1,baud=19200,channel=255", 34, "channel must be a number, 0 to 254"),
    (
        "R11 client",
        parse_client_string,
        "com:port=com1,baud=19200,channel=255",
        34,
        "channel must be a number, 0 to 254",
    ),
    ("alias twice", parse_kd_string, "com:baud=9600,baudrate=9600", 15, "baudrate is already given at column 5"),
    ("com names", parse_kd_string, "com:foo=1", 5, "known: port, baud, pipe, ipport, modem"),
    ("column within", parse_kdsrv_string, "kdsrv:server=@{tcp:server=a,port=0}", 34, "port must be a number"),
    ("port 0", parse_kd_string, "net:port=0,key=1.2.3.4", 10, "port must be a number"),
    ("key too great", parse_kd_string, "net:port=1,key=1.2.3.3w5e11264sgsg", 16, "greatest 64-bit number"),
    ("key of zeros", parse_kd_string, "net:port=1,key=1..2.3", 16, "a key is four components"),
    ("trailing comma", parse_kd_string, "com:baud=9600,", 15, "a parameter is missing here"),
    ("double comma", parse_kd_string, "com:baud=9600,,port=com1", 15, "a parameter is missing here"),
    ("comma first", parse_kd_string, "com:,port=com1", 5, "a parameter is missing here"),
    ("comma in a value", parse_server_string, "npipe:pipe=a,1", 14, "write a value that holds"),
    (
        "comma in a password",
        parse_server_string,
        "tcp:port=1,password=a,b",
        23,
        "what follows the password is not a parameter",
    ),
    ("space first", parse_client_string, "tcp:server=a, port=1", 14, "no space"),
    ("after braces", parse_server_string, "tcp:port=@{1}2", 14, 'only "," and the next parameter'),
    ("braces inside", parse_server_string, "npipe:pipe=a@{b}", 13, "can only stand directly after"),
    ("no value", parse_server_string, "tcp:port=", 5, "port needs a value"),
    ("no equals", parse_server_string, "tcp:port", 5, "port needs a value"),
    ("flag with value", parse_server_string, "tcp:port=1,hidden=1", 12, "hidden is a flag"),
    ("nothing", parse_kd_string, "", 1, "the string is empty"),
    ("no transport", parse_kd_string, "com1", 1, "begins with a transport"),
    ("control character", parse_kd_string, "com:port=/dev/\x1b[2J", 15, "U+001B"),
    ("too long", parse_kd_string, "com:port=/" + "a" * 5000, 4097, "at most 4096 characters"),
    ("too deep", parse_kd_string, "@{" * 100_000, 4097, "at most 4096 characters"),
    ("missing", parse_server_string, "tcp:hidden", 11, "port is missing from this tcp string"),
    ("pipe without its flag", parse_kd_string, r"com:port=\\.\pipe\x", 10, "write com:pipe,port="),
    ("reconnect without pipe", parse_kd_string, "com:reconnect,port=/x", 22, "pipe is missing"),
    ("two certificates", parse_server_string, "ssl:port=1,certuser=a,machuser=b", 23, "exclude each other"),
    (
        "server range and clicon",
        parse_server_string,
        "tcp:port=1:2,clicon=a",
        10,
        "with clicon the server dials one port",
    ),
    ("client range", parse_client_string, "tcp:server=a,port=1:2", 19, "a client dials one port"),
    ("server and clicon", parse_client_string, "tcp:server=a,clicon=b,port=1", 14, "server and clicon exclude"),
    ("password as shown", parse_client_string, "tcp:server=a,port=1,password=*", 30, "write the password itself"),
    ("name of usb", parse_kd_string, "usb2:targetname=myDebugBox", 17, "without the word debug"),
    (
        "kd for client",
        parse_client_string,
        "net:port=50000,key=1.2.3.4",
        1,
        "this is a kd-string where a client string belongs",
    ),
    (
        "kd for client, com",
        parse_client_string,
        "com:port=com1,baud=9600",
        1,
        "kd-string (it has no channel) where a client",
    ),
    ("kd for server, 1394", parse_server_string, "1394:channel=1,symlink=channel", 16, "kd-string where a server"),
    ("client for kd", parse_kd_string, "tcp:server=a,port=1", 1, "server or client string where a kd-string belongs"),
    ("client for kd, com", parse_kd_string, "com:port=com1,baud=1,channel=1", 22, "it has a channel"),
    ("kdsrv for kd", parse_kd_string, "kdsrv:server=@{tcp:server=a,port=1}", 1, "here only a kd-string can stand"),
    ("client for server", parse_server_string, "tcp:server=a,port=1", 5, "client string (it names a server)"),
    ("server for client", parse_client_string, "tcp:port=1", 1, "server string (it names no server)"),
    ("server flag for client", parse_client_string, "tcp:server=a,port=1,hidden", 21, "hidden is for the server alone"),
    ("client for kdsrv", parse_kdsrv_string, "tcp:server=a,port=1", 1, "where a kdsrv string belongs"),
    ("no braces", parse_kdsrv_string, "kdsrv:server=tcp:server=a,port=1", 14, "server=@{...}"),
    ("bridge without listen", parse_bridge_string, "trans=@{com:}", 14, "listen is missing from this bridge string"),
]


@pytest.mark.parametrize(("parse", "text", "column", "why"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_strings_are_refused_at_the_place(parse: Parse, text: str, column: int, why: str) -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse(text)
    assert why in caught.value.sentence
    assert caught.value.sentence.startswith(f"column {column}: ")
    assert caught.value.column == column
    assert caught.value.code == "bad-string"


def test_the_caret_stands_under_the_place_even_behind_a_password() -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse_kdsrv_string(f"kdsrv:server=@{{tcp:server=a,port=1,password={SECRET}}},trans=@{{com:prot=5}}")
    _, text, caret = str(caught.value).splitlines()
    assert text == "    kdsrv:server=@{tcp:server=a,port=1,password=*},trans=@{com:prot=*}"
    assert text[caret.index("^") :].startswith("prot=")


def test_a_long_string_is_shown_around_the_place() -> None:
    with pytest.raises(ConnectionStringError) as caught:
        parse_kd_string("com:port=/" + "a" * 1000 + ",foo,baud=5" + "0" * 1000)
    _, text, caret = str(caught.value).splitlines()
    assert len(text) < 180
    assert text[caret.index("^") :].startswith("foo,")
    assert caught.value.expected == ("port", "baud", "pipe", "ipport", "modem")


def test_display_is_lower_case_and_without_secrets() -> None:
    text = f"KdSrv:Server=@{{TCP:Port=9001,Server=Lab,Password={SECRET}}},Trans=@{{NET:Port=50000,Key=1.2.3.4}}"
    spec = parse_kdsrv_string(text)
    assert str(spec) == "kdsrv:server=@{tcp:server=Lab,port=9001,password=*},trans=@{net:port=50000,key=*}"
    assert SECRET not in repr(spec)
    assert "1.2.3.4" not in repr(spec)
    assert str(parse_kd_string(r"COM:PIPE,Reconnect,Port=\\.\pipe\A")) == r"com:pipe,port=\\.\pipe\A,reconnect"


def test_a_value_no_string_can_hold_is_not_written() -> None:
    spec = TcpServerSpec(ports=ports(5), password="a}b")
    with pytest.raises(ValueError, match="cannot be written"):
        spec.to_string()
    assert str(spec) == "tcp:port=5,password=*"


def test_the_environment_of_the_server_fills_in_what_is_not_given() -> None:
    assert fill_in(None, {}) == SerialSpec("com1", 19200)
    assert fill_in(SerialSpec(), {"_NT_DEBUG_PORT": "2", "_NT_DEBUG_BAUD_RATE": "115200"}) == SerialSpec("com2", 115200)
    assert fill_in(SerialSpec("com7"), {"_NT_DEBUG_PORT": "com2"}) == SerialSpec("com7", 19200)
    assert fill_in(SerialSpec(baud=9600), {"_NT_DEBUG_BAUD_RATE": "rubbish"}) == SerialSpec("com1", 9600)
    bus = {"_NT_DEBUG_BUS": "1394", "_NT_DEBUG_1394_CHANNEL": "9", "_NT_DEBUG_1394_SYMLINK": "channel"}
    assert fill_in(None, bus) == FireWireSpec(9, "channel")
    assert fill_in(FireWireSpec(0), {"_NT_DEBUG_1394_CHANNEL": "9"}) == FireWireSpec(0)
    assert fill_in(SerialSpec(), bus) == SerialSpec("com1", 19200)
    assert fill_in(SimSpec(), bus) == SimSpec()


@pytest.mark.parametrize(
    "environ",
    [
        {"_NT_DEBUG_BAUD_RATE": "fast"},
        {"_NT_DEBUG_PORT": "lpt1"},
        {"_NT_DEBUG_BUS": "usb"},
        {"_NT_DEBUG_BUS": "1394"},
        {"_NT_DEBUG_BUS": "1394", "_NT_DEBUG_1394_CHANNEL": "63"},
    ],
)
def test_an_environment_that_cannot_be_used_is_named(environ: dict[str, str]) -> None:
    with pytest.raises(SetupError, match="_NT_DEBUG_"):
        fill_in(None, environ)


def kinds() -> tuple[type[Any], ...]:
    return (*get_args(KdSpec), *get_args(ServerSpec), *get_args(ClientSpec))


def test_the_masker_knows_every_name_there_is() -> None:
    flags: set[str] = set()
    values: set[str] = {"server", "trans", "listen"}
    for kind in kinds():
        flags |= set(kind.words)
        for field in fields(kind):
            name = field.metadata.get("name") or field.name
            (flags if field.default is False else values).update(filter(None, (name, field.metadata.get("alias"))))
            if field.metadata.get("bare"):
                flags.add(name)
    assert flags == FLAG_NAMES
    assert values == VALUE_NAMES | SECRET_NAMES


def test_no_secret_field_is_in_a_repr() -> None:
    for kind in kinds():
        for field in fields(kind):
            assert field.repr == (field.name not in SECRET_NAMES)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("tcp:port=1,password=abc", "tcp:port=1,password=*"),
        ("tcp:password=a,b=c,d,port=1", "tcp:password=*,port=1"),
        ("tcp:password=@{a,port=2}x,port=1", "tcp:password=*,port=1"),
        ("tcp:password=@{a,port=2", "tcp:password=*"),
        ("tcp:password=,abc,port=1", "tcp:password=*,port=1"),
        ("tcp:passwort=abc,port=1", "tcp:passwort=*,port=1"),
        ("tcp:PassWord = abc", "tcp:PassWord =*"),
        ("password:abc", "password:*"),
        ("tcp:server=password=abc,port=1", "tcp:server=password=*,port=1"),
        (
            "kdsrv:server=@{tcp:password=a},trans=@{net:key=1.2.3.4,port=5}",
            "kdsrv:server=@{tcp:password=*},trans=@{net:key=*,port=5}",
        ),
        ("listen=@{tcp:5001},trans=@{com:}", "listen=@{tcp:5001},trans=@{com:}"),
        ("tcp:port=1,\n", "tcp:port=1,*"),
        ("npipe:pipe=MonkeyPipe", "npipe:pipe=MonkeyPipe"),
    ],
)
def test_only_known_values_are_shown(text: str, shown: str) -> None:
    assert masked(text).text == shown


# fmt: off
FRAGMENTS = st.sampled_from([
    "tcp:", "ssl:", "npipe:", "spipe:", "com:", "1394:", "hyperv:", "net:", "usb2:", "sim:", "kdsrv:", "server=",
    "port=", "trans=", "listen=", "password=", "key=", "pipe=", "pipe", "clicon=", "hidden", "baud=", "channel=",
    "proto=tls1", "certuser=", "reconnect", "resets=", "target", "ipport=", "1", "65535", "1:2", "127.0.0.1", "a",
    "com1", r"\\.\pipe\x", "/dev/x", "1.2.3.4", "@{", "@{", "}", "}", ",", ",", ",", "=", ":", "{", "*", "\\",
]) | st.text(max_size=3)
# fmt: on
TEXTS = st.lists(FRAGMENTS, max_size=30).map("".join) | st.text(st.characters(codec=None), max_size=60)


def outcome(parse: Parse, text: str) -> str:
    """All that can be shown of what comes of this text: the spec or the error."""
    try:
        spec = parse(text)
    except ConnectionStringError as refusal:
        error = refusal
    else:
        assert parse(spec.to_string()) == spec
        return str(spec) + repr(spec)
    assert 1 <= error.column <= len(text) + 1
    assert 0 <= error.caret <= len(error.text)
    assert all(line.isprintable() for line in str(error).split("\n"))
    return str(error) + repr(error)


@given(TEXTS)
@example("")
@example("@{" * 2000)
@example("com:port=\ud800")
@example("com:baud=" + "9" * 4000)
@example("com:baud=\N{SUPERSCRIPT TWO}")
@example("net:port=1,key=\N{ARABIC-INDIC DIGIT ONE}.2.3.4")
def test_no_text_gives_another_error(text: str) -> None:
    for parse in PARSERS:
        outcome(parse, text)


@given(st.sampled_from([row[2] for row in GOOD]), st.data())
def test_no_changed_string_gives_another_error(text: str, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text)))
        text = text[:at] + data.draw(FRAGMENTS) + text[at + data.draw(st.integers(0, 4)) :]
    for parse in PARSERS:
        outcome(parse, text)


@given(st.sampled_from(["password", "PASSWORD", "key", "Key"]), TEXTS, TEXTS, st.sampled_from(["", ",", "@{", ",x="]))
def test_a_secret_is_never_in_an_error(name: str, before: str, after: str, joint: str) -> None:
    start = "" if not before or before.endswith((",", "{", ":")) else ","
    text = f"{before}{start}{name}={joint}{SECRET}{joint}{after}"
    for parse in PARSERS:
        assert SECRET not in outcome(parse, text)


def build(kind: type[Any], **given: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(kind, **given)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


PRINTABLE = st.characters(codec="utf-8").filter(str.isprintable)
WORDS = st.text(PRINTABLE, min_size=1, max_size=12) | st.lists(
    st.sampled_from(["a", ",", "@{x}", "@{,@{}}", "=", " ", "{"]), min_size=1, max_size=6
).map("".join)
ANY_TEXT = WORDS.filter(lambda text: "}" not in text.replace("@{,@{}}", "").replace("@{x}", "")).filter(
    lambda text: "@{" not in text.replace("@{,@{}}", "").replace("@{x}", "") and text != "*"
)
PASSWORDS = maybe(ANY_TEXT)
PORTS = st.integers(1, 65535)
ONE_PORT = PORTS.map(ports)
RANGES = st.tuples(PORTS, PORTS).map(lambda pair: PortRange(min(pair), max(pair)))
HOSTS = st.sampled_from(["lab", "127.0.0.1", "::1", "fe80::1%eth0", "host-1.example", "."])
SERIAL = st.sampled_from(["com1", "COM300", r"\\.\com3", "/dev/ttyUSB0", "/dev/a,b", "/dev/x y"])
PIPES = st.sampled_from([r"\\.\pipe\com_1", r"\\box\PIPE\a,b", "/run/vm.sock", "/run/a@{b}"])
PIPE_NAMES = st.sampled_from(["x", "a%x", "b,c", "KernelPipe"])
BAUDS = st.integers(1, 12_000_000)
SHARES = st.floats(0, 1)
KEYS = st.lists(st.integers(0, 2**64 - 1), min_size=4, max_size=4).map(lambda parts: ".".join(map(base_36, parts)))
TLS = {"proto": maybe(st.just("tls1")), "certuser": maybe(ANY_TEXT), "password": PASSWORDS}
FLAG = st.booleans()


def base_36(number: int) -> str:
    text = ""
    while number:
        number, digit = divmod(number, 36)
        text = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + text
    return text or "0"


KD_SPECS = st.one_of(
    build(SerialSpec, port=maybe(SERIAL), baud=maybe(BAUDS)),
    build(PipeSpec, path=PIPES, resets=maybe(st.integers(0, 9)), reconnect=FLAG, baud=maybe(BAUDS)),
    build(TcpSerialSpec, host=HOSTS, port=PORTS),
    build(ModemSpec),
    build(FireWireSpec, channel=maybe(st.integers(0, 62)), symlink=maybe(st.sampled_from(["instance", "channel"]))),
    build(UsbSpec, targetname=st.sampled_from(["Lab", "a_b-c"])),
    build(NetSpec, port=PORTS, key=KEYS, target=maybe(HOSTS)),
    build(
        SimSpec,
        name=ANY_TEXT,
        state=st.sampled_from(["halted", "running", "boot"]),
        loss=SHARES,
        damage=SHARES,
        duplicate=SHARES,
        baud=st.integers(0, 115200),
        seed=st.integers(0, 2**63 - 1),
        read_cap=st.integers(1, 3944),
        cpus=st.integers(1, 64),
    ),
)
SERVER_SPECS = st.one_of(
    build(TcpServerSpec, ports=RANGES, hidden=FLAG, password=PASSWORDS, ipversion=maybe(st.just("6")), icfenable=FLAG),
    build(TcpServerSpec, ports=ONE_PORT, clicon=HOSTS, password=PASSWORDS),
    build(SslServerSpec, ports=RANGES, hidden=FLAG, **TLS),
    build(NpipeServerSpec, pipe=PIPE_NAMES, hidden=FLAG, password=PASSWORDS, icfenable=FLAG),
    build(SpipeServerSpec, pipe=PIPE_NAMES, hidden=FLAG, **TLS),
    build(ComServerSpec, port=SERIAL, baud=BAUDS, channel=st.integers(0, 254), hidden=FLAG, password=PASSWORDS),
)
CLIENT_SPECS = st.one_of(
    build(TcpClientSpec, server=HOSTS, ports=ONE_PORT, password=PASSWORDS),
    build(TcpClientSpec, clicon=HOSTS, ports=RANGES, password=PASSWORDS),
    build(SslClientSpec, server=HOSTS, ports=ONE_PORT, **TLS),
    build(NpipeClientSpec, server=HOSTS, pipe=PIPE_NAMES, password=PASSWORDS),
    build(SpipeClientSpec, server=HOSTS, pipe=PIPE_NAMES, **TLS),
    build(ComClientSpec, port=SERIAL, baud=BAUDS, channel=st.integers(0, 254), password=PASSWORDS),
    build(FireWireClientSpec, channel=st.integers(0, 62), password=PASSWORDS),
)
SPECS = st.one_of(
    st.tuples(st.just(parse_kd_string), KD_SPECS),
    st.tuples(st.just(parse_server_string), SERVER_SPECS),
    st.tuples(st.just(parse_client_string), CLIENT_SPECS),
    st.tuples(st.just(parse_kdsrv_string), st.builds(KdsrvSpec, CLIENT_SPECS, maybe(KD_SPECS))),
    st.tuples(st.just(parse_bridge_string), st.builds(BridgeSpec, st.just("tcp:5001"), KD_SPECS)),
)


@given(SPECS)
def test_every_spec_survives_its_text(pair: tuple[Parse, Any]) -> None:
    parse, spec = pair
    assert parse(spec.to_string()) == spec
    assert hash(parse(spec.to_string())) == hash(spec)


@given(SERVER_SPECS, CLIENT_SPECS, st.integers(1, 65535))
def test_the_display_form_is_the_text_without_secrets(server: Any, client: Any, port: int) -> None:
    for spec in (server, client):
        assert str(replace(spec, password=None)) == replace(spec, password=None).to_string()
    key = "zq7.zq7.zq7.zq7"
    for spec in (
        replace(server, password=SECRET),
        KdsrvSpec(replace(client, password=SECRET), NetSpec(port, key)),
        BridgeSpec("tcp:5001", NetSpec(port, key)),
    ):
        assert SECRET not in str(spec) + repr(spec)
        assert key not in str(spec) + repr(spec)
        assert SECRET in spec.to_string() or key in spec.to_string()
