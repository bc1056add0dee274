"""The loopback Hub for people: ``python -m tests.hub [PORT]`` serves it until it is interrupted."""

import contextlib
import sys
import threading

from tests.loopback_hub import TOKEN, serve_hub

PORT = 8765


def main(port: int) -> None:
    with serve_hub(port) as hub, contextlib.suppress(KeyboardInterrupt):
        print("An empty Hub, in memory. In another terminal:\n", flush=True)
        print(f"export HF_ENDPOINT={hub.endpoint} HF_TOKEN={TOKEN}", flush=True)
        print("export HF_HUB_DISABLE_TELEMETRY=1\n\nCtrl-C ends it.", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else PORT)
