"""Django behind the gateway: says which handler ran and which tokens it sees. Prints `ready PORT`."""

from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="none", MIDDLEWARE=[])


def answer(request, handler):
    words = request.headers.get("Authorization", "").split()
    bearer = words[1] if len(words) > 1 and words[0].lower() == "bearer" else ""
    seen = [request.GET.get("access_token", ""), request.COOKIES.get("session", ""), bearer]
    seen += [request.headers.get("X-User-Id", ""), request.META.get("HTTP_X_USER_ID", "")]
    return HttpResponse("|".join([handler, *seen]))


def closed(request, rest=""):
    return answer(request, "closed")


def opened(request, rest=""):
    return answer(request, "open")


closed_paths = ["@me", "v1/things:purge", "admin", "admin/<path:rest>"]
urlpatterns = [path(closed_path, closed) for closed_path in closed_paths]
urlpatterns += [path("", opened), path("<path:rest>", opened)]


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Silent(WSGIRequestHandler):
    def log_message(self, *arguments):
        pass


# Python's own server: it lets `X_User_Id` stand for `X-User-Id`.
server = make_server("127.0.0.1", 0, get_wsgi_application(), Server, Silent)
print("ready", server.server_port, flush=True)
server.serve_forever()
