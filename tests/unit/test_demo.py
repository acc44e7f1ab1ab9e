"""What makes two demos the same one, and that nothing is left running or dies unseen."""

import subprocess
import sys
from pathlib import Path

import pytest

import launch
from demo import main, stay
from launch import Server, StartError, picture_server, start_server
from serving.errors import SettingError
from workshop import Workshop


def test_other_pictures_are_another_demo(tmp_path: Path) -> None:
    def root() -> Path:
        return Workshop(str(tmp_path / "demo"), images=str(tmp_path / "photos")).root

    for name in ("red/0.jpg", "blue/0.jpg"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True)
        (tmp_path / "photos" / name).write_bytes(b"")
    first = root()
    assert root() == first
    (tmp_path / "photos/red/1.jpg").write_bytes(b"")
    assert root() != first, "an index of the old pictures would answer for the new ones"


def test_one_class_is_refused_before_minutes_of_work(tmp_path: Path) -> None:
    (tmp_path / "photos/red").mkdir(parents=True)
    (tmp_path / "photos/red/0.jpg").write_bytes(b"")
    environ = {"IMAGES": str(tmp_path / "photos"), "DEMO_FOLDER": str(tmp_path / "demo")}
    with pytest.raises(SettingError, match="has one class only"):
        main([], environ)
    assert not (tmp_path / "demo").exists()


def test_a_taken_port_of_the_pictures_is_named(tmp_path: Path) -> None:
    with picture_server(tmp_path) as first:
        port = int(first.rsplit(":", 1)[1])
        with pytest.raises(StartError, match=f"pictures' port {port} cannot be had"), picture_server(tmp_path, port):
            pass


def test_a_server_that_ends_ends_the_demo(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"], text=True)
    server = Server(process, "", "", "", tmp_path / "predictor.log")
    with pytest.raises(StartError, match="the predictor ended with exit code 3; its log is"):
        stay("http://127.0.0.1/predict/", "http://127.0.0.1/a.jpg", [server])


def test_a_start_that_is_interrupted_leaves_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []

    def interrupt(process: "subprocess.Popen[str]", log: Path) -> None:
        started.append(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(launch, "_wait_until_ready", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start_server("predictor", ["--help"], tmp_path / "log")
    assert [process.returncode is None for process in started] == [False]
