"""Messages of all shapes, with the library `websockets` on both sides.

websocket_messages.py serve           prints its port, and serves until its standard input ends
websocket_messages.py call URL        runs all cases, and prints the name of each that passes
websocket_messages.py call URL CA     the same over TLS
"""

import asyncio
import ssl
import sys

import websockets


async def echo(socket):
    async for message in socket:
        if message == "close 4321":
            await socket.close(4321, "as you wish")
        elif message == "subprotocol":
            await socket.send(str(socket.subprotocol))
        elif message == "via":
            await socket.send(socket.request.headers.get("Via", "nobody"))
        else:
            await socket.send(message)


async def serve():
    choose = lambda socket, offered: "chat" if "chat" in offered else None
    async with websockets.serve(echo, "127.0.0.1", 0, select_subprotocol=choose, max_size=None) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


class Cases:
    def __init__(self, url, context):
        self.url, self.context = url, context

    def open(self, **options):
        options.setdefault("max_size", None)
        return websockets.connect(self.url, ssl=self.context, proxy=None, **options)

    async def texts_and_bytes_of_all_sizes(self):
        for compression in (None, "deflate"):
            async with self.open(compression=compression) as socket:
                for size in (0, 1, 125, 126, 127, 65535, 65536, 2_000_000):
                    for message in ("t" * size, bytes(size), "☺" * (size // 3)):
                        await socket.send(message)
                        assert await socket.recv() == message, size

    async def fragments(self):
        async with self.open(compression=None) as socket:
            await socket.send(["a", "", "b" * 70000, "c"])
            assert await socket.recv() == "a" + "b" * 70000 + "c"

    async def pings_between_fragments(self):
        async with self.open(compression=None) as socket:
            async def parts():
                yield b"first"
                await asyncio.wait_for(await socket.ping(b"between"), 10)
                yield b"last"
            await socket.send(parts())
            assert await socket.recv() == b"firstlast"

    async def many_messages_at_once(self):
        async with self.open() as socket:
            await asyncio.gather(*(socket.send(f"message {at}") for at in range(2000)))
            assert [await socket.recv() for _ in range(2000)] == [f"message {at}" for at in range(2000)]

    async def subprotocols(self):
        async with self.open(subprotocols=["soap", "chat"]) as socket:
            await socket.send("subprotocol")
            assert (await socket.recv(), socket.subprotocol) == ("chat", "chat")

    async def a_close_of_the_service(self):
        async with self.open() as socket:
            await socket.send("close 4321")
            try:
                await socket.recv()
                raise AssertionError("it is closed")
            except websockets.ConnectionClosed as closed:
                assert (closed.rcvd.code, closed.rcvd.reason) == (4321, "as you wish")

    async def a_close_of_the_client(self):
        socket = await self.open()
        await socket.close(4000, "mine")
        assert (socket.close_code, socket.close_reason) == (4000, "mine")

    async def a_frame_that_is_not_masked_is_refused_by_the_service(self):
        socket = await self.open(compression=None)
        socket.transport.write(b"\x81\x01x")
        await asyncio.wait_for(socket.wait_closed(), 10)
        assert socket.close_code == 1002, socket.close_code


async def call(url, context):
    cases = Cases(url, context)
    for name in [name for name in vars(Cases) if not name.startswith("_") and name != "open"]:
        await asyncio.wait_for(getattr(cases, name)(), 60)
        print(name, flush=True)


if sys.argv[1] == "serve":
    asyncio.run(serve())
else:
    trust = ssl.create_default_context(cafile=sys.argv[3]) if len(sys.argv) > 3 else None
    asyncio.run(call(sys.argv[2], trust))
