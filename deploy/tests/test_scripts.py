"""`make deploy` and `make undeploy`, with a kubectl that writes down what it is asked."""

import base64
import os
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml
from rendering import DEPLOY, OVERLAYS

KUBECTL = """#!/bin/sh
case $1 in kustomize) exec {kubectl} "$@" ;; esac
printf '%s\\n' "$*" >>{calls}
case $* in *'--filename -') cat >{calls}.stdin ;; esac
case $* in $REFUSED) echo 'error: refused by the test' >&2; exit 1 ;; esac
case $* in
    'get pods'*jsonpath*) echo 'coredump-handler-x7k worker-3 coredump-handler:0.1.0' ;;
    logs*) echo "[pod/coredump-handler-x7k/installer] $SAID" ;;
esac
"""
APPLY = "apply --server-side --force-conflicts --filename -"
CHANGES = [APPLY, "delete", "create", "label"]


class Script:
    def __init__(self, name, refused="", **environment):
        with tempfile.TemporaryDirectory() as directory:
            calls = Path(directory, "calls")
            stub = Path(directory, "kubectl")
            stub.write_text(KUBECTL.format(kubectl=shutil.which("kubectl"), calls=calls))
            stub.chmod(0o755)
            path = f"{directory}:{os.environ['PATH']}"
            ran = subprocess.run(
                ["sh", DEPLOY / name],
                env={"PATH": path, "REFUSED": refused, "SAID": "this node is what it was before", **environment},
                capture_output=True,
                text=True,
                timeout=60,
            )
            self.status, self.out, self.err = ran.returncode, ran.stdout, ran.stderr
            self.calls = calls.read_text().splitlines() if calls.exists() else []
            stdin = Path(f"{calls}.stdin")
            self.applied = [*yaml.safe_load_all(stdin.read_text())] if stdin.exists() else []

    def changes(self):
        return [call for call in self.calls if any(call.startswith(change) for change in CHANGES)]

    def object(self, kind):
        [found] = [each for each in self.applied if each["kind"] == kind]
        return found

    def uploader(self):
        return yaml.safe_load(self.object("ConfigMap")["data"]["uploader.yaml"])["store"]["s3"]


def deploy(**options):
    return Script("deploy.sh", **{"BUCKET": "dumps", "IMAGE": "registry.example/x:1", **options})


HMAC = {"AWS_ACCESS_KEY_ID": "an id", "AWS_SECRET_ACCESS_KEY": "a 'secret'\\n"}


class Deploy(unittest.TestCase):
    def refused(self, script, *words):
        self.assertEqual(script.status, 1, script.out)
        self.assertEqual(script.changes(), [])
        self.assertEqual(len(script.err.splitlines()), 1, script.err)
        for word in words:
            self.assertIn(word, script.err)

    def test_what_is_missing_or_wrong_is_one_sentence_and_nothing_is_changed(self):
        for options, words in [
            ({"BUCKET": ""}, ["BUCKET is missing", "make deploy BUCKET=A_UNIQUE_NAME"]),
            ({"BUCKET": "Dumps"}, ["BUCKET has a character that is none of a-z0-9.-"]),
            ({"REGION": "eu|de"}, ["REGION has a character"]),
            ({"ENDPOINT": "https://x\n evil: 1"}, ["ENDPOINT has a character"]),
            ({"IMAGE": "a b"}, ["IMAGE has a character"]),
            ({"IMAGE": ""}, ["IMAGE is missing", "make image IMAGE=REGISTRY/coredump-handler:0.1.0"]),
            ({"OVERLAY": "ecs"}, ['no overlay "ecs"', *OVERLAYS]),
            ({"OVERLAY": "../base"}, ["should be a name"]),
            ({**HMAC, "IBM_CLOUD_API_KEY": "key"}, ["one of them is one too many"]),
            ({"AWS_ACCESS_KEY_ID": "id"}, ["are a pair"]),
            ({**HMAC, "AUTH": "aws_container"}, ["credentials for hmac"]),
            ({"AUTH": "password"}, ['AUTH is "password"']),
            ({"AUTH": "ibm_trusted_profile"}, ["deploy/helm"]),
            ({"refused": "*get*--raw*"}, ["no cluster: error: refused by the test"]),
            ({"refused": "get*secret*"}, ["there are no credentials", "coredump-handler-store"]),
            ({"refused": "apply*dry-run*"}, ["nothing was applied: error: refused by the test"]),
        ]:
            with self.subTest(options):
                self.refused(deploy(**options), *words)

    def test_what_is_said_is_what_is_applied(self):
        said = deploy(REGION="eu-west-1", IMAGE="registry.example/x:1", refused="get secret*", **HMAC)
        self.assertEqual(said.status, 0, said.err)
        self.assertEqual(
            said.uploader(),
            {
                "bucket": "dumps",
                "endpoint": "https://s3.eu-west-1.amazonaws.com",
                "region": "eu-west-1",
                "auth": "hmac",
                "access_key_id_file": "/etc/coredump-handler-store/access_key_id",
                "secret_access_key_file": "/etc/coredump-handler-store/secret_access_key",
            },
        )
        pod = said.object("DaemonSet")["spec"]["template"]["spec"]
        self.assertEqual({c["image"] for c in pod["containers"]}, {"registry.example/x:1"})
        secret = {k: base64.b64decode(v).decode() for k, v in said.object("Secret")["data"].items()}
        self.assertEqual(
            secret,
            {"access_key_id": HMAC["AWS_ACCESS_KEY_ID"], "secret_access_key": HMAC["AWS_SECRET_ACCESS_KEY"]},
        )
        self.assertIn(r"kill -11 \$\$", said.out)

    def test_an_api_key_is_a_secret_of_its_own(self):
        said = deploy(OVERLAY="iks", REGION="eu-de", IBM_CLOUD_API_KEY="key")
        self.assertEqual(
            said.uploader(),
            {
                "bucket": "dumps",
                "endpoint": "https://s3.direct.eu-de.cloud-object-storage.appdomain.cloud",
                "region": "eu-de",
                "auth": "ibm_api_key",
                "api_key_file": "/etc/coredump-handler-store/api_key",
            },
        )
        self.assertEqual([*said.object("Secret")["data"]], ["api_key"])

    def test_a_role_takes_no_secret(self):
        said = deploy(OVERLAY="eks", ENDPOINT="https://s3.example:9000", refused="get secret*")
        self.assertEqual(said.status, 0, said.err)
        self.assertEqual(said.uploader()["auth"], "aws_container")
        self.assertEqual(said.uploader()["endpoint"], "https://s3.example:9000")
        self.assertNotIn("Secret", [each["kind"] for each in said.applied])

    def test_a_secret_that_is_there_stays(self):
        said = deploy()
        self.assertEqual(said.status, 0, said.err)
        self.assertNotIn("Secret", [each["kind"] for each in said.applied])

    def test_the_server_judges_before_anything_is_applied(self):
        applied = [call for call in deploy().calls if call.startswith("apply")]
        self.assertEqual(applied, ["apply --dry-run=server --server-side --force-conflicts --filename -", APPLY])
        # Without the namespace it would refuse whatever is in it.
        applied = [call for call in deploy(refused="get namespace*").calls if call.startswith("apply")]
        self.assertEqual(applied, ["apply --dry-run=client --filename -", APPLY])

    def test_new_settings_are_new_pods(self):
        def settings(**options):
            template = deploy(**options).object("DaemonSet")["spec"]["template"]
            return template["metadata"]["annotations"]["coredump-handler/settings"]

        self.assertEqual(settings(), settings())
        self.assertNotEqual(settings(), settings(BUCKET="others"))

    def test_a_node_that_does_not_collect_fails_the_deployment_and_says_why(self):
        said = deploy(refused="rollout*")
        self.assertEqual(said.status, 1)
        self.assertIn("get events", "\n".join(said.calls))
        self.assertIn("not every node collects", said.err)

    def test_no_secret_is_an_argument(self):
        said = deploy(**HMAC)
        self.assertNotIn(HMAC["AWS_ACCESS_KEY_ID"], "\n".join(said.calls))


class Undeploy(unittest.TestCase):
    def test_the_daemon_set_goes_before_what_its_pods_need(self):
        said = Script("undeploy.sh")
        self.assertEqual(said.status, 0, said.err)
        first, second = said.changes()
        self.assertIn("delete daemonset coredump-handler", first)
        self.assertIn("--cascade=foreground --wait", first)
        self.assertIn("delete --ignore-not-found --wait", second)
        kinds = [each["kind"] for each in said.applied]
        self.assertIn("ClusterRole", kinds)
        self.assertNotIn("Namespace", kinds, "others may be in it")

    def test_a_node_that_is_not_clean_is_named_with_what_cleans_it(self):
        said = Script("undeploy.sh", refused="delete daemonset*", OVERLAY="gke")
        self.assertEqual(said.status, 1)
        self.assertEqual(len(said.changes()), 1)
        by_hand = (
            "worker-3; by hand: echo 'host_dir: /home/kubernetes/bin/coredump-handler' | kubectl debug"
            " node/worker-3 --namespace kube-system --stdin --profile=sysadmin --image=coredump-handler:0.1.0 --"
            " installer --config /dev/stdin --host-root /host uninstall"
        )
        self.assertIn(by_hand, said.err)

    def test_a_node_of_which_nothing_good_was_heard_is_named(self):
        kept = "ended; what is installed stays: asking the API server: timeout"
        for heard, options in [(kept, {"SAID": kept}), ("", {"refused": "logs*"})]:
            with self.subTest(heard):
                said = Script("undeploy.sh", **options)
                self.assertEqual(said.status, 1)
                self.assertEqual(len(said.changes()), 2)
                self.assertIn(f"worker-3: {heard}; by hand: echo 'host_dir: /opt/coredump-handler'", said.err)
                self.assertIn("not every node is known to be clean", said.err)

    def test_without_a_cluster_nothing_is_deleted(self):
        said = Script("undeploy.sh", refused="*get*--raw*")
        self.assertEqual((said.status, said.changes()), (1, []))
        self.assertIn("no cluster", said.err)


if __name__ == "__main__":
    unittest.main()
