"""What runs in the emulator's process: ministack as a whole AWS, on an inherited socket.

It runs Python functions with ``sys.executable``. Here that is a script which hides the packages of this environment:
a function sees its artifact, its layer and what Lambda's runtime brings, as in Lambda.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from importlib import import_module

from hypercorn.asyncio import serve
from hypercorn.config import Config


async def _run(descriptor: int) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    config = Config()
    config.bind = [f"fd://{descriptor}"]
    config.keep_alive_timeout = 75
    config.loglevel = "WARNING"

    async def stop() -> None:
        await stopping.wait()

    await serve(import_module("ministack.app").app, config, shutdown_trigger=stop)


if __name__ == "__main__":
    sys.executable = sys.argv[2]
    asyncio.run(_run(int(sys.argv[1])))
