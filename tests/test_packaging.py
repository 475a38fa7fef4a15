"""The wheel holds exactly what it should, and installed in a fresh environment it is found by Twisted.

Only a wheel installed elsewhere shows a plugin that was left out, and only a really fresh environment shows a
dependency that was not declared, so the dependencies too come from the package index: without one those tests are
skipped, except in CI.
"""

from __future__ import annotations

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from twisted.application.service import IServiceMaker, ServiceMaker
from twisted.plugin import getPlugins

from kdsrv import __version__

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a program with nothing of this checkout in sight."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def run_well(*command: object, cwd: Path) -> str:
    done = run(*command, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Installed:
    """The wheel in an environment of its own."""

    def __init__(self, room: Path) -> None:
        self.room = room
        self.bin = room / "bin"
        self.python = self.bin / "python"

    @property
    def site_packages(self) -> Path:
        return next(self.room.glob("lib/python3.*/site-packages"))


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty directory, so that nothing is found by standing in the checkout."""
    return tmp_path_factory.mktemp("elsewhere")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, elsewhere: Path) -> Path:
    room = tmp_path_factory.mktemp("wheel")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", room)
    run_well(sys.executable, "-m", "pip", "wheel", *options, ROOT, cwd=elsewhere)
    (built,) = room.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, wheel: Path, elsewhere: Path) -> Installed:
    room = tmp_path_factory.mktemp("fresh")
    venv.create(room, with_pip=True)
    fresh = Installed(room)
    done = run(fresh.python, "-m", "pip", "install", "--quiet", "--retries", "1", wheel, cwd=elsewhere)
    if done.returncode and "No matching distribution found" in done.stderr and os.environ.get("CI") != "true":
        pytest.skip("no package index in reach, so the wheel cannot be installed with its dependencies")
    assert done.returncode == 0, done.stderr
    return fresh


def test_the_wheel_holds_the_package_and_the_plugin_only(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = [path for path in (ROOT / "kdsrv").rglob("*") if path.suffix in {".py", ".typed"}]
    package = {str(path.relative_to(ROOT)) for path in sources}
    assert names == package | {"twisted/plugins/kdsrv_plugin.py"}
    assert "kdsrv/py.typed" in names


def test_the_wheel_is_named_and_licensed(wheel: Path) -> None:
    assert wheel.name == f"kdsrv-{__version__}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        licence = archive.read(f"kdsrv-{__version__}.dist-info/licenses/LICENSE").decode()
        metadata = archive.read(f"kdsrv-{__version__}.dist-info/METADATA").decode()
    assert licence == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "License-Expression: MIT\n" in metadata


def test_no_init_file_beside_the_plugin() -> None:
    """With one, the checkout hides Twisted, and a wheel deletes Twisted's own when it is uninstalled."""
    assert list((ROOT / "twisted").rglob("__init__.py")) == []


def test_twisted_finds_the_plugin_in_process() -> None:
    makers = [maker for maker in getPlugins(IServiceMaker) if isinstance(maker, ServiceMaker)]
    assert [maker.module for maker in makers if maker.tapname == "kdsrv"] == ["kdsrv.tap"]


def test_the_plugin_imports_neither_the_reactor_nor_the_service() -> None:
    """It is imported by every run of ``twist`` in its environment, ``twistd -r`` included."""
    program = (
        "import sys, runpy; runpy.run_path(sys.argv[1]);"
        "print(*{'twisted.internet.reactor', 'kdsrv', 'kdsrv.tap'} & set(sys.modules))"
    )
    assert run_well(sys.executable, "-c", program, ROOT / "twisted/plugins/kdsrv_plugin.py", cwd=ROOT).strip() == ""


def test_twist_lists_the_installed_service(installed: Installed, elsewhere: Path) -> None:
    for program in ("twist", "twistd"):
        assert "kdsrv" in run_well(installed.bin / program, "--help", cwd=elsewhere).split()


def test_the_installed_service_has_its_options(installed: Installed, elsewhere: Path) -> None:
    assert "--listen" in run_well(installed.bin / "twist", "kdsrv", "--help", cwd=elsewhere)


def test_the_installed_command_tells_its_version(installed: Installed, elsewhere: Path) -> None:
    assert __version__ in run_well(installed.bin / "kdsrv", "--version", cwd=elsewhere)


def test_every_installed_module_can_be_imported(installed: Installed, wheel: Path, elsewhere: Path) -> None:
    """Each with the declared dependencies alone."""
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if name.startswith("kdsrv/") and name.endswith(".py")]
    modules = sorted(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in files)
    program = "import importlib, sys; print(*(importlib.import_module(name).__file__ for name in sys.argv[1:]))"
    places = run_well(installed.python, "-c", program, *modules, cwd=elsewhere).split()
    assert [place for place in places if not place.startswith(str(installed.site_packages))] == []
    assert len(places) == len(modules)


def test_uninstalling_leaves_twisted_whole(installed: Installed, wheel: Path, elsewhere: Path) -> None:
    run_well(installed.python, "-m", "pip", "uninstall", "--quiet", "--yes", "kdsrv", cwd=elsewhere)
    try:
        services = run_well(installed.bin / "twist", "--help", cwd=elsewhere).split()
        program = "import importlib.metadata as m; print([f for f in m.files('twisted') if not f.locate().exists()])"
        lost = run_well(installed.python, "-c", program, cwd=elsewhere)
    finally:
        run_well(installed.python, "-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=elsewhere)
    assert "kdsrv" not in services
    assert "web" in services
    assert lost.strip() == "[]"
