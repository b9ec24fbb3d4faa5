"""What the chart refuses, before anything is made."""

import unittest

from rendering import Refused, helm

BUCKET = {"bucket": {"name": "dumps"}}


class Chart(unittest.TestCase):
    def refused(self, sentence, values, **namespace):
        with self.assertRaisesRegex(Refused, sentence):
            helm(values, **namespace)

    def test_a_bucket_is_required(self):
        self.refused("at '/bucket': missing property 'name'", {})
        for name in ["", "A_UNIQUE_NAME", "ab"]:
            self.refused(f"at '/bucket/name': '{name}' does not match", {"bucket": {"name": name}})

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

    def test_a_namespace_that_forbids_host_paths_is_refused(self):
        enforce = "pod-security.kubernetes.io/enforce"
        for labels in [{}, {enforce: "baseline"}]:
            sentence = f"kubectl label --overwrite namespace ibm-observe {enforce}=privileged"
            self.refused(sentence, BUCKET, namespace_labels=labels)
        helm(BUCKET, namespace_labels={enforce: "privileged"})

    def test_the_notes_name_the_secret_only_if_somebody_has_to_make_it(self):
        create = "kubectl create secret generic coredump-handler-store"
        self.assertIn(create, helm(BUCKET).notes)
        for auth in [{"type": "aws_container"}, {"accessKeyId": "id", "secretAccessKey": "secret"}]:
            self.assertNotIn(create, helm({**BUCKET, "auth": auth}).notes)

    def test_new_settings_are_a_new_pod(self):
        def settings(values):
            [pod] = [o for o in helm(values).objects if o["kind"] == "DaemonSet"]
            return pod["spec"]["template"]["metadata"]["annotations"]["coredump-handler/settings"]

        self.assertEqual(settings(BUCKET), settings({**BUCKET, "podLabels": {"a": "1"}}))
        self.assertNotEqual(settings(BUCKET), settings({"bucket": {"name": "others"}}))


if __name__ == "__main__":
    unittest.main()
