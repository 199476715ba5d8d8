"""A WebSocket that comes back: prints what it is sent.

    pip install websockets
    python3 client.py wss://ws.example.com/prod?name=ann
"""

import asyncio
import random
import sys
import time

import websockets

FIRST_WAIT_S = 0.5
WAIT_MAX_S = 30
# It lasted so long that the next failure is another one.
STABLE_S = 10

# What a server says when it would say the same the next time: the client broke a rule, or is not wanted.
# 1000 is an end in order; codes from 4000 on are your backend's: add those after which to stay away.
FINAL = {1000, 1002, 1003, 1007, 1008, 1009}
# Of handshakes: not now. Everything else that a server refuses it would refuse again.
NOT_NOW = {429, 500, 502, 503, 504}


async def stay_connected(url):
    attempts = 0
    while True:
        opened = time.monotonic()
        told = None
        try:
            async with websockets.connect(url) as socket:
                # A new connection, with a new ID: say again what the backend is to know.
                print("connected", flush=True)
                async for message in socket:
                    print(message, flush=True)
            code = socket.close_code
        except websockets.ConnectionClosed as closed:
            code = closed.rcvd.code if closed.rcvd else 1006
        except websockets.InvalidStatus as refused:
            if refused.response.status_code not in NOT_NOW:
                raise
            code, told = 1006, refused.response.headers.get("Retry-After")
        except (OSError, websockets.InvalidMessage):
            # No connection, or one that ended within the handshake.
            code = 1006
        if code in FINAL:
            return code
        if time.monotonic() - opened > STABLE_S:
            attempts = 0
        # By chance, so that clients that lost the same node do not come back at the same moment. What
        # the server says is by chance already.
        longest = min(WAIT_MAX_S, FIRST_WAIT_S * 2**attempts)
        wait = float(told) if told else random.uniform(0, longest)
        attempts += 1
        print(f"{code}: again in {wait:.1f} s", flush=True)
        await asyncio.sleep(wait)


if __name__ == "__main__":
    print("ended with", asyncio.run(stay_connected(sys.argv[1])))
