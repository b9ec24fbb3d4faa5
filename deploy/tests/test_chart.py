"""What the chart refuses, before anything is made."""

import os
import subprocess
import tempfile
import unittest
from pathlib import Path

import yaml
from rendering import NAMESPACE, Refused, helm

BUCKET = {"bucket": {"name": "dumps"}}


class Chart(unittest.TestCase):
    def refused(self, sentence, values, **cluster):
        with self.assertRaisesRegex(Refused, sentence):
            helm(values, **cluster)

    def test_a_bucket_is_required(self):
        self.refused("at '/bucket': missing property 'name'", {})
        for name in ["", "A_UNIQUE_NAME", "ab", "a..b", ".ab", "ab-", 64 * "a"]:
            self.refused("at '/bucket/name'", {"bucket": {"name": name}})
        for name in ["abc", "a.b-c.d", 63 * "a", "12345678", "true"]:
            [settings] = [o for o in helm({"bucket": {"name": name}}).objects if o["kind"] == "ConfigMap"]
            uploader = yaml.safe_load(settings["data"]["uploader.yaml"])
            self.assertEqual(uploader["store"]["s3"]["bucket"], name)

    def test_an_unknown_key_is_refused_wherever_it_is(self):
        for path in [
            "x", "image.x", "bucket.x", "bucket.sse.x", "auth.x", "installer.x", "composer.x",
            "composer.rate_limit.x", "composer.namespaces.x", "uploader.x", "uploader.retention.x",
            "serviceAccount.x", "affinity.x", "openshift.x", "resources.x", "resources.installer.x",
            "resources.uploader.limits.x", "test.x",
        ]:  # fmt: skip
            with self.subTest(path):
                values = {"bucket": {"name": "dumps"}}
                *parents, key = path.split(".")
                parent = values
                for name in parents:
                    parent = parent.setdefault(name, {})
                parent[key] = 1
                self.refused(r"additional properties 'x' not allowed", values)

    def test_an_unknown_value_is_refused(self):
        for values, place in [
            ({"auth": {"type": "password"}}, "/auth/type"),
            ({"hostDir": "opt"}, "/hostDir"),
            ({"composer": {"max_core_bytes": "lots"}}, "/composer/max_core_bytes"),
            ({"composer": {"spool_max_bytes": "auto"}}, "/composer/spool_max_bytes"),
            ({"uploader": {"part_size": -1}}, "/uploader/part_size"),
            ({"composer": {"capture": "some"}}, "/composer/capture"),
            ({"uploader": {"parallel": 33}}, "/uploader/parallel"),
            ({"tolerations": [{"effect": "Never"}]}, "/tolerations/0/effect"),
            ({"image": {"digest": "sha256:1"}}, "/image/digest"),
        ]:
            self.refused(f"at '{place}'", {**BUCKET, **values})

    def test_there_is_exactly_one_source_of_credentials(self):
        pair = {"accessKeyId": "id", "secretAccessKey": "secret"}
        for auth, sentence in [
            ({**pair, "apiKey": "key"}, "one of them is one too many"),
            ({"accessKeyId": "id"}, "one of them is missing"),
            ({**pair, "type": "aws_container"}, "auth.type is aws_container: it should be hmac"),
            ({"apiKey": "key"}, "auth.type is hmac: it should be ibm_api_key"),
            ({"type": "ibm_trusted_profile"}, "auth.trustedProfile is missing"),
        ]:
            self.refused(sentence, {**BUCKET, "auth": auth})

    def test_dumps_do_not_go_where_the_composer_is(self):
        for paths in [{"spoolDir": "/opt/coredump-handler/spool"}, {"hostDir": "/var/lib/coredump-handler"}]:
            self.refused("may not lie in each other", {**BUCKET, **paths})
        helm({**BUCKET, "spoolDir": "/opt/coredump-handler-spool"})

    def test_a_namespace_that_forbids_host_paths_is_refused(self):
        enforce = "pod-security.kubernetes.io/enforce"
        for labels in [{}, {enforce: "baseline"}]:
            sentence = f"kubectl label --overwrite namespace ibm-observe {enforce}=privileged"
            self.refused(sentence, BUCKET, namespaces={NAMESPACE: labels})
        helm(BUCKET, namespaces={NAMESPACE: {enforce: "privileged"}})

    def test_a_namespace_that_helm_would_make_without_its_label_is_refused(self):
        sentence = "there is no namespace ibm-observe, .* kubectl create namespace ibm-observe && kubectl label"
        self.refused(sentence, BUCKET, namespaces={"kube-system": {}})
        # As `helm template` sees it: no cluster, and so no namespace at all.
        helm(BUCKET, namespaces={})

    def test_the_notes_name_the_secret_only_if_somebody_has_to_make_it(self):
        create = "kubectl create secret generic coredump-handler-store"
        self.assertIn(create, helm(BUCKET).notes)
        for auth in [{"type": "aws_container"}, {"accessKeyId": "id", "secretAccessKey": "secret"}]:
            self.assertNotIn(create, helm({**BUCKET, "auth": auth}).notes)

    def test_the_notes_say_that_an_image_of_no_registry_is_not_pulled(self):
        said = "No registry has the image coredump-handler:"
        self.assertIn(said, helm(BUCKET).notes)
        self.assertNotIn(said, helm({**BUCKET, "image": {"repository": "registry.example/x"}}).notes)

    def test_the_test_pod_asks_an_api_server_by_either_kind_of_address(self):
        [pod] = [each for each in helm(BUCKET).tests if each["kind"] == "Pod"]
        # Without its first line, which crashes.
        script = pod["spec"]["containers"][0]["args"][0].split("\n", 1)[1]
        with tempfile.TemporaryDirectory() as directory:
            curl = Path(directory, "curl")
            curl.write_text(f"#!/bin/sh\necho \"$*\" >>{directory}/asked\necho CoreDumpUploaded\n")
            curl.chmod(0o755)
            for address, host in [("10.0.0.1", "10.0.0.1"), ("fd00::1", "[fd00::1]")]:
                environment = {
                    "PATH": f"{directory}:{os.environ['PATH']}",
                    "KUBERNETES_SERVICE_HOST": address,
                    "KUBERNETES_SERVICE_PORT": "443",
                }
                subprocess.run(["sh", "-c", script], env=environment, capture_output=True, check=True, timeout=60)
                self.assertIn(f"https://{host}:443/api/v1/", Path(directory, "asked").read_text())

    def test_new_settings_are_a_new_pod(self):
        def settings(values):
            [pod] = [o for o in helm(values).objects if o["kind"] == "DaemonSet"]
            return pod["spec"]["template"]["metadata"]["annotations"]["coredump-handler/settings"]

        self.assertEqual(settings(BUCKET), settings({**BUCKET, "podLabels": {"a": "1"}}))
        self.assertNotEqual(settings(BUCKET), settings({"bucket": {"name": "others"}}))


if __name__ == "__main__":
    unittest.main()
