"""Times uploads while converting against converting alone and uploading alone.

    RATE=50 python3 bench/publish.py MODELPIPE VERSITYGW MODEL [TYPE...]

VERSITYGW is the gateway of tools/servers; it serves a folder in memory, on
this machine and its processors. RATE is how many MB pass to it, and from it,
in a second, as if it were elsewhere; without it, as many as can. In each round
the runs follow one another, so that other load disturbs them alike; the best
of each counts.
"""

import json, multiprocessing, os, shutil, signal, socket, subprocess, sys, tempfile, threading, time


def throttle(port, to, rate):
    """Serve at port what is served at to, at so many bytes in a second."""
    listener = socket.create_server(("127.0.0.1", port))
    ways = [[threading.Lock(), 0.0], [threading.Lock(), 0.0]]

    def copy(a, b, way):
        while True:
            try:
                p = a.recv(1 << 18)
                if not p:
                    b.shutdown(socket.SHUT_WR)
                    return
                with way[0]:
                    now = time.time()
                    way[1] = max(way[1], now) + len(p) / rate
                    wait = way[1] - now
                time.sleep(wait)
                b.sendall(p)
            except OSError:
                return

    while True:
        a, _ = listener.accept()
        b = socket.create_connection(("127.0.0.1", to))
        for args in ((a, b, ways[0]), (b, a, ways[1])):
            threading.Thread(target=copy, args=args, daemon=True).start()


def port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


modelpipe, gateway, model = sys.argv[1:4]
types = sys.argv[4:] or ["q4_k_m", "q8_0", "bf16", "f32"]
work = tempfile.mkdtemp(dir="/dev/shm")
os.makedirs(f"{work}/data/bucket")
own = front = port()
address = f"127.0.0.1:{own}"
if rate := float(os.environ.get("RATE", 0)):
    front = port()
    multiprocessing.Process(target=throttle, args=(front, own, rate * 1e6), daemon=True).start()
env = dict(os.environ, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="testsecret", AWS_ENDPOINT_URL=f"http://127.0.0.1:{front}")
server = subprocess.Popen([gateway, "--port", address, "posix", f"{work}/data"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                          env=dict(os.environ, ROOT_ACCESS_KEY="test", ROOT_SECRET_KEY="testsecret"))
for _ in range(100):
    try:
        for p in (own, front):
            socket.create_connection(("127.0.0.1", p)).close()
        break
    except OSError:
        time.sleep(0.1)


def run(*args):
    """Seconds, the JSON result and the peak of anonymous memory in MiB."""
    start = time.time()
    p = subprocess.Popen([modelpipe, *args, "--json"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)
    peak = 0
    while p.poll() is None:
        try:
            for line in open(f"/proc/{p.pid}/status"):
                if line.startswith("RssAnon"):
                    peak = max(peak, int(line.split()[1]) >> 10)
        except (OSError, IndexError):
            pass
        time.sleep(0.01)
    took = time.time() - start
    out, err = p.communicate()
    if p.returncode:
        sys.exit(f"{args}: {err.decode()}")
    return took, json.loads(out), peak


try:
    print("type | bytes | convert s | upload s | both at once s | / the longer | MiB | the same with --trust-checksum: upload s | both s | / the longer")
    for kind in types:
        best, size, peak = [9e9] * 5, 0, 0
        for i in range(int(os.environ.get("ROUNDS", 4))):
            local = f"{work}/{kind}.gguf"
            took, made, _ = run("convert", model, "--type", kind, "-o", local)
            times = [took]
            for trust in ([], ["--trust-checksum"]):
                there = f"s3://bucket/{i}{len(trust)}"
                up, _, _ = run("publish", local, "-o", f"{there}/alone", *trust)
                both, streamed, memory = run("convert", model, "--type", kind, "-o", f"{there}/{kind}.gguf", *trust)
                assert made["sha256"] == streamed["sha256"] == streamed["published"]["files"][0]["sha256"]
                shutil.rmtree(f"{work}/data/bucket/{i}{len(trust)}")
                times += [up, both]
                peak = max(peak, memory)
            os.remove(local)
            best, size = [min(x, y) for x, y in zip(best, times)], made["size"]
        c, u1, b1, u2, b2 = best
        print(f"{kind} | {size} | {c:.2f} | {u1:.2f} | {b1:.2f} | {b1 / max(c, u1):.2f} | {peak} | {u2:.2f} | {b2:.2f} | {b2 / max(c, u2):.2f}", flush=True)

    # Killed again and again, an upload ends in the same object.
    kills = 0
    for delay in (0.3, 0.6, 0.9, 1.2, 1.5, 1.8):
        p = subprocess.Popen([modelpipe, "convert", model, "--type", "q4_k_m", "-o", "s3://bucket/killed.gguf", "--resume"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
        time.sleep(delay)
        if p.poll() is None:
            p.send_signal(signal.SIGKILL)
            kills += 1
        p.wait()
    _, made, _ = run("convert", model, "--type", "q4_k_m", "-o", f"{work}/m.gguf")
    _, after, _ = run("convert", model, "--type", "q4_k_m", "-o", "s3://bucket/killed.gguf", "--resume")
    f = after["published"]["files"][0]
    subprocess.run([modelpipe, "publish", "gc", "s3://bucket", "--older-than", "0s"], env=env, check=True)
    left = [name for _, _, names in os.walk(f"{work}/data/bucket") for name in names]
    same = "the same" if made["sha256"] == f["sha256"] else "ANOTHER"
    print(f"{kills} kills: {same} object, {f.get('resumed', 0)} bytes of earlier runs used at last; files of the store: {left}")
finally:
    server.kill()
    server.wait()
    shutil.rmtree(work)
