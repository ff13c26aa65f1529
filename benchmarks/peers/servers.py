"""Starts and ends a peer that serves an ONNX file, with its child processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.harness.serving import ServerProcess
from benchmarks.peers.inference_protocol import wait_until_ready

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

__all__ = ["PEERS", "installed"]

HERE = Path(__file__).parent
SITE_PACKAGES_SCRIPT = (
    "import sysconfig as s; print(s.get_path('purelib'), s.get_config_var('LIBDIR'), sep='\\n')"
)


def installed(peers: Path | None) -> list[str]:
    """Return the names of the peers installed in a folder."""
    return [name for name in PEERS if peers and (peers / name).is_dir()]


@contextmanager
def triton(environment: Path, graph: bytes, model: str) -> Iterator[ServerProcess]:
    """Start Triton with its Python backend, which runs the graph with ONNX Runtime."""
    python = environment / "bin" / "python"
    site, library = _output([str(python), "-c", SITE_PACKAGES_SCRIPT]).split()
    server = Path(site, "pytriton", "tritonserver")
    version = ".".join(Path(site).parent.name.removeprefix("python").split(".")[:2])
    with TemporaryDirectory() as temporary:
        folder = Path(temporary, "models", model)
        (folder / "1").mkdir(parents=True)
        shutil.copy(HERE / "triton_model.py", folder / "1" / "model.py")
        (folder / "1" / "model.onnx").write_bytes(graph)
        (folder / "config.pbtxt").write_text('backend: "python"\n')
        backend = Path(temporary, "backends", "python")
        shutil.copytree(server / "backends" / "python", backend)
        stubs = server / "python_backend_stubs" / version
        shutil.copytree(stubs, backend, dirs_exist_ok=True)
        (backend / "triton_python_backend_stub").chmod(0o755)
        grpc_port, http_port, metrics_port = _free_ports(3)
        command = [str(server / "bin" / "tritonserver")]
        command += [f"--model-repository={folder.parent}", f"--backend-directory={backend.parent}"]
        command += ["--grpc-address=127.0.0.1", f"--grpc-port={grpc_port}"]
        command += ["--http-address=127.0.0.1", f"--http-port={http_port}"]
        command += ["--metrics-address=127.0.0.1", f"--metrics-port={metrics_port}"]
        command += ["--allow-gpu-metrics=false"]
        variables = {
            # so that the backend's process finds the interpreter's library and packages
            "LD_LIBRARY_PATH": f"{library}:{site}/nvidia_pytriton.libs",
            "PYTHONPATH": site,
            "PATH": f"{python.parent}:{os.environ['PATH']}",
        }
        with _running(command, variables, Path(temporary), grpc_port, model) as served:
            yield served


@contextmanager
def mlserver(environment: Path, graph: bytes, model: str) -> Iterator[ServerProcess]:
    """Start MLServer with a runtime that runs the graph with ONNX Runtime."""
    grpc_port, http_port, metrics_port = _free_ports(3)
    ports = {"grpc_port": grpc_port, "http_port": http_port, "metrics_port": metrics_port}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / model).mkdir()
        (folder / model / "model.onnx").write_bytes(graph)
        shutil.copy(HERE / "mlserver_runtime.py", folder)
        settings = {"host": "127.0.0.1", **ports, "parallel_workers": 0, "debug": False}
        (folder / "settings.json").write_text(json.dumps(settings))
        model_settings = {
            "name": model,
            "implementation": "mlserver_runtime.OnnxModel",
            "parameters": {"uri": str(folder / model / "model.onnx")},
        }
        (folder / model / "model-settings.json").write_text(json.dumps(model_settings))
        command = [str(environment / "bin" / "mlserver"), "start", "."]
        with _running(command, {"PYTHONPATH": temporary}, folder, grpc_port, model) as served:
            yield served


Starter: TypeAlias = "Callable[[Path, bytes, str], AbstractContextManager[ServerProcess]]"

PEERS: dict[str, Starter] = {"triton": triton, "mlserver": mlserver}


@contextmanager
def _running(
    command: list[str], variables: Mapping[str, str], folder: Path, port: int, model: str
) -> Iterator[ServerProcess]:
    """Run a server and its children in a new process group, and end them all at exit."""
    with ExitStack() as stack:
        log = stack.enter_context((folder / "log").open("w+"))
        process = subprocess.Popen(  # noqa: S603 - installed by the user
            command,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(_end, process)
        target = f"127.0.0.1:{port}"
        try:
            wait_until_ready(target, model)
        except TimeoutError as error:
            log.seek(0)
            raise RuntimeError(f"{command[0]} does not serve:\n{log.read()}") from error
        yield ServerProcess(target, process.pid)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    process.wait()


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603
