import json, time, threading, http.client, random
import pytest
from vecmeter_local.server import HttpServer, listen, url_of

def test_probe(tenant):
    c = tenant.collection()
    r = tenant.call("POST", c + "/vectors", json={"vectors": [{"id": "a", "vector": [1,2,3], "metadata": {"a": None}}]})
    print(r.status_code, r.headers, r.text)
    r = tenant.call("POST", c + "/search", json={"vector": [1,2,3], "include":["vector","metadata"], "include_debug": True})
    print(r.status_code, r.headers, r.text)
    r = tenant.call("GET", c); print(r.text)
    r = tenant.call("GET", ""); print(r.text)
    r = tenant.call("PUT", c + "/vectors/%FF", json={"vector":[1,2,3]}); print(r.text)
    r = tenant.call("GET", c+"/vectors"); print(r.text)
    print(tenant.contents(), tenant.api.records(tenant.key))
    for m in ("HEAD","OPTIONS","DELETE"):
        r = tenant.call(m, ""); print(m, r.status_code, r.headers, r.text)
    for body in (b"", b"null", b"[]", b"{", b'{"vectors":[{"id":"\\ud800","vector":[1,2,3]}]}', b'{"vectors":[{"id":"x","vector":[1,2,3], "metadata": {"a": '+b'['*3000+b']'*3000+b'}}]}', b'{"vectors":[{"id":"x","vector":[NaN,2,3]}]}', b'{"vectors":[{"id":"x","vector":[1e400,2,3]}]}'):
        try:
            r = tenant.call("POST", c+"/vectors", content=body); print(body[:30], r.status_code, r.text)
        except BaseException as e: print(body[:30], repr(e)[:300])

def test_block(api):
    t = api.tenant(); c = t.collection(dimension=256)
    key = t.key.secret
    listener = listen("127.0.0.1", 0)
    server = HttpServer(api.app, listener); server.start()
    port = listener.getsockname()[1]
    def body(n): return json.dumps({"vectors":[{"id":str(i),"vector":[random.random() for _ in range(256)]} for i in range(n)]}).encode()
    big = body(1000)
    stop = threading.Event(); n = [0]
    def hammer():
        conn = http.client.HTTPConnection("127.0.0.1", port)
        while not stop.is_set():
            conn.request("POST", f"/v1{t.base}{c}/vectors", big, {"Authorization": "Bearer "+key})
            r = conn.getresponse(); d = r.read(); n[0]+=1
            assert r.status == 200, d
        conn.close()
    threads = [threading.Thread(target=hammer) for _ in range(4)]
    for th in threads: th.start()
    time.sleep(1)
    conn = http.client.HTTPConnection("127.0.0.1", port)
    lat = []
    t0 = time.time()
    while time.time() - t0 < 12:
        s = time.perf_counter(); conn.request("GET", "/health"); conn.getresponse().read(); lat.append((time.perf_counter()-s)*1e3); time.sleep(0.02)
    stop.set(); [th.join() for th in threads]
    conn.close()
    server.stop()
    lat.sort(); print("health ms: p50 %.1f p95 %.1f max %.1f n=%d upserts=%d" % (lat[len(lat)//2], lat[int(len(lat)*.95)], lat[-1], len(lat), n[0]))
