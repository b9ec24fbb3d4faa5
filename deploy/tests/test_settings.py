"""Whether the programs take the settings that the manifests and the chart write for them."""

import os
import re
import shutil
import subprocess
import tempfile
import unittest
from pathlib import Path

from rendering import DEPLOY, OVERLAYS, helm, kustomize, misplaced

PROGRAMS = DEPLOY.parent / "dist"
# As docs/architecture.md has it. That this is no node is another matter.
CONFIGURED_WRONGLY = 64
# What a pod's account consists of.
ACCOUNT = {
    "token": "a token",
    "namespace": "ibm-observe",
    "ca.crt": (PROGRAMS / "ca-certificates.crt").read_text(),
}
BUCKET = {"bucket": {"name": "dumps"}}


class Settings(unittest.TestCase):
    def taken(self, objects):
        [data] = [each["data"] for each in objects if each["kind"] == "ConfigMap"]
        with tempfile.TemporaryDirectory() as directory:
            for file, text in data.items():
                text = text.replace("A_UNIQUE_NAME", "dumps") + f"\naccount_dir: {directory}\n"
                Path(directory, file).write_text(text)
            for file, text in ACCOUNT.items():
                Path(directory, file).write_text(text)
            host, spool = Path(directory, "host"), Path(directory, "spool")
            host.mkdir()
            spool.mkdir()
            for program, arguments in [
                ("installer", ["--host-root", host, "install", "--dry-run"]),
                # Of an empty spool: nothing is asked of the store.
                ("uploader", ["--spool", spool, "push"]),
            ]:
                config = Path(directory, f"{program}.yaml")
                command = [PROGRAMS / program, "--config", config, *arguments]
                # As in a pod, and one of EKS.
                environment = {
                    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
                    "KUBERNETES_SERVICE_PORT": "443",
                    "AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/dumps",
                    "AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/secrets/eks.amazonaws.com/token",
                    "AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://169.254.170.23/v1/credentials",
                    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": "/var/run/secrets/pods.eks/token",
                }
                ran = subprocess.run(
                    command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment}
                )
                self.assertNotEqual(ran.returncode, CONFIGURED_WRONGLY, ran.stderr)

    def test_the_programs_take_the_settings_of_the_kustomization_in_the_docs_with_each_overlay(self):
        [example] = re.findall("```yaml\n(.*?)```", (DEPLOY.parent / "docs/install.md").read_text(), re.DOTALL)
        for overlay in OVERLAYS:
            with self.subTest(overlay), tempfile.TemporaryDirectory() as directory:
                clone = Path(directory, "coredump-handler/deploy")
                shutil.copytree(DEPLOY, clone, ignore=shutil.ignore_patterns("testbed", "tests", "helm"))
                Path(directory, "kustomization.yaml").write_text(example.replace("overlays/iks", f"overlays/{overlay}"))
                settings = clone / f"overlays/{overlay}/settings.yaml"
                if not settings.exists():
                    settings = clone / "base/configmap.yaml"
                ours = settings.read_text().replace("A_UNIQUE_NAME", "our-dumps")
                Path(directory, "settings.yaml").write_text(ours)
                objects = kustomize(directory)
                self.taken(objects)
                self.assertEqual(misplaced(objects), [])
                self.assertIn("bucket: our-dumps", str(objects))
                [daemon_set] = [each for each in objects if each["kind"] == "DaemonSet"]
                images = {each["image"] for each in daemon_set["spec"]["template"]["spec"]["containers"]}
                self.assertEqual(images, {"REGISTRY/coredump-handler:0.1.0"})

    def test_the_programs_take_the_settings_of_each_overlay(self):
        for overlay in OVERLAYS:
            with self.subTest(overlay):
                self.taken(kustomize(f"overlays/{overlay}"))

    def test_the_programs_take_every_setting_that_the_chart_lets_through(self):
        everything = {
            "bucket": {
                "name": "dumps",
                "prefix": "cluster-1",
                "path_style": True,
                "storage_class": "STANDARD_IA",
                "tags": {"team": "payments"},
                "proxy": "http://proxy:3128",
                "sse": {"type": "kms", "kms_key_id": "key"},
            },
            "installer": {"core_pipe_limit": 64, "check_every": "3s"},
            "composer": {
                "compression": "zstd",
                "threads": 2,
                "max_core_bytes": "4GiB",
                "spool_max_bytes": "20GiB",
                "keep_free": "5GiB",
                "rate_limit": {"burst": 3, "every": "1h"},
                "redact_environ": False,
                "capture": "pods",
                "namespaces": {"exclude": ["kube-*"]},
                "labels": {"include": ["team=payments"]},
                "cri_socket": "auto",
                "cri_timeout": "2s",
                "log_lines": 100,
            },
            "uploader": {
                "events": False,
                "key": "{id}.zip",
                "parallel": 4,
                "part_size": "8MiB",
                "bandwidth": "10MiB",
                "ready_without_store": True,
                "retention": {
                    "after_upload": "keep",
                    "max_age": "7d",
                    "max_bytes": "10GiB",
                    "keep_free": "5GiB",
                },
            },
        }
        self.taken(helm(everything).objects)

    def test_the_programs_take_every_source_of_credentials(self):
        for auth in ["hmac", "ibm_api_key", "aws_web_identity", "aws_container", "aws_instance"]:
            with self.subTest(auth):
                self.taken(helm({**BUCKET, "auth": {"type": auth}}).objects)
        profile = {"type": "ibm_trusted_profile", "trustedProfile": "Profile-1"}
        self.taken(helm({**BUCKET, "auth": profile}).objects)


if __name__ == "__main__":
    unittest.main()
