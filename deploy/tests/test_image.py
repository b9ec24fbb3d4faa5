"""What the programs need of the image: nothing but themselves, and whom to trust."""

import os
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from rendering import DEPLOY

DIST = DEPLOY.parent / "dist"
# As the kubelet writes it.
RESOLV_CONF = """search ibm-observe.svc.cluster.local svc.cluster.local
nameserver 127.0.0.1
options ndots:5
"""
SETTINGS = """spool_dir: /spool
listen: 127.0.0.1:9464
store: {s3: {bucket: dumps, endpoint: 'http://store.test:8080', path_style: true}}
"""


class Image(unittest.TestCase):
    @unittest.skipUnless(os.getuid() == 0, "only root can have a network and a / of its own")
    def test_a_static_uploader_resolves_names_where_there_is_no_library(self):
        command = ["unshare", "--net", sys.executable, __file__, "store"]
        store = subprocess.run(command, capture_output=True, text=True, timeout=60)
        self.assertEqual(store.stdout, "by /etc/hosts\nby the name server\n", store.stderr)


def store_in_an_empty_network():
    """Says how the uploader found the store that it asks at its start."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    threading.Thread(target=serve_names, daemon=True).start()
    with tempfile.TemporaryDirectory() as root:
        for directory in ["etc/ssl/certs", "spool"]:
            Path(root, directory).mkdir(parents=True)
        shutil.copy(DIST / "uploader", root)
        shutil.copy(DIST / "ca-certificates.crt", Path(root, "etc/ssl/certs"))
        Path(root, "uploader.yaml").write_text(SETTINGS)
        command = ["chroot", root, "/uploader", "--config", "/uploader.yaml", "run"]
        keys = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "secret"}
        for how, hosts, resolv_conf in [
            ("by /etc/hosts", "127.0.0.1 store.test\n", ""),
            ("by the name server", "", RESOLV_CONF),
        ]:
            Path(root, "etc/hosts").write_text(hosts)
            Path(root, "etc/resolv.conf").write_text(resolv_conf)
            with HTTPServer(("127.0.0.1", 8080), Store) as store:
                store.timeout = 10
                uploader = subprocess.Popen(command, env={**os.environ, **keys})
                store.handle_request()
                uploader.kill()
                uploader.wait()
                if Store.asked:
                    print(how)
                Store.asked = False


class Store(BaseHTTPRequestHandler):
    asked = False

    def do_HEAD(self):
        Store.asked = True
        self.send_response(404)
        self.end_headers()

    def log_message(self, *_):
        pass


def serve_names():
    """Knows store.test, and no other name (RFC 1035, section 4)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as names:
        names.bind(("127.0.0.1", 53))
        while True:
            query, client = names.recvfrom(512)
            question, kind = query[12 : query.index(b"\0", 12) + 5], query[query.index(b"\0", 12) + 2]
            known = question.startswith(b"\x05store\x04test\0")
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x7f\0\0\1" if known and kind == 1 else b""
            flags = 0x8180 if known else 0x8183
            counts = struct.pack(">HHHHH", flags, 1, bool(answer), 0, 0)
            names.sendto(query[:2] + counts + question + answer, client)


if __name__ == "__main__":
    store_in_an_empty_network() if sys.argv[1:] == ["store"] else unittest.main()
