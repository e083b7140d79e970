"""Flask behind the gateway: says which handler ran and which tokens it sees. Prints `ready PORT`."""

from flask import Flask, request
from werkzeug.serving import make_server

app = Flask(__name__)
METHODS = ["GET", "POST", "PUT", "DELETE", "PATCH"]


def answer(handler):
    words = request.headers.get("Authorization", "").split()
    bearer = words[1] if len(words) > 1 and words[0].lower() == "bearer" else ""
    seen = [request.args.get("access_token", ""), request.cookies.get("session", ""), bearer]
    seen += [request.headers.get("X-User-Id", ""), request.environ.get("HTTP_X_USER_ID", "")]
    return "|".join([handler, *seen])


@app.route("/@me", methods=METHODS)
@app.route("/v1/things:purge", methods=METHODS)
@app.route("/admin", methods=METHODS)
@app.route("/admin/<path:rest>", methods=METHODS)
def closed(rest=""):
    return answer("closed")


@app.route("/", methods=METHODS)
@app.route("/<path:rest>", methods=METHODS)
def opened(rest=""):
    return answer("open")


server = make_server("127.0.0.1", 0, app, threaded=True)
print("ready", server.server_port, flush=True)
server.serve_forever()
