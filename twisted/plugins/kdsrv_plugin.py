"""Tells ``twist`` and ``twistd`` of the ``kdsrv`` service, which is loaded only when it is asked for."""

from twisted.application.service import ServiceMaker

kdsrv = ServiceMaker("kdsrv", "kdsrv.tap", "A connection server for Windows kernel debugging.", "kdsrv")
