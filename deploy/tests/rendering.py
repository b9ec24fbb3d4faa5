"""What kustomize and Helm make of deploy/, as lists of objects."""

import asyncio
import base64
import gzip
import json
import re
import subprocess
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import yaml
from helm_sdkpy import Configuration, Install
from helm_sdkpy.exceptions import HelmError

DEPLOY = Path(__file__).parent.parent
CHART = DEPLOY / "helm/coredump-handler"
OVERLAYS = sorted(path.name for path in (DEPLOY / "overlays").iterdir() if path.is_dir())
NAMESPACE = "ibm-observe"

# What an API server says it knows: plural, kind, whether it is of a namespace.
KINDS = {
    "v1": [
        ("configmaps", "ConfigMap", True),
        ("namespaces", "Namespace", False),
        ("pods", "Pod", True),
        ("secrets", "Secret", True),
        ("serviceaccounts", "ServiceAccount", True),
    ],
    "apps/v1": [("daemonsets", "DaemonSet", True)],
    "rbac.authorization.k8s.io/v1": [
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("clusterroles", "ClusterRole", False),
        ("rolebindings", "RoleBinding", True),
        ("roles", "Role", True),
    ],
    "security.openshift.io/v1": [
        ("securitycontextconstraints", "SecurityContextConstraints", False)
    ],
}


def kustomize(directory):
    """The objects of a directory of deploy/, or of another."""
    command = ["kubectl", "kustomize", str(DEPLOY / directory)]
    built = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert built.returncode == 0 and not built.stderr, built.stderr
    return [*yaml.safe_load_all(built.stdout)]


def misplaced(objects):
    """The host paths that are not where the settings say, on the host or in a container."""
    [pod] = [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "DaemonSet"]
    [data] = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
    paths = {
        volume["name"]: volume["hostPath"]["path"] for volume in pod["volumes"] if "hostPath" in volume
    }
    found = []
    for container, root in zip(pod["containers"], ["/host", ""], strict=True):
        own = yaml.safe_load(data[f"{container['name']}.yaml"])
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        for volume, key in [("host-dir", "host_dir"), ("spool", "spool_dir")]:
            if (paths[volume], mounts[volume]) != (own[key], root + own[key]):
                found.append((container["name"], key, own[key], paths[volume], mounts[volume]))
    return found


class Refused(Exception):
    """Helm's reason not to install."""


class Release:
    """What `helm install` makes of the chart."""

    def __init__(self, record):
        manifest = record["manifest"]
        self.objects = [o for o in yaml.safe_load_all(manifest) if o]
        self.tests = [yaml.safe_load(hook["manifest"]) for hook in record.get("hooks", [])]
        self.notes = record["info"]["notes"]


def helm(values, provider=None, namespaces=None):
    """Installs the chart, on a stand-in of an API server that knows kinds and the labels of namespaces."""
    if namespaces is None:
        namespaces = {NAMESPACE: {"pod-security.kubernetes.io/enforce": "privileged"}, "kube-system": {}}
    merged = {}
    if provider:
        merged = yaml.safe_load((CHART / f"values-{provider}.yaml").read_text()) or {}
    for key, value in values.items():
        both_maps = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = {**merged[key], **value} if both_maps else value
    with ApiServer(namespaces) as api, tempfile.NamedTemporaryFile("w") as kubeconfig:
        json.dump(api.kubeconfig(), kubeconfig)
        kubeconfig.flush()
        install = Install(Configuration(NAMESPACE, kubeconfig.name))
        try:
            asyncio.run(install.run("coredump-handler", str(CHART), merged, wait=False))
        except HelmError as err:
            assert not api.made, "something was made before it was refused"
            raise Refused(str(err)) from None
        return Release(api.record)


class ApiServer(ThreadingHTTPServer):
    """Remembers what is made, and the release that Helm writes down in a Secret."""

    def __init__(self, namespaces):
        super().__init__(("127.0.0.1", 0), Answer)
        self.namespaces = namespaces
        self.made = []
        self.record = None

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=[0.01], daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def kubeconfig(self):
        server = {"server": f"http://127.0.0.1:{self.server_port}"}
        return {
            "clusters": [{"name": "stand-in", "cluster": server}],
            "contexts": [{"name": "stand-in", "context": {"cluster": "stand-in"}}],
            "current-context": "stand-in",
        }


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        path = self.path.split("?")[0].strip("/")
        version = path.removeprefix("apis/").removeprefix("api/")
        if path == "version":
            return self.say({"major": "1", "minor": "36", "gitVersion": "v1.36.0"})
        if path == "api":
            return self.say({"kind": "APIVersions", "versions": ["v1"]})
        if path == "apis":
            groups = [
                {
                    "name": version.split("/")[0],
                    "versions": [{"groupVersion": version, "version": "v1"}],
                    "preferredVersion": {"groupVersion": version, "version": "v1"},
                }
                for version in KINDS
                if "/" in version
            ]
            return self.say({"kind": "APIGroupList", "groups": groups})
        if version in KINDS:
            resources = [
                {"name": name, "kind": kind, "namespaced": namespaced, "verbs": ["get", "create"]}
                for name, kind, namespaced in KINDS[version]
            ]
            return self.say(
                {"kind": "APIResourceList", "groupVersion": version, "resources": resources}
            )
        name = path.removeprefix("api/v1/namespaces/")
        if name in self.server.namespaces:
            metadata = {"name": name, "labels": self.server.namespaces[name]}
            return self.say({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
        self.say({"kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404}, 404)

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        # The release: gzipped JSON in base64, in a Secret in Kubernetes' own encoding.
        release = re.search(rb"H4sI[A-Za-z0-9+/=]+", body)
        if release:
            self.server.record = json.loads(gzip.decompress(base64.b64decode(release[0])))
        else:
            self.server.made.append(body)
        self.answer(201, self.headers["Content-Type"], body)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, self.headers["Content-Type"], body)

    def say(self, answer, status=200):
        self.answer(status, "application/json", json.dumps(answer).encode())

    def answer(self, status, media_type, body):
        self.send_response(status)
        self.send_header("Content-Type", media_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass
