"""The cases of gRPC's interoperability tests, with grpcio on both sides.

grpc_calls.py serve              prints its port, and serves until its standard input ends
grpc_calls.py call HOST:PORT     runs all cases, and prints the name of each that passes

Messages are plain bytes, so no generated code is needed. The names are those of gRPC's interop-test-descriptions.
"""

import sys
import threading
import time

import grpc

SERVICE = "grpc.testing.TestService"
cancelled = threading.Event()


def identity(data):
    return data


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    if "x-grpc-test-echo-initial" in metadata:
        context.send_initial_metadata((("x-grpc-test-echo-initial", metadata["x-grpc-test-echo-initial"]),))
    if "x-grpc-test-echo-trailing-bin" in metadata:
        context.set_trailing_metadata((("x-grpc-test-echo-trailing-bin", metadata["x-grpc-test-echo-trailing-bin"]),))
    if request.startswith(b"status:"):
        _, code, message = request.decode().split(":", 2)
        context.abort(next(c for c in grpc.StatusCode if c.value[0] == int(code)), message)
    if request == b"cancelled?":
        return b"yes" if cancelled.wait(5) else b"no"
    if request == b"deadline?":
        return str(context.time_remaining()).encode()
    return request


def client_stream(requests, context):
    return str(sum(len(request) for request in requests)).encode()


def server_stream(request, context):
    for size in request.decode().split(","):
        yield b"x" * int(size)


def both(requests, context):
    context.add_callback(cancelled.set)
    cancelled.clear()
    for request in requests:
        if request.startswith(b"status:"):
            _, code, message = request.decode().split(":", 2)
            context.abort(next(c for c in grpc.StatusCode if c.value[0] == int(code)), message)
        if request == b"sleep":
            time.sleep(2)
        yield request


def serve():
    from concurrent import futures

    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    handlers = {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "Both": grpc.stream_stream_rpc_method_handler(both),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    sys.stdin.read()
    server.stop(0)


class Cases:
    def __init__(self, channel):
        path = f"/{SERVICE}/"
        self.unary = channel.unary_unary(path + "Unary")
        self.client_stream = channel.stream_unary(path + "ClientStream")
        self.server_stream = channel.unary_stream(path + "ServerStream")
        self.both = channel.stream_stream(path + "Both")
        self.unknown = channel.unary_unary(path + "Unknown")
        self.elsewhere = channel.unary_unary("/grpc.testing.Nobody/Unary")

    def empty_unary(self):
        assert self.unary(b"") == b""

    def large_unary(self):
        assert self.unary(b"l" * 314159) == b"l" * 314159

    def client_streaming(self):
        assert self.client_stream(iter([b"a" * size for size in (27182, 8, 1828, 45904)])) == b"74922"

    def server_streaming(self):
        got = [len(message) for message in self.server_stream(b"31415,9,2653,58979")]
        assert got == [31415, 9, 2653, 58979], got

    def ping_pong(self):
        turns = threading.Semaphore(0)
        sent = [b"p" * size for size in (27182, 8, 1828, 45904)]

        def requests():
            for message in sent:
                yield message
                # The next one only after the answer to this one.
                assert turns.acquire(timeout=10)

        got = []
        for message in self.both(requests()):
            got.append(message)
            turns.release()
        assert got == sent

    def empty_stream(self):
        assert list(self.both(iter([]))) == []

    def custom_metadata(self):
        metadata = (("x-grpc-test-echo-initial", "initial"), ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab"))
        response, call = self.unary.with_call(b"m", metadata=metadata)
        assert response == b"m"
        assert ("x-grpc-test-echo-initial", "initial") in [tuple(pair) for pair in call.initial_metadata()]
        assert ("x-grpc-test-echo-trailing-bin", b"\xab\xab\xab") in [tuple(pair) for pair in call.trailing_metadata()]

    def status_code_and_message(self):
        for call in (lambda: self.unary(b"status:2:test status message"), lambda: list(self.both(iter([b"status:2:test status message"])))):
            error = failure(call)
            assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, "test status message")

    def special_status_message(self):
        text = "\t\ntest with whitespace\r\nand Unicode BMP ☺ and non-BMP 😈\t\n"
        error = failure(lambda: self.unary(b"status:2:" + text.encode()))
        assert (error.code(), error.details()) == (grpc.StatusCode.UNKNOWN, text), error

    def unimplemented_method(self):
        assert failure(lambda: self.unknown(b"")).code() == grpc.StatusCode.UNIMPLEMENTED

    def unimplemented_service(self):
        assert failure(lambda: self.elsewhere(b"")).code() == grpc.StatusCode.UNIMPLEMENTED

    def cancel_after_first_response(self):
        stop = threading.Event()

        def requests():
            yield b"first"
            stop.wait(10)

        call = self.both(requests())
        assert next(iter(call)) == b"first"
        call.cancel()
        stop.set()
        assert failure(lambda: list(call)).code() == grpc.StatusCode.CANCELLED
        assert self.unary(b"cancelled?") == b"yes", "the service learns it"

    def timeout_on_sleeping_server(self):
        error = failure(lambda: list(self.both(iter([b"sleep"]), timeout=0.3)))
        assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED

    def deadline_is_passed_on(self):
        assert 8 < float(self.unary(b"deadline?", timeout=10)) < 10.5


def failure(call):
    try:
        call()
    except grpc.RpcError as error:
        return error
    raise AssertionError("the call succeeds")


def call(address):
    options = (("grpc.max_receive_message_length", -1),)
    with grpc.insecure_channel(address, options=options) as channel:
        cases = Cases(channel)
        for name in [name for name in vars(Cases) if not name.startswith("_")]:
            getattr(cases, name)()
            print(name, flush=True)


serve() if sys.argv[1] == "serve" else call(sys.argv[2])
