"""Downloads files and continues what was broken off.

Reads one line `[{"url": …, "path": …, "bytes": …}]` from stdin, and stops when stdin closes: whoever asked is gone,
and the next one to ask must find nobody else writing. A file that is shorter than `bytes` is continued with an
HTTP Range; one of full length is left alone. The proxy and the certificates are those of pip's own configuration.
Exit code 3: the server refuses this client (credentials, certificates); pip itself may still get through.
"""

import ast
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ATTEMPTS = 6  # in a row without a single new byte
PIECE = 1 << 20


def pip_settings():
    """What `pip config list` says, the environment winning over the files: {"cert": …, "proxy": …}."""
    lines = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ).stdout.decode()
    found = {}
    for line in lines.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.rpartition(".")
        rank = {"global": 0, "install": 1, ":env:": 2}.get(section)
        if rank is not None and rank >= found.get(name, (-1, ""))[0]:
            found[name] = (rank, str(ast.literal_eval(value)))
    return {name: value for name, (_, value) in found.items()}


def opener(settings):
    context = ssl.create_default_context()
    try:
        from pip._vendor import certifi  # what pip trusts on a machine without ca-certificates

        context.load_verify_locations(certifi.where())
    except Exception:
        pass
    for file in (settings.get("cert"), os.environ.get("REQUESTS_CA_BUNDLE"), os.environ.get("CURL_CA_BUNDLE")):
        if file and os.path.isfile(file):
            context.load_verify_locations(file)
    if settings.get("client-cert"):
        context.load_cert_chain(settings["client-cert"])
    handlers = [urllib.request.HTTPSHandler(context=context)]
    if settings.get("proxy"):
        proxy = settings["proxy"]
        proxy = proxy if "://" in proxy else "http://" + proxy
        handlers.append(urllib.request.ProxyHandler({"http": proxy, "https": proxy}))
    return urllib.request.build_opener(*handlers)


def show(path, done, total, rate):
    """One line that rewrites itself on a terminal; in a log, a line each time."""
    start = "\r" if sys.stderr.isatty() else ""
    end = "" if sys.stderr.isatty() and done < total else "\n"
    name = os.path.basename(path).split("-")[0]
    sys.stderr.write(f"{start}  {name:<24} {done / 1e6:7.1f} / {total / 1e6:.1f} MB  {rate / 1e6:6.1f} MB/s{end}")
    sys.stderr.flush()


def stream(client, item, timeout):
    """One connection: appends to the file until it is whole or the connection ends."""
    path, total = item["path"], item["bytes"]
    have = os.path.getsize(path) if os.path.exists(path) else 0
    url = urllib.parse.urlsplit(item["url"])._replace(fragment="").geturl()
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    with client.open(request, timeout=timeout) as reply:
        if have and getattr(reply, "status", None) != 206:  # a server, or a file: URL, without ranges
            have = 0
        began, first = time.monotonic(), have
        shown, every = began, 0.2 if sys.stderr.isatty() else 15.0
        with open(path, "r+b" if have else "wb") as file:
            file.seek(have)
            file.truncate()
            while have < total:
                piece = reply.read(min(PIECE, total - have))
                if not piece:
                    raise ConnectionError(f"the connection ended at byte {have} of {total}")
                file.write(piece)
                have += len(piece)
                now = time.monotonic()
                if now - shown > every or have == total:
                    show(path, have, total, (have - first) / max(now - began, 1e-3))
                    shown = now
            file.flush()
            os.fsync(file.fileno())


def fetch(client, item, timeout):
    failures = 0
    while True:
        before = os.path.getsize(item["path"]) if os.path.exists(item["path"]) else 0
        if before == item["bytes"]:
            return
        if before > item["bytes"]:
            os.remove(item["path"])
            before = 0
        try:
            stream(client, item, timeout)
        except urllib.error.HTTPError as error:
            if error.code in (401, 403, 407):
                sys.stderr.write(f"\n{error}\n")
                sys.exit(3)
            reason = error
            if 400 <= error.code < 500 and error.code not in (408, 416, 429):
                failures = ATTEMPTS - 1  # asking again will not help
        except (OSError, urllib.error.URLError, ConnectionError) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, ssl.SSLCertVerificationError):
                sys.stderr.write(f"\n{reason}\n")
                sys.exit(3)
        except Exception as error:  # http.client's own, such as IncompleteRead
            reason = error
        else:
            continue
        after = os.path.getsize(item["path"]) if os.path.exists(item["path"]) else 0
        failures = 0 if after > before else failures + 1
        if failures == ATTEMPTS:
            sys.stderr.write(f"\n{item['url']}: {reason}\n")
            sys.exit(1)
        sys.stderr.write(f"\n  {reason}; continuing at byte {after}\n")
        time.sleep(min(2**failures, 30) if failures else 0.5)


def stop_with_parent():
    while os.read(0, 1):
        pass
    os._exit(130)


def main():
    items = json.loads(sys.stdin.readline())
    threading.Thread(target=stop_with_parent, daemon=True).start()
    settings = pip_settings()
    client = opener(settings)
    for item in items:
        fetch(client, item, float(settings.get("timeout") or settings.get("default-timeout") or 60))


try:
    main()
except KeyboardInterrupt:
    sys.exit(130)
