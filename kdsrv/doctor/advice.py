"""What there is to do about a line, by the code of its verdict and the kind of the line."""

from __future__ import annotations

from typing import Final

from kdsrv.connection_strings.kd import (
    FireWireSpec,
    KdSpec,
    ModemSpec,
    NetSpec,
    PipeSpec,
    SerialSpec,
    TcpSerialSpec,
    UsbSpec,
)

__all__ = ["ANSWERED", "FIND_BAUD", "advise"]

FIND_BAUD: Final = "the baud rate may be wrong: kdsrv doctor --find-baud tries them all"
_IS_IT_ON: Final = (
    "is debugging on (bcdedit /debug on), and set to this port (bcdedit /dbgsettings serial debugport:N)?"
)
_A_DEBUGGER: Final = "a debugger can have this target: see README.md for how it connects"
_OTHER_KINDS: Final = "use a line that kdsrv can open: com: with a serial port, a pipe or a TCP port, net:, or 1394:"

_BY_CODE: Final[dict[str, tuple[str, ...]]] = {
    "well-halted": (_A_DEBUGGER,),
    "well-running": (_A_DEBUGGER,),
    "well-heard": ("without --no-break-in it is halted for a moment, to see whether it answers",),
    "missing": ("start what offers this line, or give its right name",),
    "no-permission": ("let the user who runs this, and the server, open it",),
    "held": ("end that program, or if it is a server ask it for the target: kdsrv list shows who has it",),
    "refused": ("start what should listen there, and compare host and port",),
    "cannot-open": (),
    "away": ("start the virtual machine, or what offers this line, and try again",),
    "lost": ("see to it that the line stays: a plug, a machine that is being restarted",),
    "echoing": (
        "take off the loopback plug, or close the program that echoes at the other end",
        "on a virtual machine's port: connect it to the machine, not to a terminal",
    ),
    "resets-bouncing": (
        "see to it that nothing else reads or writes this line: another debugger, a console, an echo",
        "restart the target if it goes on",
    ),
    "damaged": (
        "try another cable, a lower rate on both sides, or a port without a hub in between",
        "see to it that no other program reads this port: it takes bytes away",
    ),
    "unheard": (
        "look at the line towards the target: TX and RX, a null modem cable, a permission to write at its other end",
    ),
    "deaf": (
        "wait, if the target is busy; wake it, if it sleeps",
        "if it hangs with interrupts off, only a reset or an NMI helps",
        "if it prints and still does not stop, look at the line towards it: TX, or the pipe's other direction",
        "at a bridge of kdsrv connect: see there whether it may only look, and whether its server is there",
    ),
    "noise": ("see what is at the other end: it should be the port that bcdedit /dbgsettings names on the target",),
    "text": (
        "the target writes text there: a console (EMS, a boot loader), or debugging is off; see bcdedit /dbgsettings",
    ),
    "silent": (_IS_IT_ON, "is it this line that the machine's serial port is connected to?"),
    "unasked": ("without --no-break-in it is asked to halt: a target that runs says nothing by itself",),
    "mute": ("restart the target; its debugger stands still, but does not work",),
    "rebooted": ("try again when it is up",),
    **{
        "net-waiting": (
            "on the target: bcdedit /dbgsettings, the driver's network card (kdnet.exe), and then a reboot",
        ),
        "net-wrong-key": ("make a new key for both sides with kdsrv key, or take that of bcdedit /dbgsettings",),
        "net-unanswered": ("let UDP pass both ways between this host and the target",),
        "net-taken-over": ("end the other debugger, then reboot the target or attach with target=",),
        "net-silent": ("see whether the target is up, and whether its network card is the one that kdnet.exe set up",),
        "net-rebooted": ("try again when it is up",),
    },
}

_BY_KIND: Final[dict[tuple[str, type[KdSpec]], tuple[str, ...]]] = {
    ("missing", SerialSpec): ("plug it in, or give its right name: ls -l /dev/serial/by-id shows what is plugged in",),
    ("missing", PipeSpec): ("start the virtual machine, and compare the path with that of its serial port",),
    ("missing", FireWireSpec): (
        "put a FireWire card into this host, and see that its driver is there: sudo modprobe firewire-ohci",
    ),
    ("no-permission", SerialSpec): ("let the user who runs this, and the server, open it; then log in again",),
    ("no-permission", NetSpec): ("give another port, here and in bcdedit /dbgsettings on the target",),
    ("cannot-open", SerialSpec): (
        "give a serial port, and a rate that it has: ls -l /dev/serial/by-id shows what is plugged in",
        "what is not a serial port is written com:pipe,port=PATH or com:port=HOST,ipport=PORT",
    ),
    ("cannot-open", PipeSpec): (
        "give the path of the unix socket, or NAME of the FIFOs NAME.in and NAME.out, that the virtual machine offers",
    ),
    ("cannot-open", TcpSerialSpec): (
        "compare host and port, and see whether that host can be reached from here: its name, firewalls in between",
    ),
    ("cannot-open", NetSpec): ("compare port and target with bcdedit /dbgsettings and the address of the target",),
    ("cannot-open", FireWireSpec): ("see that this host has a FireWire card, and what dmesg says of it",),
    ("cannot-open", ModemSpec): (_OTHER_KINDS,),
    ("cannot-open", UsbSpec): (_OTHER_KINDS,),
    ("away", FireWireSpec): ("start the target, and compare channel= with its bcdedit /dbgsettings",),
    ("noise", SerialSpec): ("compare the baud rate with what bcdedit /dbgsettings shows on the target", FIND_BAUD),
    ("silent", SerialSpec): (
        _IS_IT_ON,
        "is it the right port on both sides, and the cable a null modem cable?",
        FIND_BAUD,
    ),
}

_ON_RATES: Final = ("noise", "silent")

ANSWERED: Final = (
    "at a bridge of kdsrv connect: see there whether it may only look, and whether its server and the target are there",
    "at a target's own line: take off what echoes, and restart the target if it hangs",
)
"""Where a RESET is answered and nothing else."""


def advise(code: str, spec: KdSpec | None = None, *, has_rate: bool = True) -> tuple[str, ...]:
    """What to do, a sentence each, about a verdict ``code`` on the line of ``spec``. ``has_rate`` is False for a serial
    port whose rate cannot be wrong, a pseudo terminal."""
    if spec is None or (code in _ON_RATES and not has_rate):
        return _BY_CODE[code]
    return _BY_KIND.get((code, type(spec)), _BY_CODE[code])
