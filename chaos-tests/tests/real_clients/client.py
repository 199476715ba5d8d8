"""What a client may do, done by the library `websockets`. The test at the other side plays the backend."""

import asyncio
import json
import sys

import websockets


async def talk(url):
    async with websockets.connect(url, subprotocols=["other", "chat"]) as socket:
        assert socket.subprotocol == "chat", socket.subprotocol
        await socket.send("hello ü")
        assert await socket.recv() == "hello ü"
        await socket.send(bytes(range(256)))
        assert await socket.recv() == bytes(range(256))
        await socket.send(["a" * 30000] * 4)
        assert await socket.recv() == "a" * 120000
        await (await socket.ping(b"are you there"))
        await socket.close(4321, "bye bye")
        assert (socket.close_code, socket.close_reason) == (4321, "bye bye")


async def be_called(url):
    async with websockets.connect(url, subprotocols=["chat"]) as socket:
        await socket.send(json.dumps({"action": "whoami"}))
        print(await socket.recv(), flush=True)
        assert await socket.recv() == "from the backend"
        try:
            await socket.recv()
            raise AssertionError("it is closed")
        except websockets.ConnectionClosed as closed:
            assert (closed.rcvd.code, closed.rcvd.reason) == (4000, "enough"), closed


async def be_refused(url):
    try:
        async with websockets.connect(url + "?refuse=1"):
            raise AssertionError("it is refused")
    except websockets.InvalidStatus as refused:
        assert refused.response.status_code == 403, refused


url = sys.argv[1]
asyncio.run(talk(url))
asyncio.run(be_called(url))
asyncio.run(be_refused(url))
