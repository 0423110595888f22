"""Starts a built image as a container engine would (its user, its environment, a read-only root) and asks it.

`container_check.py ROOT FOLDER CONFIG`: the image's root, a folder to work in, the image's configuration as JSON.
Three containers of one image on loopback: a toy system, IAM with the shipped policies, and the gateway.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROUTES = """
version: 1
server: {{listen: "127.0.0.1:{port}", admin: "127.0.0.1:{admin}", trusted_proxies: [127.0.0.0/8], drain_timeout: 2s}}
iam: {{url: "http://127.0.0.1:{iam}"}}
identity: {{header: {{name: X-User}}}}
upstreams: {{inventory: {{url: "http://127.0.0.1:{system}"}}}}
routes:
  - {{id: inventory, path: /inventory/*, upstream: inventory, authorize: ["read system:inventory"], methods: [GET]}}
"""
INSIDE = """
set -e
mount --bind "$ROOT" "$ROOT"
mount --bind "$CONFIG" "$ROOT/etc/gateway"
mount -t tmpfs tmpfs "$ROOT/tmp"
mount -t proc proc "$ROOT/proc"
mount --bind /dev "$ROOT/dev"
mount -o remount,ro,bind "$ROOT"
exec chroot --userspec="$IMAGE_USER" "$ROOT" /usr/bin/env --ignore-environment --chdir="$IMAGE_FOLDER" "$@"
"""
PATIENCE_S = 30.0


class Image:
    """A built image: where its root is, and what it says of itself."""

    def __init__(self, root: str, mounted: Path, config: dict[str, Any]) -> None:
        self.root, self.mounted, self.config = root, mounted, config

    def start(self, command: Sequence[str], **environ: str) -> subprocess.Popen[bytes]:
        """A container with this command."""
        variables = [*self.config["Env"], *(f"{name}={value}" for name, value in environ.items())]
        return subprocess.Popen(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", INSIDE, "sh", *variables, *command],
            env={
                **os.environ,
                "ROOT": self.root,
                "CONFIG": str(self.mounted),
                "IMAGE_USER": self.config["User"],
                "IMAGE_FOLDER": self.config["WorkingDir"],
            },
        )

    def run(self, command: Sequence[str], **environ: str) -> int:
        """The exit code of a command in a container."""
        return self.start(command, **environ).wait(PATIENCE_S)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def ask(url: str, user: str = "") -> int:
    """The status of a GET, 0 if nobody answers."""
    request = urllib.request.Request(url, headers={"X-User": user} if user else {})  # noqa: S310 - our own http URLs
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
            return int(reply.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def expect(what: str, found: object, wanted: object) -> None:
    """Say what was found; end the check if it is not what was wanted."""
    print(f"{'ok  ' if found == wanted else 'FAIL'} {what}: {found}", flush=True)
    if found != wanted:
        sys.exit(1)


def until(url: str, status: int) -> None:
    """Wait for an answer."""
    end = time.monotonic() + PATIENCE_S
    while ask(url) != status:
        if time.monotonic() > end:
            sys.exit(f"{url} never answered {status}")
        time.sleep(0.2)


def main() -> None:
    """Check the image; exit code 1 for what is not as promised."""
    root, folder, document = sys.argv[1:]
    config = json.loads(Path(document).read_text())["Docker"]["config"]
    mounted = Path(folder) / "config"
    image = Image(root, mounted, config)
    ports = {name: free_port() for name in ("port", "admin", "iam", "system")}
    (mounted / "routes.yaml").write_text(ROUTES.format(**ports))
    shutil.copytree("policies/access", mounted / "access")
    for path in (Path(folder), mounted, *mounted.rglob("*")):
        path.chmod(0o755)
    expect("user", config["User"], "65532:65532")
    expect("signal", config["StopSignal"], "SIGTERM")
    expect("no pip inside", image.run(["sh", "-c", "! python3 -m pip --version 2>/dev/null"]), 0)
    expect("root is read-only", image.run(["sh", "-c", "! touch /etc/gateway/x /opt/gateway/x 2>/dev/null"]), 0)
    iam = ["gateway", "iam", "--policies", "/etc/gateway/access", "--listen", f"127.0.0.1:{ports['iam']}"]
    system = ["python3", "-m", "gateway.demo", "system", "inventory", f"127.0.0.1:{ports['system']}"]
    containers = [image.start(command) for command in (iam, system, [*config["Entrypoint"], *config["Cmd"]])]
    try:
        check(image, ports)
        containers[-1].send_signal(signal.SIGTERM)
        expect("exit code after SIGTERM", containers[-1].wait(PATIENCE_S), 0)
    finally:
        for container in containers:
            container.terminate()
            container.wait(PATIENCE_S)


def check(image: Image, ports: dict[str, int]) -> None:
    """What the running containers have to answer."""
    gateway = f"http://127.0.0.1:{ports['port']}/inventory/7"
    until(f"http://127.0.0.1:{ports['admin']}/readyz", 200)
    until(f"http://127.0.0.1:{ports['system']}/health", 200)
    until(f"http://127.0.0.1:{ports['iam']}/.well-known/authzen-configuration", 200)
    expect("allowed", ask(gateway, "alice"), 200)
    expect("denied", ask(gateway, "mallory"), 403)
    expect("unauthenticated", ask(gateway), 401)
    healthcheck = image.config["Healthcheck"]["Test"]
    expect("healthcheck's form", healthcheck[0], "CMD")
    expect("healthcheck", image.run(healthcheck[1:], GATEWAY_ADMIN_PORT=str(ports["admin"])), 0)
    wrong = image.run([*healthcheck[1:]], GATEWAY_ADMIN_PORT=str(free_port()))
    expect("healthcheck of a port where nobody listens", wrong, 1)


if __name__ == "__main__":
    main()
