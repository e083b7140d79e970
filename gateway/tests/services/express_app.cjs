// Express behind the gateway: says which handler ran and which tokens it sees. Prints `ready PORT`.
const express = require("express");
const { parse } = require("cookie");

function answer(handler) {
  return (request, response) => {
    const words = (request.get("authorization") || "").split(/\s+/);
    const bearer = words[0].toLowerCase() === "bearer" ? words[1] || "" : "";
    const token = request.query.access_token;
    const query = Array.isArray(token) ? token[token.length - 1] : token || "";
    const session = parse(request.headers.cookie || "").session || "";
    response.send([handler, query, session, bearer, request.get("x-user-id") || "", ""].join("|"));
  };
}

const app = express();
app.all("/@me", answer("closed"));
app.all("/v1/things\\:purge", answer("closed"));
app.use("/admin", answer("closed"));
app.use(answer("open"));
const server = app.listen(0, "127.0.0.1", () => console.log("ready", server.address().port));
