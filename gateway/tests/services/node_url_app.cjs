// Node without a framework behind the gateway: the target is read as a URL, which takes what follows `//` for a host.
// Says which handler ran. Prints `ready PORT`.
const http = require("http");

const server = http.createServer((request, response) => {
  let path;
  try {
    path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  } catch {
    response.statusCode = 400;
    return response.end("error");
  }
  const url = new URL(request.url, "http://localhost");
  const isClosed = path === "/@me" || path === "/v1/things:purge" || /^\/admin(\/|$)/.test(path);
  const words = (request.headers["authorization"] || "").split(/\s+/);
  const query = url.searchParams.getAll("access_token").pop() || "";
  const user = request.headers["x-user-id"] || "";
  response.end([isClosed ? "closed" : "open", query, "", words[1] || "", user, ""].join("|"));
});
server.listen(0, "127.0.0.1", () => console.log("ready", server.address().port));
