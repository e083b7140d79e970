"""A service's life with python-consul or py-consul, whichever PYTHONPATH has.

    python3 service.py HOST PORT

Fails with an AssertionError where Consul 1.8.7 would not have answered so.
"""

import sys
import threading
import time

import consul

host, port = sys.argv[1], int(sys.argv[2])
c = consul.Consul(host=host, port=port)


def eventually(what, holds):
    end = time.monotonic() + 15
    while time.monotonic() < end:
        if holds():
            return
        time.sleep(0.02)
    raise AssertionError("never seen: " + what)


assert ":" in c.status.leader()
assert c.status.peers()
node = c.agent.self()["Config"]["NodeName"]

# Register with a TTL check, which is critical until the first heartbeat.
check = consul.Check.ttl("10s")
assert c.agent.service.register(
    "web", service_id="web-1", address="127.0.0.1", port=8001, tags=["v1", "primary"], check=check
)
assert c.agent.services()["web-1"]["Port"] == 8001
assert c.agent.checks()["service:web-1"]["Status"] == "critical"
index, entries = c.health.service("web")
assert [entry["Service"]["ID"] for entry in entries] == ["web-1"], entries
assert c.health.service("web", passing=True)[1] == []
assert c.agent.check.ttl_pass("service:web-1", "fine")
eventually("passing", lambda: len(c.health.service("web", passing=True)[1]) == 1)
assert c.health.service("web", tag="v2")[1] == []
assert c.health.node(node)[1]
assert [check["Status"] for check in c.health.checks("web")[1]] == ["passing"]

# A blocking query wakes on a change, and at its time without one.
index, _ = c.health.service("web")
seen = []
waiting = threading.Thread(target=lambda: seen.append(c.health.service("web", index=index, wait="10s")))
waiting.start()
time.sleep(0.2)
assert not seen, "it did not block"
assert c.agent.check.ttl_fail("service:web-1", "broken")
waiting.join(15)
assert [check["Status"] for check in seen[0][1][0]["Checks"] if check["ServiceID"]] == ["critical"]
begin = time.monotonic()
assert c.health.service("web", index=seen[0][0], wait="300ms")[1]
assert 0.25 < time.monotonic() - begin < 5

# Catalog and maintenance.
assert "web" in c.catalog.services()[1]
assert sorted(c.catalog.services()[1]["web"]) == ["primary", "v1"]
assert c.catalog.service("web")[1][0]["ServicePort"] == 8001
assert c.catalog.node(node)[1]["Services"]["web-1"]
assert c.catalog.datacenters() == ["dc1"]
assert c.agent.service.maintenance("web-1", "true", reason="deploy")
names = [check["CheckID"] for check in c.health.service("web")[1][0]["Checks"]]
assert "_service_maintenance:web-1" in names, names
assert c.agent.service.maintenance("web-1", "false")

# Catalog registrations of nodes that have no agent.
assert c.catalog.register("external", "10.0.0.9", service={"Service": "db", "ID": "db-1", "Port": 5432})
assert [entry["ServiceAddress"] or entry["Address"] for entry in c.catalog.service("db")[1]] == ["10.0.0.9"]
assert c.catalog.deregister("external")
assert c.catalog.service("db")[1] == []

# Keys, with check-and-set and by prefix.
assert c.kv.put("app/a", "1") and c.kv.put("app/b", "2")
index, pair = c.kv.get("app/a")
assert pair["Value"] == b"1"
assert c.kv.put("app/a", "3", cas=pair["ModifyIndex"])
assert not c.kv.put("app/a", "4", cas=pair["ModifyIndex"])
assert c.kv.get("app/", keys=True)[1] == ["app/a", "app/b"]
assert [pair["Key"] for pair in c.kv.get("app/", recurse=True)[1]] == ["app/a", "app/b"]
assert c.kv.get("none")[1] is None

# A lock of two sessions.
first, second = c.session.create(name="first", ttl=10, lock_delay=0), c.session.create(lock_delay=0)
assert c.kv.put("lock", "x", acquire=first)
assert not c.kv.put("lock", "y", acquire=second)
assert c.session.renew(first)
assert c.session.destroy(first)
assert c.kv.put("lock", "y", acquire=second)
assert c.kv.get("lock")[1]["Session"] == second
assert c.kv.put("lock", "y", release=second)
assert c.session.destroy(second)
assert c.kv.delete("app/", recurse=True) and c.kv.delete("lock")

assert c.event.fire("deployed", "v2")
eventually("the event", lambda: [e for e in c.event.list("deployed")[1] if e["Payload"] == b"v2"])

assert c.agent.service.deregister("web-1")
assert c.health.service("web")[1] == []
print("ok")
