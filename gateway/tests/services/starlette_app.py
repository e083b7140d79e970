"""Starlette on uvicorn behind the gateway: says which handler ran and which tokens it sees. Prints `ready PORT`."""

import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


def answer(request, handler):
    words = request.headers.get("Authorization", "").split()
    bearer = words[1] if len(words) > 1 and words[0].lower() == "bearer" else ""
    seen = [request.query_params.get("access_token", ""), request.cookies.get("session", ""), bearer]
    seen += [request.headers.get("X-User-Id", ""), ""]
    return PlainTextResponse("|".join([handler, *seen]))


async def closed(request):
    return answer(request, "closed")


async def opened(request):
    return answer(request, "open")


closed_paths = ["/@me", "/v1/things:purge", "/admin", "/admin/{rest:path}"]
routes = [Route(path, closed, methods=METHODS) for path in closed_paths]
app = Starlette(routes=[*routes, Route("/{rest:path}", opened, methods=METHODS)])

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(64)
print("ready", listener.getsockname()[1], flush=True)
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listener])
