// What a page in a browser does with a gateway on another origin: calls of gRPC-Web with Google's own library, and a WebSocket.
//
// It reports one line for each thing that works, or what went wrong, to the place that it came from.
import { GrpcWebClientBase, MethodDescriptor, MethodType, StatusCode } from "./grpc-web.js";

const gateway = new URLSearchParams(location.search).get("gateway");
const lines = [];

function method(name, type) {
    // Messages are plain bytes, so no generated code is needed.
    const bytes = (data) => data;
    return new MethodDescriptor(`/grpc.testing.TestService/${name}`, type, Uint8Array, Uint8Array, bytes, (data) => new Uint8Array(data));
}

const text = (bytes) => new TextDecoder().decode(bytes);
const encoded = (words) => new TextEncoder().encode(words);

function expect(what, is, wanted) {
    if (JSON.stringify(is) !== JSON.stringify(wanted)) throw new Error(`${what}: ${JSON.stringify(is)}, not ${JSON.stringify(wanted)}`);
}

async function calls(format) {
    const client = new GrpcWebClientBase({ format });
    const unary = (name, message, metadata = {}) =>
        client.unaryCall(`${gateway}/grpc.testing.TestService/${name}`, message, metadata, method(name, MethodType.UNARY));
    const failure = async (call) => call.then(() => "no failure", (error) => [error.code, error.message]);

    expect("unary", text(await unary("Unary", encoded("☺ and NUL \0"))), "☺ and NUL \0");
    expect("large", (await unary("Unary", new Uint8Array(300000).fill(7))).length, 300000);
    lines.push(`${format}: unary`);

    expect("status", await failure(unary("Unary", encoded("status:9:no %, no ☺"))), [StatusCode.FAILED_PRECONDITION, "no %, no ☺"]);
    expect("unknown", (await failure(unary("Unknown", encoded(""))))[0], StatusCode.UNIMPLEMENTED);
    lines.push(`${format}: errors of the service`);

    // The library takes the status of an answer without a message from the head, and so must it find it there.
    const [code, message] = await failure(unary("Closed", encoded("x")));
    if (code !== StatusCode.UNAUTHENTICATED || !message) throw new Error(`closed: ${code} ${message}`);
    lines.push(`${format}: an error of the gateway`);

    // Deadlines are `grpc-timeout` for the gateway, a time for the library, which waits a little itself.
    const deadline = { deadline: String(Date.now() + 60000) };
    const left = Number(text(await unary("Unary", encoded("deadline?"), deadline)));
    if (!(left > 30 && left <= 60)) throw new Error(`the service sees ${left} s`);
    lines.push(`${format}: a deadline`);

    if (format === "text") {
        const stream = client.serverStreaming(
            `${gateway}/grpc.testing.TestService/ServerStream`, encoded("10,0,70000"), {}, method("ServerStream", MethodType.SERVER_STREAMING));
        const sizes = await new Promise((resolve, reject) => {
            const got = [];
            stream.on("data", (data) => got.push(data.length));
            stream.on("error", reject);
            stream.on("end", () => resolve(got));
        });
        expect("stream", sizes, [10, 0, 70000]);
        lines.push("text: a stream of messages");
    }
}

async function socket() {
    // Chromium opens a WebSocket over HTTP/2 only if it has a connection that knows how, and one without cookies is another one.
    await fetch(gateway, { mode: "no-cors", credentials: "include" });
    const socket = new WebSocket(gateway.replace("https", "wss") + "/socket", ["chat", "other"]);
    const next = () => new Promise((resolve, reject) => {
        socket.onmessage = (event) => resolve(event.data);
        socket.onerror = () => reject(new Error("the WebSocket fails"));
        socket.onclose = (event) => resolve([event.code, event.reason, event.wasClean]);
    });
    await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onclose = socket.onerror = () => reject(new Error("the WebSocket does not open"));
    });
    expect("subprotocol", socket.protocol, "chat");
    for (const message of ["hello", "☺".repeat(50000)]) {
        const came = next();
        socket.send(message);
        expect("echo", (await came).length, message.length);
    }
    const via = next();
    socket.send("via");
    lines.push(`a WebSocket that came by ${await via}`);
    const closed = next();
    socket.send("close 4321");
    expect("close", await closed, [4321, "as you wish", true]);
    lines.push("a close with the service's code and reason");
}

try {
    await calls("text");
    await calls("binary");
    await socket();
} catch (error) {
    lines.push(`failed: ${error.message ?? error}`);
}
await fetch("/report", { method: "POST", body: lines.join("\n") });
