"""What is applied to a cluster."""

import copy
import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from kubernetes_validate import ValidationError, utils
import yaml
from rendering import CHART, DEPLOY, NAMESPACE, OVERLAYS, Refused, helm, kustomize, misplaced

# Those of three years of Kubernetes, as the package has them.
VERSIONS = sorted(
    {utils.major_minor(version) for version in utils.all_versions()},
    key=lambda version: [int(part) for part in version.split(".")],
)[-3:]
# Not Kubernetes' own, so nobody has its schema.
OPENSHIFT = "SecurityContextConstraints"
BUCKET = {"bucket": {"name": "dumps"}}


def kustomized(directory):
    objects = kustomize(directory)
    for each in objects:
        if each["kind"] == "ConfigMap":
            assert "A_UNIQUE_NAME" in each["data"]["uploader.yaml"]
            each["data"]["uploader.yaml"] = each["data"]["uploader.yaml"].replace(
                "A_UNIQUE_NAME", "dumps"
            )
    return objects


def comparable(objects):
    """By kind and name, without what belongs to Helm, and with settings as what they say."""
    compared = {}
    for each in copy.deepcopy(objects):
        labels = each["metadata"]["labels"]
        labels.pop("helm.sh/chart", None)
        labels.pop("app.kubernetes.io/managed-by", None)
        if each["kind"] == "ConfigMap":
            each["data"] = {file: yaml.safe_load(text) for file, text in each["data"].items()}
        if each["kind"] == "DaemonSet":
            del each["spec"]["template"]["metadata"]["annotations"]["coredump-handler/settings"]
        compared[each["kind"], each["metadata"]["name"]] = each
    return compared


def pods(objects):
    return [each["spec"]["template"]["spec"] for each in objects if each["kind"] == "DaemonSet"]


class Objects(unittest.TestCase):
    maxDiff = None

    def valid(self, objects):
        for version in VERSIONS:
            for each in objects:
                if each["kind"] != OPENSHIFT:
                    utils.validate(each, version, strict=True)

    def test_the_three_newest_versions_of_kubernetes_take_each_overlay(self):
        for overlay in ["base", *(f"overlays/{name}" for name in OVERLAYS)]:
            with self.subTest(overlay):
                self.valid(kustomize(overlay))

    def test_the_three_newest_versions_of_kubernetes_take_the_chart_with_everything_in_it(self):
        everything = {
            **BUCKET,
            "image": {"digest": f"sha256:{64 * 'a'}", "pullPolicy": "Always", "pullSecrets": ["x"]},
            "auth": {"type": "ibm_trusted_profile", "trustedProfile": "Profile-1"},
            "timezone": "Europe/Berlin",
            "extraEnv": [{"name": "RUST_LOG", "value": "debug"}],
            "serviceAccount": {"annotations": {"eks.amazonaws.com/role-arn": "arn"}},
            "podAnnotations": {"a": "1"},
            "podLabels": {"b": "2"},
            "nodeSelector": {"c": "3"},
            "affinity": {"nodeAffinity": {}},
            "tolerations": [{"key": "d", "operator": "Equal", "value": "4", "effect": "NoExecute"}],
            "priorityClassName": "system-node-critical",
            "seLinuxType": "spc_t",
            "openshift": {"scc": True},
        }
        for values in [
            everything,
            {**BUCKET, "privileged": True},
            {**BUCKET, "auth": {"accessKeyId": "id", "secretAccessKey": "secret"}},
            {**BUCKET, "auth": {"type": "ibm_api_key", "apiKey": "key"}},
        ]:
            release = helm(values)
            self.valid([*release.objects, *release.tests])

    def test_a_misspelt_field_would_not_pass(self):
        [daemon_set] = [each for each in kustomize("base") if each["kind"] == "DaemonSet"]
        daemon_set["spec"]["template"]["spec"]["tolerationz"] = []
        with self.assertRaises(ValidationError):
            self.valid([daemon_set])

    def test_the_chart_makes_what_kustomize_makes_for_each_provider(self):
        for provider in [None, *OVERLAYS]:
            with self.subTest(provider):
                objects = kustomized(f"overlays/{provider}" if provider else "base")
                # A chart is installed in a namespace that is there.
                expected = [each for each in objects if each["kind"] != "Namespace"]
                made = helm(BUCKET, provider).objects
                self.assertEqual(comparable(made), comparable(expected))

    def test_the_chart_makes_of_a_value_what_kustomize_makes_of_a_component(self):
        for component, provider, value in [
            ("selinux", None, {"seLinuxType": "spc_t"}),
            ("privileged", None, {"privileged": True}),
            ("privileged", "openshift", {"privileged": True}),
        ]:
            with self.subTest(component, of=provider), tempfile.TemporaryDirectory() as overlay:
                deploy = os.path.relpath(DEPLOY, os.path.realpath(overlay))
                kustomization = {
                    "resources": [f"{deploy}/overlays/{provider}" if provider else f"{deploy}/base"],
                    "components": [f"{deploy}/components/{component}"],
                }
                Path(overlay, "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
                objects = kustomized(overlay)
                self.valid(objects)
                expected = [each for each in objects if each["kind"] != "Namespace"]
                self.assertEqual(comparable(helm({**BUCKET, **value}, provider).objects), comparable(expected))

    @unittest.skipUnless(shutil.which("helm"), "no helm is installed; its library made the objects")
    def test_the_installed_helm_makes_the_same(self):
        chart = [str(CHART), "--namespace", NAMESPACE, "--set", "bucket.name=dumps"]
        subprocess.run(["helm", "lint", "--strict", *chart], check=True, timeout=60)
        command = ["helm", "template", "coredump-handler", *chart, "--kube-version", "1.36.0"]
        made = subprocess.run(command, capture_output=True, check=True, timeout=60).stdout
        objects = [each for each in yaml.safe_load_all(made) if each]
        objects = [each for each in objects if "annotations" not in each["metadata"]]  # no test
        self.assertEqual(comparable(objects), comparable(helm(BUCKET).objects))

    def test_everything_is_of_the_version_of_the_programs(self):
        workspace = (DEPLOY.parent / "Cargo.toml").read_text()
        version = re.search(r'^version = "(.*)"', workspace, re.MULTILINE)[1]
        chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
        self.assertEqual((chart["version"], chart["appVersion"]), (version, version))
        for overlay in OVERLAYS:
            objects = kustomize(f"overlays/{overlay}")
            labels = {o["metadata"]["labels"]["app.kubernetes.io/version"] for o in objects}
            images = {c["image"] for pod in pods(objects) for c in pod["containers"]}
            self.assertEqual((labels, images), ({version}, {f"coredump-handler:{version}"}))

    def test_no_container_has_more_rights_than_it_needs(self):
        for overlay in OVERLAYS:
            for pod in pods(kustomize(f"overlays/{overlay}")):
                self.assertFalse({"hostPID", "hostIPC", "hostNetwork"} & pod.keys())
                for container in pod["containers"]:
                    security = container["securityContext"]
                    self.assertEqual(security["capabilities"], {"drop": ["ALL"]})
                    self.assertIs(security["allowPrivilegeEscalation"], False)
                    self.assertIs(security["readOnlyRootFilesystem"], True)
                    self.assertNotIn("privileged", security)
                selinux = "seLinuxOptions" in pod["securityContext"]
                self.assertEqual(selinux, overlay in ["openshift", "roks"])

    def test_the_uploader_listens_where_a_node_has_only_ipv6(self):
        for overlay in OVERLAYS:
            [data] = [o["data"] for o in kustomize(f"overlays/{overlay}") if o["kind"] == "ConfigMap"]
            self.assertEqual(yaml.safe_load(data["uploader.yaml"])["listen"], "[::]:9464", overlay)

    def test_new_settings_reach_no_container_before_it_starts_anew(self):
        for objects in [
            *(kustomize(f"overlays/{overlay}") for overlay in OVERLAYS),
            *(helm(BUCKET, provider).objects for provider in [None, *OVERLAYS]),
        ]:
            [pod] = pods(objects)
            for container in pod["containers"]:
                # The kubelet writes anew what is in a mounted ConfigMap, but not behind a subPath.
                file = f"{container['name']}.yaml"
                self.assertEqual(
                    [each for each in container["volumeMounts"] if each["name"] == "settings"],
                    [{
                        "name": "settings",
                        "mountPath": f"/etc/coredump-handler/{file}",
                        "subPath": file,
                        "readOnly": True,
                    }],
                )  # fmt: skip

    def test_one_node_after_the_other_is_updated_unless_another_share_is_asked_for(self):
        for objects, share in [
            (kustomize("base"), 1),
            (helm(BUCKET).objects, 1),
            (helm({**BUCKET, "maxUnavailable": "10%"}).objects, "10%"),
        ]:
            self.valid(objects)
            [daemon_set] = [each for each in objects if each["kind"] == "DaemonSet"]
            self.assertEqual(daemon_set["spec"]["updateStrategy"]["rollingUpdate"], {"maxUnavailable": share})
        for wrong in [0, "0%", "101%", "many"]:
            with self.assertRaises(Refused):
                helm({**BUCKET, "maxUnavailable": wrong})

    def test_the_collector_asks_for_as_little_as_it_promises(self):
        mebibytes = lambda text: int(text.removesuffix("Mi"))
        [pod] = pods(kustomize("base"))
        resources = [container["resources"] for container in pod["containers"]]
        cpu = sum(int(each["requests"]["cpu"].removesuffix("m")) for each in resources)
        self.assertLessEqual(cpu, 200)
        self.assertLessEqual(sum(mebibytes(each["limits"]["memory"]) for each in resources), 128)

    def test_every_host_path_is_where_the_settings_say(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                self.assertEqual(misplaced(kustomized(f"overlays/{overlay}")), [])


if __name__ == "__main__":
    unittest.main()
