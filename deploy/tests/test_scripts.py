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
case $* in $INTERRUPTED) kill -TERM $PPID ;; esac
case $* in *'--filename -') cat >{calls}.stdin ;; esac
case $* in $REFUSED) printf '%s\\n' "$REFUSAL" >&2; exit 1 ;; esac
case $* in
    'get configmap'*) printf '%s\\n' "$INSTALLED" ;;
    'get daemonset'*) printf '%s\\n' "$ANNOTATION" ;;
    'get secret'*) printf '%s' "$SECRET" ;;
    'get pods'*jsonpath*) printf '%s\\n' "$PODS" ;;
    logs*) sleep "$LATE"; echo heard >>{calls}; printf '%s\\n' "$SAID"; exec sleep "$FOLLOW" ;;
esac
"""
# What kubectl answers unless a test says something else.
ANSWERS = {
    "REFUSED": "",
    "REFUSAL": "error: refused by the test",
    "INSTALLED": "",
    "ANNOTATION": "",
    "SECRET": "access_key_id=aWQ= secret_access_key=c2VjcmV0 ",
    "PODS": "coredump-handler-x7k coredump-handler:0.1.0 worker-3",
    "LATE": "0",
    "FOLLOW": "0",
    "INTERRUPTED": "",
    "SAID": "[pod/coredump-handler-x7k/installer] this node is what it was before",
}
# One that no node has taken yet.
PENDING = "coredump-handler-p2d coredump-handler:0.1.0 "
APPLY = "apply --server-side --force-conflicts --filename -"
CHANGES = [APPLY, "delete", "create", "label"]


class Script:
    def __init__(self, name, clone=DEPLOY, **environment):
        with tempfile.TemporaryDirectory() as directory:
            calls = Path(directory, "calls")
            stub = Path(directory, "kubectl")
            stub.write_text(KUBECTL.format(kubectl=shutil.which("kubectl"), calls=calls))
            stub.chmod(0o755)
            path = f"{directory}:{os.environ['PATH']}"
            ran = subprocess.run(
                ["sh", clone / name],
                env={"PATH": path, **ANSWERS, **environment},
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


def deployed_with(**options):
    """The annotation that remembers it."""
    template = deploy(**options).object("DaemonSet")["spec"]["template"]
    return template["metadata"]["annotations"]["coredump-handler/settings"]


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
            ({"BUCKET": "ab"}, ['BUCKET is "ab"', "3 to 63"]),
            ({"BUCKET": "a..b"}, ['BUCKET is "a..b"', "no two dots"]),
            ({"BUCKET": "-dumps"}, ['BUCKET is "-dumps"']),
            ({"BUCKET": "dumps."}, ['BUCKET is "dumps."']),
            ({"BUCKET": 64 * "a"}, ["BUCKET has 64 characters"]),
            ({"REGION": "eu|de"}, ["REGION has a character"]),
            ({"ENDPOINT": "https://x\n evil: 1"}, ["ENDPOINT has a character"]),
            ({"ENDPOINT": "s3.example"}, ["should begin with https://"]),
            ({"PATH_STYLE": "yes"}, ['PATH_STYLE is "yes"']),
            ({"IMAGE": "a b"}, ["IMAGE has a character"]),
            ({"IMAGE": ""}, ["IMAGE is missing", "make image IMAGE=REGISTRY/coredump-handler:0.1.0"]),
            ({"OVERLAY": "ecs"}, ['no overlay "ecs"', *OVERLAYS]),
            ({"OVERLAY": "../base"}, ["should be a name"]),
            ({**HMAC, "IBM_CLOUD_API_KEY": "key"}, ["AUTH=hmac or AUTH=ibm_api_key"]),
            ({"AWS_ACCESS_KEY_ID": "id"}, ["are a pair"]),
            ({**HMAC, "AWS_SESSION_TOKEN": "token"}, ["AWS_SESSION_TOKEN is set"]),
            ({"AUTH": "password"}, ['AUTH is "password"']),
            ({"AUTH": "ibm_trusted_profile"}, ["deploy/helm"]),
            ({"REFUSED": "*get*--raw*"}, ["no cluster: error: refused by the test"]),
            ({"REFUSED": "get*configmap*"}, ["cannot be looked at: error: refused by the test"]),
            ({"REFUSED": "get*secret*"}, ["cannot be looked at: error: refused by the test"]),
            ({"SECRET": ""}, ["there are no credentials", "coredump-handler-store", "no access_key_id"]),
            ({"SECRET": "api_key=a2V5 access_key_id=aWQ= "}, ["set AWS_ACCESS_KEY_ID", "no secret_access_key"]),
            ({"AUTH": "ibm_api_key"}, ["set IBM_CLOUD_API_KEY", "no api_key"]),
            ({"REFUSED": "apply*dry-run*"}, ["nothing was applied: error: refused by the test"]),
            (
                {"REFUSED": "apply*dry-run*", "REFUSAL": "The X is invalid: \n* spec: Invalid value"},
                ["nothing was applied: * spec: Invalid value"],
            ),
        ]:
            with self.subTest(options):
                self.refused(deploy(**options), *words)

    def test_what_is_said_is_what_is_applied(self):
        said = deploy(REGION="eu-west-1", IMAGE="registry.example/x:1", SECRET="", **HMAC)
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
        self.assertIn('--field-selector "spec.nodeName=$node" --output name)', said.out)

    def test_a_bucket_is_a_name_also_where_yaml_would_read_something_else(self):
        for name in ["12345678", "true", "1e5"]:
            self.assertEqual(deploy(BUCKET=name).uploader()["bucket"], name)

    def test_a_bucket_that_is_said_replaces_one_that_was_written_into_the_overlay(self):
        with tempfile.TemporaryDirectory() as directory:
            clone = Path(directory, "deploy")
            shutil.copytree(DEPLOY, clone, ignore=shutil.ignore_patterns("testbed", "tests", "helm"))
            settings = clone / "overlays/iks/settings.yaml"
            settings.write_text(settings.read_text().replace("A_UNIQUE_NAME", "ours"))
            said = deploy(OVERLAY="iks", clone=clone)
        self.assertEqual(said.uploader()["bucket"], "dumps")

    def test_a_store_that_takes_no_names_in_its_host_is_asked_by_path(self):
        said = deploy(OVERLAY="k3s", ENDPOINT="http://minio.example:9000", PATH_STYLE="true")
        self.assertIs(said.uploader()["path_style"], True)
        self.assertEqual(said.uploader()["endpoint"], "http://minio.example:9000")
        self.assertNotIn("path_style", deploy().uploader())

    def test_where_the_store_is_has_to_be_said_if_the_overlay_knows_none(self):
        for overlay in ["aks", "flatcar", "k3s", "kind", "minikube", "openshift", "rke2"]:
            with self.subTest(overlay):
                self.refused(deploy(OVERLAY=overlay), "ENDPOINT is missing", "REGION")
        for options in [{"OVERLAY": "k3s", "REGION": "eu-west-1"}, {"OVERLAY": "eks"}, {"OVERLAY": "gke"}, {}]:
            with self.subTest(options):
                self.assertEqual(deploy(**options).status, 0)

    def test_an_upgrade_changes_nothing_that_was_not_said(self):
        first = deploy(OVERLAY="iks", REGION="eu-de", IBM_CLOUD_API_KEY="key", PATH_STYLE="true", SECRET="")
        installed = first.object("ConfigMap")["data"]["uploader.yaml"]
        there = {"OVERLAY": "iks", "INSTALLED": installed, "SECRET": "api_key=a2V5 "}
        repeat = "REGION=eu-de PATH_STYLE=true AUTH=ibm_api_key"
        self.refused(deploy(**there), f"installed with {repeat}, which would change")
        again = dict(each.split("=", 1) for each in repeat.split())
        self.assertEqual(deploy(**there, **again).uploader(), first.uploader())
        # What is said may change.
        moved = {**again, "ENDPOINT": "https://s3.example", "REGION": "eu-gb"}
        self.assertEqual(deploy(**there, **moved).uploader()["region"], "eu-gb")
        # To another region the overlay's own endpoint goes with it; another one stays, or is said.
        region = {**again, "REGION": "eu-gb"}
        endpoint = "https://s3.direct.eu-gb.cloud-object-storage.appdomain.cloud"
        self.assertEqual(deploy(**there, **region).uploader()["endpoint"], endpoint)
        elsewhere = {**there, "INSTALLED": installed.replace("s3.direct", "s3.private")}
        private = "https://s3.private.eu-de.cloud-object-storage.appdomain.cloud"
        self.refused(deploy(**elsewhere, **region), f"installed with ENDPOINT={private}, which would change")
        # And what is the same need not be said.
        same = deploy(INSTALLED=deploy().object("ConfigMap")["data"]["uploader.yaml"])
        self.assertEqual(same.status, 0, same.err)

    def test_the_overlay_is_not_left_out_of_an_upgrade(self):
        there = {"ANNOTATION": deployed_with(OVERLAY="iks")}
        self.refused(deploy(**there), "installed with OVERLAY=iks, which would change")
        for options in [{"OVERLAY": "iks", **there}, {"OVERLAY": "gke", **there}, {"ANNOTATION": "as-shipped"}]:
            self.assertEqual(deploy(**options).status, 0)

    def test_what_was_applied_as_it_was_shipped_says_nothing(self):
        shipped = yaml.safe_load((DEPLOY / "base/configmap.yaml").read_text())["data"]["uploader.yaml"]
        self.refused(deploy(OVERLAY="k3s", INSTALLED=shipped), "ENDPOINT is missing")

    def test_a_pair_in_the_secret_is_not_pushed_aside_by_a_key_in_the_environment(self):
        self.refused(deploy(OVERLAY="iks", IBM_CLOUD_API_KEY="key"), "has a pair", "AUTH=ibm_api_key")

    def test_a_key_in_the_environment_does_not_change_how_an_installed_uploader_shows_itself(self):
        installed = deploy(OVERLAY="iks").object("ConfigMap")["data"]["uploader.yaml"]
        self.refused(deploy(OVERLAY="iks", INSTALLED=installed, IBM_CLOUD_API_KEY="key"), "AUTH=hmac")

    def test_an_api_key_is_a_secret_of_its_own(self):
        said = deploy(OVERLAY="iks", REGION="eu-de", IBM_CLOUD_API_KEY="key", SECRET="")
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

    def test_a_role_takes_no_secret_and_nothing_from_the_environment(self):
        own = {**HMAC, "AWS_SESSION_TOKEN": "token", "IBM_CLOUD_API_KEY": "key"}
        for options, auth in [({"OVERLAY": "eks"}, "aws_container"), ({"AUTH": "aws_web_identity"}, "aws_web_identity")]:
            said = deploy(ENDPOINT="https://s3.example:9000", REFUSED="get secret*", **options, **own)
            self.assertEqual(said.status, 0, said.err)
            self.assertEqual(said.uploader()["auth"], auth)
            self.assertEqual(said.uploader()["endpoint"], "https://s3.example:9000")
            self.assertNotIn("Secret", [each["kind"] for each in said.applied])

    def test_what_is_of_another_kind_than_auth_does_not_count(self):
        for auth, keys in [("hmac", ["access_key_id", "secret_access_key"]), ("ibm_api_key", ["api_key"])]:
            said = deploy(AUTH=auth, IBM_CLOUD_API_KEY="key", SECRET="", **HMAC)
            self.assertEqual((said.uploader()["auth"], [*said.object("Secret")["data"]]), (auth, keys))

    def test_a_secret_that_is_there_stays(self):
        said = deploy()
        self.assertEqual(said.status, 0, said.err)
        self.assertNotIn("Secret", [each["kind"] for each in said.applied])
        other = {"AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "another"}
        self.refused(deploy(**other), "has another secret_access_key", "kubectl delete secret coredump-handler-store")
        self.assertEqual(deploy(**{**other, "AWS_SECRET_ACCESS_KEY": "secret"}).status, 0)

    def test_the_server_judges_before_anything_is_applied(self):
        applied = [call for call in deploy().calls if call.startswith("apply")]
        self.assertEqual(applied, ["apply --dry-run=server --server-side --force-conflicts --filename -", APPLY])
        # Without the namespace it would refuse whatever is in it.
        applied = [call for call in deploy(REFUSED="get namespace*").calls if call.startswith("apply")]
        self.assertEqual(applied, ["apply --dry-run=client --filename -", APPLY])

    def test_new_settings_are_new_pods(self):
        self.assertEqual(deployed_with(), deployed_with())
        self.assertNotEqual(deployed_with(), deployed_with(BUCKET="others"))

    def test_a_node_that_does_not_collect_fails_the_deployment_and_says_why(self):
        said = deploy(REFUSED="rollout*")
        self.assertEqual(said.status, 1)
        self.assertIn("get events", "\n".join(said.calls))
        self.assertIn("not every node collects", said.err)

    def test_no_secret_is_an_argument(self):
        said = deploy(SECRET="", **HMAC)
        self.assertEqual(said.status, 0, said.err)
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
        pods = f"{PENDING}\n{ANSWERS['PODS']}"
        said = Script("undeploy.sh", REFUSED="delete daemonset*", OVERLAY="gke", PODS=pods, SAID="")
        self.assertEqual(said.status, 1)
        self.assertEqual(len(said.changes()), 1)
        by_hand = (
            "worker-3: nothing; by hand: echo '{host_dir: /home/kubernetes/bin/coredump-handler,"
            " spool_dir: /var/lib/coredump-handler/spool}' | kubectl debug node/worker-3 --namespace kube-system"
            " --stdin --profile=sysadmin --image=coredump-handler:0.1.0 --"
            " installer --config /dev/stdin --host-root /host uninstall"
        )
        self.assertIn(by_hand, said.err)
        self.assertEqual(said.err.count("by hand"), 1, "a pod without a node has no node to clean")

    def test_a_node_of_which_nothing_good_was_heard_is_named(self):
        kept = r"ended; what is installed stays:\n asking the API server: timeout"
        pending = 'error: container "installer" in pod "coredump-handler-x7k" is waiting to start'
        for heard, options in [
            (kept, {"SAID": f"[pod/coredump-handler-x7k/installer] {kept}"}),
            (pending, {"SAID": pending}),
            ("error: refused by the test", {"REFUSED": "logs*"}),
            ("nothing", {"SAID": ""}),
        ]:
            with self.subTest(heard):
                said = Script("undeploy.sh", **options)
                self.assertEqual(said.status, 1)
                self.assertEqual(len(said.changes()), 2)
                self.assertIn(f"worker-3: {heard}; by hand: echo '{{host_dir: /opt/coredump-handler,", said.err)
                self.assertIn("not every node is known to be clean", said.err)

    def test_the_directories_are_those_of_what_is_installed(self):
        said = Script("undeploy.sh", SAID="", INSTALLED="host_dir: /a\nspool_dir: /b/spool")
        self.assertIn("by hand: echo '{host_dir: /a, spool_dir: /b/spool}' | kubectl", said.err)

    def test_what_the_overlay_added_goes_as_well_also_if_it_is_not_said(self):
        def kinds(**options):
            said = Script("undeploy.sh", **options)
            self.assertEqual(said.status, 0, said.err)
            return {each["kind"] for each in said.applied}

        annotation = deployed_with(OVERLAY="openshift", REGION="eu-west-1")
        self.assertIn("SecurityContextConstraints", kinds(ANNOTATION=annotation))
        self.assertIn("SecurityContextConstraints", kinds(OVERLAY="openshift"))
        for options in [
            {"ANNOTATION": annotation, "OVERLAY": "k3s"},
            {"ANNOTATION": deployed_with()},
            {"ANNOTATION": "as-shipped"},
            {"ANNOTATION": 64 * "a"},
        ]:
            self.assertNotIn("SecurityContextConstraints", kinds(**options), options)

    def test_an_overlay_that_is_not_here_or_cannot_be_told_is_one_sentence_and_nothing_is_deleted(self):
        for options, words in [
            ({"OVERLAY": "ecs"}, 'no overlay "ecs"'),
            ({"OVERLAY": "../base"}, "should be a name"),
            ({"ANNOTATION": "ours.123-456"}, 'no overlay "ours"'),
            ({"REFUSED": "get daemonset*"}, "cannot be looked at: error: refused by the test"),
        ]:
            with self.subTest(options):
                said = Script("undeploy.sh", **options)
                self.assertEqual((said.status, said.changes()), (1, []))
                self.assertEqual(len(said.err.splitlines()), 1, said.err)
                self.assertIn(words, said.err)

    def test_what_is_left_has_a_command_that_still_knows_the_overlay(self):
        there = {"ANNOTATION": deployed_with(OVERLAY="openshift", REGION="eu-west-1")}
        for refused in ["delete daemonset*", "delete --ignore*"]:
            said = Script("undeploy.sh", REFUSED=refused, **there)
            self.assertEqual(said.status, 1)
            self.assertIn("make undeploy OVERLAY=openshift\n", said.err)

    def test_such_a_node_is_named_also_if_the_rest_cannot_be_removed(self):
        said = Script("undeploy.sh", SAID="", REFUSED="delete --ignore*")
        self.assertEqual(said.status, 1)
        self.assertIn("worker-3: nothing; by hand", said.err)

    def test_each_pod_is_listened_to_before_anything_is_deleted(self):
        said = Script("undeploy.sh", LATE="2")
        self.assertEqual(said.status, 0, said.err)
        [logs] = [call for call in said.calls if call.startswith("logs")]
        self.assertIn("--follow --ignore-errors --prefix --tail=1", logs)
        self.assertLess(said.calls.index("heard"), said.calls.index(said.changes()[0]))

    def test_nobody_listens_any_more_when_it_has_ended(self):
        for options, status in [
            ({}, 0),
            ({"REFUSED": "delete daemonset*"}, 1),
            ({"INTERRUPTED": "delete daemonset*"}, 143),
        ]:
            with self.subTest(options):
                # A number that no other process sleeps for.
                follow = f"{60 + os.getpid() / 1e7:.7f}"
                said = Script("undeploy.sh", FOLLOW=follow, **options)
                self.assertEqual(said.status, status, said.err)
                sleeping = subprocess.run(["pgrep", "-f", f"sleep {follow}"], capture_output=True, text=True)
                self.assertEqual(sleeping.stdout, "")

    def test_of_no_pods_nothing_is_claimed(self):
        for pods in ["", PENDING]:
            said = Script("undeploy.sh", PODS=pods)
            self.assertEqual((said.status, len(said.changes())), (0, 2))
            self.assertIn("No collector was running here", said.out)
            self.assertNotIn("Every node", said.out)

    def test_without_a_list_of_the_pods_nothing_is_deleted(self):
        said = Script("undeploy.sh", REFUSED="get pods*")
        self.assertEqual((said.status, said.changes()), (1, []))
        self.assertIn("the pods cannot be listed: error: refused by the test", said.err)

    def test_without_a_cluster_nothing_is_deleted(self):
        said = Script("undeploy.sh", REFUSED="*get*--raw*")
        self.assertEqual((said.status, said.changes()), (1, []))
        self.assertIn("no cluster", said.err)


class Make(unittest.TestCase):
    def test_to_deploy_takes_no_rust(self):
        with tempfile.TemporaryDirectory() as directory:
            rustc = Path(directory, "rustc")
            rustc.write_text("#!/bin/sh\necho 'rustc was asked' >&2\n")
            rustc.chmod(0o755)
            environment = {"PATH": f"{directory}:{os.environ['PATH']}"}
            for target in ["deploy", "undeploy"]:
                command = ["make", "--dry-run", "--directory", DEPLOY.parent, target]
                ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
                self.assertEqual((ran.returncode, ran.stderr), (0, ""))


if __name__ == "__main__":
    unittest.main()
