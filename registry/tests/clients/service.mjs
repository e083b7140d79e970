// A service's life with the `consul` of npm, found by NODE_MODULES.
//
//     NODE_MODULES=…/node_modules node service.mjs HOST PORT

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { setTimeout as pause } from "node:timers/promises";

const require = createRequire(process.env.NODE_MODULES + "/");
const Consul = require("consul");
const [host, port] = process.argv.slice(2);
const consul = new Consul({ host, port: Number(port) });

assert.match(await consul.status.leader(), /:\d+$/);
const self = await consul.agent.self();
assert.equal(self.Config.Datacenter, "dc1");

// A watch, which sees what follows.
const watch = consul.watch({ method: consul.health.service, options: { service: "cart", wait: "10s" } });
const seen = [];
watch.on("change", (entries) => seen.push(entries.map((entry) => entry.Checks.map((check) => check.Status))));
watch.on("error", (error) => { throw error; });
async function until(what, holds) {
  const end = Date.now() + 15_000;
  while (!seen.some(holds)) {
    assert(Date.now() < end, `never seen: ${what}; ${JSON.stringify(seen)}`);
    await pause(20);
  }
}
await until("no instance", (entries) => entries.length === 0);

await consul.agent.service.register({
  name: "cart", id: "cart-1", address: "127.0.0.1", port: 8002, tags: ["blue"], meta: { version: "2" },
  check: { ttl: "10s", name: "alive" },
});
await until("the instance", (entries) => entries.length === 1 && entries[0].includes("critical"));
await consul.agent.check.pass({ id: "service:cart-1", note: "fine" });
await until("passing", (entries) => entries.length === 1 && entries[0].every((status) => status === "passing"));
const [entry] = await consul.health.service({ service: "cart", passing: true });
assert.deepEqual([entry.Service.Port, entry.Service.Tags, entry.Service.Meta.version], [8002, ["blue"], "2"]);
assert.deepEqual(Object.keys(await consul.agent.services()).includes("cart-1"), true);
assert.deepEqual((await consul.catalog.service.list()).cart, ["blue"]);
assert.equal((await consul.catalog.service.nodes("cart"))[0].ServiceID, "cart-1");
assert.ok((await consul.catalog.node.list()).length >= 1);

// An HTTP check of something that is not there.
await consul.agent.check.register({ name: "away", http: "http://127.0.0.1:9/", interval: "1s", serviceid: "cart-1" });
assert.equal((await consul.agent.check.list()).away.Status, "critical");
await consul.agent.check.deregister("away");
await consul.agent.service.maintenance({ id: "cart-1", enable: true, reason: "deploy" });
await consul.agent.service.maintenance({ id: "cart-1", enable: false });

await consul.kv.set("cart/limit", "10");
assert.equal((await consul.kv.get("cart/limit")).Value, "10");
assert.ok(!(await consul.kv.set({ key: "cart/limit", value: "11", cas: "1" })));
assert.deepEqual(await consul.kv.keys("cart/"), ["cart/limit"]);
assert.equal(await consul.kv.get("cart/none"), undefined);

const { ID: session } = await consul.session.create({ name: "leader", lockdelay: "0s", behavior: "release" });
assert.equal(await consul.kv.set({ key: "cart/leader", value: "me", acquire: session }), true);
assert.equal((await consul.session.list()).some((known) => known.ID === session), true);
await consul.session.destroy(session);
assert.equal((await consul.kv.get("cart/leader")).Session, undefined);

const done = await consul.transaction.create([{ KV: { Verb: "set", Key: "cart/t", Value: Buffer.from("1").toString("base64") } }]);
assert.equal(done.Results[0].KV.Key, "cart/t");
await consul.kv.del({ key: "cart/", recurse: true });

await consul.agent.service.deregister("cart-1");
await until("gone again", (entries) => entries.length === 0 && seen.length > 1 && seen.at(-1).length === 0);
watch.end();
console.log("ok");
process.exit(0);
