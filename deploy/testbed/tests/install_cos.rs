//! `deploy/install-cos.sh`, against an account and a cluster that are files: the
//! command lines of IBM Cloud and of Kubernetes are `install_cos/cli.sh`.

use std::env;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use tempfile::TempDir;

const BUCKET: &str = "acme-core-dumps";
const HOLDER: &str = "coredump-handler-cehb47hw0bghltkq14og";
const SECRETS: [&str; 2] = ["SECRET-ACCESS-KEY", "SECRET-API-KEY"];

struct Cloud(TempDir);

struct Run {
    code: Option<i32>,
    out: String,
    err: String,
    calls: Vec<String>,
}

fn of_the_system(tool: &str) -> PathBuf {
    let dirs = env::var_os("PATH").expect("PATH");
    let found = env::split_paths(&dirs).map(|dir| dir.join(tool)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{tool} is not in PATH"))
}

impl Cloud {
    /// An account with a classic Kubernetes cluster, and nothing else.
    fn new() -> Cloud {
        let cloud = Cloud(tempfile::tempdir().expect("a directory"));
        fs::create_dir(cloud.path("bin")).expect("bin");
        let cli = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/install_cos/cli.sh");
        for tool in ["ibmcloud", "jq", "kubectl", "sleep"] {
            symlink(&cli, cloud.path("bin").join(tool)).expect(tool);
        }
        for tool in ["cat", "grep", "rm", "sed", "wc"] {
            symlink(of_the_system(tool), cloud.path("bin").join(tool)).expect(tool);
        }
        cloud.cluster(json!({"provider": "classic", "type": "kubernetes", "region": "us-south"}));
        cloud
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn cluster(&self, mut fields: Value) {
        fields["id"] = "cehb47hw0bghltkq14og".into();
        fields["name"] = "mycluster".into();
        fs::write(self.path("cluster"), fields.to_string()).expect("the cluster");
    }

    fn fault(self, name: &str) -> Cloud {
        fs::write(self.path(&format!("fault-{name}")), "").expect(name);
        self
    }

    fn mend(&self, name: &str) {
        fs::remove_file(self.path(&format!("fault-{name}"))).expect(name);
    }

    fn without(self, tool: &str) -> Cloud {
        fs::remove_file(self.path("bin").join(tool)).expect(tool);
        self
    }

    fn run(&self, arguments: &[&str]) -> Run {
        let home = self.path("home");
        fs::create_dir_all(&home).expect("a home");
        let _ = fs::remove_file(self.path("calls"));
        let output = Command::new("/bin/sh")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../install-cos.sh"))
            .args(arguments)
            .env_clear()
            .env("PATH", self.path("bin"))
            .env("CLOUD", self.0.path())
            .env("JQ", of_the_system("jq"))
            .envs([("HOME", &home), ("TMPDIR", &home)])
            .current_dir(&home)
            .stdin(Stdio::null())
            .output()
            .expect("running the script");
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        let calls = fs::read_to_string(self.path("calls")).unwrap_or_default();
        let run = Run {
            code: output.status.code(),
            out: text(output.stdout),
            err: text(output.stderr),
            calls: calls.lines().map(str::to_owned).collect(),
        };
        for secret in SECRETS {
            assert!(![&run.out, &run.err, &calls].iter().any(|said| said.contains(secret)), "{secret}");
        }
        assert!(fs::read_dir(&home).expect("the home").next().is_none(), "a file was left");
        run
    }

    fn set_up(&self) -> Run {
        let run = self.run(&["--bucket", BUCKET]);
        assert_eq!(run.code, Some(0), "{}", run.err);
        run
    }

    fn secret(&self) -> Value {
        serde_json::from_slice(&fs::read(self.path("secret")).expect("a Secret")).expect("JSON")
    }
}

impl Run {
    fn changes(&self) -> Vec<&str> {
        let changes = ["-create ", " create ", " label ", " apply "];
        let is_change =
            |call: &&str| changes.iter().any(|verb| call.contains(verb)) && !call.contains(" can-i ");
        self.calls.iter().map(String::as_str).filter(is_change).collect()
    }

    fn change(&self, verb: &str) -> &str {
        let [call] = self.changes().into_iter().filter(|call| call.contains(verb)).collect::<Vec<_>>()[..]
        else {
            panic!("not one {verb} in {:?}", self.calls)
        };
        call
    }

    fn command(&self) -> &str {
        self.out.lines().map(str::trim).find(|line| line.starts_with("make deploy")).expect("make deploy")
    }
}

#[test]
fn an_empty_account_gets_all_that_the_collector_needs() {
    let cloud = Cloud::new();
    let run = cloud.set_up();
    assert_eq!(
        run.command(),
        format!(
            "make deploy BUCKET={BUCKET} OVERLAY=iks \
             ENDPOINT=https://s3.private.us-south.cloud-object-storage.appdomain.cloud REGION=us-south \
             IMAGE=REGISTRY/coredump-handler:0.1.0"
        )
    );
    assert!(
        run.out
            .contains("helm install coredump-handler deploy/helm/coredump-handler --namespace ibm-observe")
    );
    assert_eq!(
        cloud.secret(),
        json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
            "metadata": {"name": "coredump-handler-store", "namespace": "ibm-observe"},
            "stringData": {"access_key_id": "347aa3a4b34344f8bc7c7cccdf856e4c",
                "secret_access_key": "SECRET-ACCESS-KEY"}})
    );
    let label = run.change(" label ");
    for mode in ["enforce", "audit", "warn"] {
        assert!(label.contains(&format!(" pod-security.kubernetes.io/{mode}=privileged")), "{label}");
    }
}

#[test]
fn the_key_can_write_into_the_bucket_and_neither_read_nor_delete() {
    let run = Cloud::new().set_up();
    let (_, actions) = run.change("role-create").split_once("--actions ").unwrap();
    let mut actions: Vec<_> = actions.split(' ').next().unwrap().split(',').collect();
    actions.sort_unstable();
    assert_eq!(
        actions,
        [
            "cloud-object-storage.bucket.get_uploads",
            "cloud-object-storage.object.delete_upload",
            "cloud-object-storage.object.head",
            "cloud-object-storage.object.post_complete_upload",
            "cloud-object-storage.object.post_initiate_upload",
            "cloud-object-storage.object.put",
            "cloud-object-storage.object.put_part",
        ]
    );
    assert_eq!(
        run.change("service-policy-create"),
        format!(
            "ibmcloud iam service-policy-create {HOLDER} --roles CoredumpUploader --service-name cloud-object-storage \
             --service-instance 1fb9129a-d685-42a2-bafe-f358cbfb7e50 --resource-type bucket --resource {BUCKET} --force"
        )
    );
    let key = run.change("service-key-create");
    assert!(
        key.starts_with(&format!("ibmcloud resource service-key-create {HOLDER} --instance-id crn:")),
        "{key}"
    );
    assert!(key.contains(&format!("--service-id {HOLDER} --parameters {{\"HMAC\":true}}")), "{key}");
}

#[test]
fn without_a_custom_role_the_key_has_the_roles_that_were_asked_for() {
    let run = Cloud::new().run(&["--bucket", BUCKET, "--roles", "Object Writer,Object Reader"]);
    assert_eq!(run.code, Some(0), "{}", run.err);
    assert!(!run.calls.iter().any(|call| call.contains("role-create")));
    assert!(run.change("service-policy-create").contains("--roles Object Writer,Object Reader "));
}

#[test]
fn the_second_time_nothing_is_made_and_the_same_is_said() {
    let cloud = Cloud::new();
    let first = cloud.set_up();
    let second = cloud.set_up();
    assert_eq!(second.changes(), [""; 0]);
    assert_eq!(second.command(), first.command());
}

#[test]
fn what_was_broken_off_is_gone_on_with_and_there_is_one_key() {
    let cloud = Cloud::new().fault("no-secret");
    let first = cloud.run(&["--bucket", BUCKET]);
    assert_eq!(first.code, Some(1));
    assert!(first.err.contains("Secret coredump-handler-store could not be made"), "{}", first.err);
    cloud.mend("no-secret");
    let second = cloud.set_up();
    assert!(second.changes().iter().all(|call| call.contains(" apply ")), "{:?}", second.changes());
    assert_eq!(cloud.secret()["stringData"]["secret_access_key"], "SECRET-ACCESS-KEY");
}

#[test]
fn a_dry_run_prints_each_command_and_runs_none_of_them() {
    let cloud = Cloud::new();
    let dry = cloud.run(&["--bucket", BUCKET, "--dry-run"]);
    assert_eq!(dry.code, Some(0), "{}", dry.err);
    assert_eq!(dry.changes(), [""; 0]);
    assert!(!dry.out.contains(": made"), "{}", dry.out);
    let real = cloud.set_up();
    let printed =
        dry.out.lines().filter(|line| line.starts_with(" ibmcloud") || line.starts_with(" kubectl"));
    let instance = "1fb9129a-d685-42a2-bafe-f358cbfb7e50";
    let crn = format!(
        "crn:v1:bluemix:public:cloud-object-storage:global:a/abac0df06b644a9cabc6e44f55b3880e:{instance}::"
    );
    let printed: Vec<_> = printed
        .map(|line| line.trim_start().replace('\'', ""))
        .map(|line| {
            line.replace("--service-instance NEW-INSTANCE", &format!("--service-instance {instance}"))
        })
        .map(|line| line.replace("NEW-INSTANCE", &crn))
        .collect();
    assert_eq!(printed, real.changes());
}

#[test]
fn on_openshift_the_overlay_is_another_and_oc_will_do() {
    let cloud = Cloud::new();
    cloud.cluster(json!({"provider": "vpc-gen2", "type": "openshift", "masterKubeVersion": "4.16.20_openshift",
        "region": "us-south", "crn": "crn:v1:bluemix:public:containers-kubernetes:us-south:a/abac:cehb47hw0bghltkq14og::"}));
    fs::rename(cloud.path("bin/kubectl"), cloud.path("bin/oc")).unwrap();
    let run = cloud.set_up();
    assert!(run.command().contains(" OVERLAY=roks "), "{}", run.out);
    assert!(
        run.out.contains("SecurityContextConstraints: come with the overlay or the chart"),
        "{}",
        run.out
    );
    assert!(run.calls.iter().any(|call| call == "oc auth can-i create securitycontextconstraints"));
    assert!(run.out.contains("/values-roks.yaml "), "{}", run.out);
}

#[test]
fn the_endpoint_is_one_that_the_cluster_reaches() {
    let host =
        |run: &Run| run.command().split("https://").nth(1).unwrap().split(' ').next().unwrap().to_owned();
    let cloud = Cloud::new();
    cloud.cluster(json!({"provider": "vpc-gen2", "type": "kubernetes", "region": "eu-de"}));
    assert_eq!(host(&cloud.set_up()), "s3.direct.eu-de.cloud-object-storage.appdomain.cloud");
    for (kind, expected) in
        [("private", "s3.private.eu-de"), ("direct", "s3.direct.eu-de"), ("public", "s3.eu-de")]
    {
        let run = cloud.run(&["--bucket", BUCKET, "--endpoint", kind]);
        assert_eq!(host(&run), format!("{expected}.cloud-object-storage.appdomain.cloud"));
    }
}

#[test]
fn a_bucket_that_is_there_stays_where_it_is() {
    let cloud = Cloud::new();
    let first = cloud.run(&["--bucket", BUCKET, "--region", "jp-osa"]);
    assert_eq!(first.code, Some(0), "{}", first.err);
    assert!(
        cloud
            .set_up()
            .command()
            .contains("s3.private.jp-osa.cloud-object-storage.appdomain.cloud REGION=jp-osa ")
    );
}

#[test]
fn iam_may_take_a_moment_to_know_what_it_has_made() {
    let run = Cloud::new().fault("slow-iam").set_up();
    assert_eq!(run.calls.iter().filter(|call| call.contains("service-policy-create")).count(), 2);
    assert!(run.calls.iter().any(|call| call.starts_with("sleep ")));
}

#[test]
fn what_is_wrong_is_said_before_anything_is_made() {
    for (fault, said) in [
        ("logged-out", "not logged in to IBM Cloud, or no account is targeted: run ibmcloud login"),
        ("no-plugin", "ibmcloud lacks a plug-in: run ibmcloud plugin install container-service"),
        ("no-context", "kubectl has no current context: run ibmcloud ks cluster config"),
        (
            "unreachable",
            "kubectl cannot ask the cluster of its current context, mycluster/cehb47hw0bghltkq14og",
        ),
        ("no-ibm-cluster", "is no cluster of IBM Cloud: run ibmcloud ks cluster config --cluster NAME"),
        ("no-namespaces", "in cluster mycluster you may not: create namespaces"),
        ("no-secrets", "in cluster mycluster you may not: create secrets --namespace ibm-observe"),
        (
            "no-group",
            "a new instance needs a resource group: --resource-group NAME, or ibmcloud target -g NAME",
        ),
        ("taken", "bucket acme-core-dumps is somebody else's: choose another name"),
        ("elsewhere", "bucket acme-core-dumps is in another instance of yours: name that with --instance"),
    ] {
        let run = Cloud::new().fault(fault).run(&["--bucket", BUCKET]);
        refused(&run, said);
    }
    let openshift = Cloud::new().fault("no-securitycontextconstraints");
    openshift.cluster(json!({"type": "openshift", "region": "us-south"}));
    refused(&openshift.run(&["--bucket", BUCKET]), "you may not create securitycontextconstraints");
    for (tool, said) in [
        ("ibmcloud", "ibmcloud is needed, and is not in PATH"),
        ("jq", "jq is needed, and is not in PATH"),
        ("kubectl", "kubectl or oc is needed, and neither is in PATH"),
    ] {
        refused(&Cloud::new().without(tool).run(&["--bucket", BUCKET]), said);
    }
    for (arguments, said) in [
        (["--cluster", "nowhere"], "this account has no cluster nowhere, or you may not see it"),
        (
            ["--cluster", "other"],
            "kubectl talks to cluster cehb47hw0bghltkq14og and not to other (bm64u3ed02o93vv36hb0)",
        ),
        (["--instance", "crn:v1:nothing"], "there is no instance crn:v1:nothing of Object Storage"),
    ] {
        refused(&Cloud::new().run(&[&["--bucket", BUCKET], &arguments[..]].concat()), said);
    }
}

fn refused(run: &Run, said: &str) {
    assert_eq!(run.code, Some(1), "{}", run.err);
    let ours: Vec<_> = run.err.lines().filter(|line| line.starts_with("install-cos: ")).collect();
    assert!(matches!(ours[..], [sentence] if sentence.contains(said)), "{said}: {}", run.err);
    assert_eq!(run.changes(), [""; 0]);
}

#[test]
fn of_several_instances_of_a_name_one_has_to_be_chosen() {
    let cloud = Cloud::new();
    cloud.set_up();
    let instance = |path: &Path| path.to_string_lossy().contains("/instance.");
    let first =
        fs::read_dir(cloud.0.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| instance(path));
    let twin = fs::read_to_string(first.unwrap()).unwrap().replace("1fb9129a", "2fb9129a");
    fs::write(cloud.path("instance.twin"), &twin).unwrap();
    refused(
        &cloud.run(&["--bucket", BUCKET]),
        "there are several instances coredump-handler; choose one with --instance CRN: crn:",
    );
    let twin: Value = serde_json::from_str(&twin).unwrap();
    assert_eq!(cloud.run(&["--bucket", BUCKET, "--instance", twin["id"].as_str().unwrap()]).code, Some(0));
}

#[test]
fn a_secret_with_another_key_is_not_overwritten() {
    let cloud = Cloud::new();
    fs::write(cloud.path("secret"), json!({"stringData": {"access_key_id": "another"}}).to_string()).unwrap();
    refused(
        &cloud.run(&["--bucket", BUCKET]),
        "Secret coredump-handler-store in ibm-observe has another key",
    );
    fs::remove_file(cloud.path("secret")).unwrap();
    cloud.set_up();
    fs::write(cloud.path("secret"), json!({"stringData": {"access_key_id": "another"}}).to_string()).unwrap();
    refused(
        &cloud.run(&["--bucket", BUCKET]),
        "Secret coredump-handler-store in ibm-observe has another key",
    );
}

#[test]
fn a_key_that_cannot_be_used_again_is_named() {
    let cloud = Cloud::new();
    cloud.set_up();
    let cloud = cloud.fault("redacted");
    refused(&cloud.run(&["--bucket", BUCKET]), "is not shown to you, or has no HMAC pair");
    cloud.mend("redacted");
    fs::remove_file(cloud.path(&format!("service.{HOLDER}"))).unwrap();
    refused(&cloud.run(&["--bucket", BUCKET]), "has lost its service ID, and opens nothing; delete it");
}

#[test]
fn a_key_that_could_do_more_is_not_handed_over() {
    let cloud = Cloud::new().fault("wide-key");
    for _ in 0..2 {
        let run = cloud.run(&["--bucket", BUCKET]);
        assert_eq!(run.code, Some(1));
        assert!(
            run.err.contains("may do more than write into acme-core-dumps; delete its other policies"),
            "{}",
            run.err
        );
        assert!(run.err.contains(&format!("service-policy-delete {HOLDER} 7d0354fa")), "{}", run.err);
        assert!(!cloud.path("secret").exists());
    }
}

#[test]
fn what_cannot_be_made_is_named_with_the_reason() {
    for (fault, said) in [
        ("unavailable", "bucket acme-core-dumps is somebody else's: choose another name"),
        ("broken", "bucket acme-core-dumps could not be made in us-south: FAILED\nInternalError"),
        (
            "no-administrator",
            "use --roles 'Object Writer,Object Reader', with which the key also reads dumps",
        ),
    ] {
        let run = Cloud::new().fault(fault).run(&["--bucket", BUCKET]);
        assert_eq!(run.code, Some(1));
        assert!(run.err.contains(said), "{said}: {}", run.err);
        assert!(!run.calls.iter().any(|call| call.contains("service-key-create")));
    }
}

#[test]
fn wrong_arguments_are_named_and_nothing_is_asked() {
    let long = "a".repeat(64);
    for (arguments, said) in [
        (&[][..], "a name for the bucket is needed: --bucket NAME"),
        (&["--bucket"], "--bucket needs a value"),
        (&["--bucket", "Acme_Dumps"], "Acme_Dumps cannot name a bucket: 3 to 63 of a-z, 0-9, - and ."),
        (&["--bucket", "-acme"], "-acme cannot name a bucket"),
        (&["--bucket", "a..b"], "a..b cannot name a bucket"),
        (&["--bucket", "ab"], "ab cannot name a bucket"),
        (&["--bucket", &long], "it has more than 63 characters"),
        (&["--bucket", BUCKET, "--endpoint", "fast"], "fast is no endpoint: private, direct or public"),
        (&["--bucket", BUCKET, "--force"], "--force is no option; --help lists them"),
    ] {
        let run = Cloud::new().run(arguments);
        assert_eq!(run.code, Some(64), "{said}: {}", run.err);
        assert!(run.err.contains(said), "{said}: {}", run.err);
        assert_eq!(run.calls, [""; 0]);
    }
}
