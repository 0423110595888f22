"""One part of the demo by itself, for containers: `python -m gateway.demo system NAME HOST:PORT`, or `issue FOLDER`."""

from __future__ import annotations

import argparse
from pathlib import Path

import uvicorn

from gateway.demo.state import PEOPLE, Issuer
from gateway.demo.systems import SYSTEMS, system


def main() -> None:
    """Serve a toy system until told to stop, or write a key and tokens to a folder."""
    parser = argparse.ArgumentParser(prog="python -m gateway.demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    serving = commands.add_parser("system", help="serve a toy system")
    serving.add_argument("name", choices=sorted(SYSTEMS))
    serving.add_argument("listen", metavar="HOST:PORT")
    issuing = commands.add_parser("issue", help="write jwks.json and a token for each person")
    issuing.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "system":
        host, _, port = arguments.listen.rpartition(":")
        uvicorn.run(system(arguments.name), host=host, port=int(port), log_level="warning")
    else:
        issue(arguments.folder)


def issue(folder: Path) -> None:
    """`jwks.json`, and `NAME.token` for everybody; whoever reads them may be another user."""
    issuer = Issuer()
    issuer.write_jwks(folder / "jwks.json")
    for name in PEOPLE:
        (folder / f"{name}.token").write_text(issuer.token(name))
        (folder / f"{name}.token").chmod(0o644)
    (folder / "jwks.json").chmod(0o644)


if __name__ == "__main__":
    main()
