//! Where credentials come from, and what becomes of uploads while they do not.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use protocol::spool::State;
use testbed::identity::{Identity, PROFILE, ROLE};
use testbed::store::{Fault, Request, Store};
use testbed::wait_for;

use crate::spool::{BUCKET, Daemon, Node, PATIENCE, key, s3_with};

const SECRET: &str = "eyJhbGciOiJSUzI1NiJ9.secret";
const SOURCES: [&str; 5] =
    ["ibm_api_key", "ibm_trusted_profile", "aws_web_identity", "aws_container", "aws_instance"];

/// A store, those who give credentials for it, and a node that asks them.
struct Scene {
    store: Store,
    identity: Identity,
    node: Node,
}

impl Scene {
    fn new(source: &str) -> Scene {
        let store = Store::temporary(BUCKET);
        let identity = Identity::start(store.passes(), SECRET);
        let mut node = Node::new("");
        node.clear_env();
        let about = ask(&mut node, source, &identity);
        node.configure(&s3_with(&store, &about, "part_size: 5MiB\nparallel: 8\n"));
        fs::write(secret_file(&node), format!("{SECRET}\n")).unwrap();
        Scene { store, identity, node }
    }

    fn start(&self) -> Daemon {
        self.node.start()
    }

    /// How often credentials were given.
    fn given(&self) -> usize {
        let given = |request: &&Request| {
            let path = request.path.as_str();
            request.status == Some(200)
                && (request.method == "POST" || path == "/v1/credentials" || path.ends_with("/nodes"))
        };
        self.identity.requests().iter().filter(given).count()
    }
}

/// Where what has to be shown is.
fn secret_file(node: &Node) -> PathBuf {
    node.path("secret")
}

/// Has `node` ask `identity`. Returns what its settings have to say.
fn ask(node: &mut Node, source: &str, identity: &Identity) -> String {
    let (url, file) = (identity.url(), secret_file(node).display().to_string());
    let about = match source {
        "ibm_api_key" => format!("iam_endpoint: '{url}', api_key_file: {file}"),
        "ibm_trusted_profile" => {
            format!("iam_endpoint: '{url}', token_file: {file}, trusted_profile: {PROFILE}")
        }
        "aws_web_identity" => {
            node.set_env("AWS_ROLE_ARN", ROLE.to_owned());
            node.set_env("AWS_WEB_IDENTITY_TOKEN_FILE", file);
            format!("sts_endpoint: '{url}'")
        }
        "aws_container" => {
            node.set_env("AWS_CONTAINER_CREDENTIALS_FULL_URI", format!("{url}/v1/credentials"));
            node.set_env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", file);
            String::new()
        }
        _ => {
            node.set_env("AWS_EC2_METADATA_SERVICE_ENDPOINT", url);
            String::new()
        }
    };
    format!("auth: {source}, {about}")
}

#[test]
fn each_source_is_named_at_start_asked_once_and_good_for_all_dumps() {
    for source in SOURCES {
        let mut scene = Scene::new(source);
        scene.node.set_env("RUST_LOG", "trace".to_owned());
        let mut keys = [100, 11 << 20, 200].map(|bytes| key(&scene.node.dump(bytes)));
        let daemon = scene.start();
        scene.node.wait_until_empty();
        keys.sort();
        assert_eq!(scene.store.objects(BUCKET), keys);
        assert_eq!(scene.given(), 1, "{source}: {:#?}", scene.identity.requests());
        let log = daemon.log();
        assert!(log.contains(&format!("source={source}, ")), "{log}");
        for request in scene.store.requests() {
            let shown = match source.starts_with("ibm") {
                true => &request.headers["authorization"],
                false => &request.headers["x-amz-security-token"],
            };
            assert!(
                shown.starts_with("Bearer bearer.token-1") || shown.starts_with("session-token-1"),
                "{shown}"
            );
        }
        for secret in [SECRET, "bearer.token", "session-token", "session-secret", "AQAEAMetadata"] {
            assert!(!log.contains(secret), "{source}: {secret} is in the log");
        }
    }
}

#[test]
fn what_ends_is_renewed_before_that_and_no_upload_fails() {
    thread::scope(|scope| {
        for source in ["ibm_api_key", "aws_web_identity"] {
            scope.spawn(move || {
                let mut scene = Scene::new(source);
                scene.identity.set_life(Duration::from_secs(5));
                // So that the large one is on its way for longer than credentials last.
                let about = ask(&mut scene.node, source, &scene.identity);
                scene.node.configure(&s3_with(&scene.store, &about, "part_size: 5MiB\nbandwidth: 2MiB\n"));
                let daemon = scene.start();
                let large = key(&scene.node.dump(11 << 20));
                let stored = || scene.store.objects(BUCKET);
                while scene.given() < 3 || !stored().contains(&large) {
                    let small = key(&scene.node.dump(100));
                    wait_for("a small dump", PATIENCE, || stored().contains(&small).then_some(()));
                }
                let log = daemon.log();
                let failed: Vec<_> = log.lines().filter(|line| line.contains("not uploaded")).collect();
                assert!(failed.is_empty(), "{source}: {failed:#?}");
            });
        }
    });
}

#[test]
fn who_is_refused_says_why_and_goes_on_once_what_it_shows_is_right() {
    for (source, said) in [
        ("ibm_api_key", "400 BXNIM0415E: Provided API key could not be found."),
        ("ibm_trusted_profile", "token of Profile-9f3a61c2-4a3b-4c1d-8e2f-0123456789ab: 400 BXNIM"),
        ("aws_web_identity", "400 ExpiredTokenException: Token expired: current date/time 1731098245"),
        ("aws_container", "/v1/credentials for credentials: 400 Service account token cannot be parsed"),
    ] {
        let scene = Scene::new(source);
        fs::write(secret_file(&scene.node), "what was right yesterday").unwrap();
        scene.node.dump(100);
        let daemon = scene.start();
        daemon.wait_for_log(said);
        assert!(!daemon.log().contains("yesterday"), "{}", daemon.log());
        assert_eq!(scene.node.states(), [State::Ready]);
        assert!(scene.store.requests().is_empty(), "without credentials the store is not asked");
        // As the kubelet does it: by a rename.
        fs::write(scene.node.path("new"), SECRET).unwrap();
        fs::rename(scene.node.path("new"), secret_file(&scene.node)).unwrap();
        scene.node.wait_until_empty();
    }
}

#[test]
fn a_role_that_is_not_ours_or_not_there_is_named() {
    let mut scene = Scene::new("aws_web_identity");
    scene.node.set_env("AWS_ROLE_ARN", "arn:aws:iam::123456789012:role/other".to_owned());
    scene.node.dump(100);
    let said = "asking http://127.0.0.1";
    let refused = String::from_utf8(scene.node.run(&["push"]).stderr).unwrap();
    assert!(
        refused.contains(said)
            && refused.contains(
                "for the role arn:aws:iam::123456789012:role/other: 403 AccessDenied: Not authorized"
            ),
        "{refused}"
    );

    let scene = Scene::new("aws_instance");
    scene.node.dump(100);
    for (status, said) in [(401, "asking for a session: 401"), (403, "asking for a session: 403")] {
        scene.identity.set_fault(Some(Fault::Answer { status, headers: vec![], body: String::new() }));
        let refused = String::from_utf8(scene.node.run(&["push"]).stderr).unwrap();
        assert!(refused.contains(said), "{refused}");
    }
}

#[test]
fn an_answer_that_is_none_is_no_credentials_and_is_not_quoted() {
    for (source, body, said) in [
        ("ibm_api_key", r#"{"access_token":"half a secret"#, "cannot be understood (line 1, column 30)"),
        ("ibm_api_key", "<html>half a secret", "cannot be understood (line 1, column 1)"),
        ("aws_container", r#"{"AccessKeyId":"half a secret"}"#, "cannot be understood (line 1, column 31)"),
        (
            "aws_web_identity",
            "<r><AccessKeyId>half a secret</AccessKeyId></r>",
            "the answer has no SecretAccessKey",
        ),
    ] {
        let scene = Scene::new(source);
        scene.node.dump(100);
        let answer = Fault::Answer { status: 200, headers: vec![], body: body.to_owned() };
        scene.identity.set_fault(Some(answer));
        let refused = String::from_utf8(scene.node.run(&["push"]).stderr).unwrap();
        assert!(refused.contains(said) && !refused.contains("half a secret"), "{source}: {refused}");
        assert!(scene.store.requests().is_empty());
    }
}

#[test]
fn a_source_that_hangs_is_given_up_and_asked_again() {
    let scenes = ["ibm_trusted_profile", "aws_instance"].map(|source| {
        let scene = Scene::new(source);
        scene.identity.set_fault(Some(Fault::Hang));
        (0..5).for_each(|_| drop(scene.node.dump(100)));
        let daemon = scene.start();
        (scene, daemon)
    });
    for (scene, daemon) in scenes {
        daemon.wait_for_log("no answer within 10 s");
        assert_eq!(scene.node.states(), [State::Ready; 5]);
        assert!(scene.identity.requests().len() <= 2, "they all wait for the same answer");
        let hint = "a pod that is not in the host's network needs HttpPutResponseHopLimit=2";
        assert_eq!(daemon.log().contains(hint), daemon.log().contains("aws_instance"), "{}", daemon.log());
        scene.identity.set_fault(None);
        scene.node.wait_until_empty();
    }
}

#[test]
fn what_was_revoked_is_replaced() {
    for source in ["ibm_api_key", "aws_container"] {
        let scene = Scene::new(source);
        scene.node.dump(100);
        let _daemon = scene.start();
        scene.node.wait_until_empty();
        scene.store.passes().revoke();
        scene.node.dump(100);
        wait_for("the second dump", PATIENCE, || (scene.store.objects(BUCKET).len() == 2).then_some(()));
        assert_eq!(scene.given(), 2);
    }
}

#[test]
fn who_is_on_the_node_is_not_asked_through_a_proxy() {
    for source in ["aws_container", "aws_instance"] {
        let mut scene = Scene::new(source);
        let about = ask(&mut scene.node, source, &scene.identity);
        // No resolver knows the store's host; the proxy, which is the store, need not ask one.
        scene.node.configure(&format!(
            "store: {{s3: {{bucket: {BUCKET}, endpoint: 'http://s3.test', proxy: '{}', {about}}}}}\n",
            scene.store.endpoint()
        ));
        scene.node.dump(100);
        let _daemon = scene.start();
        scene.node.wait_until_empty();
        let hosts = scene.store.requests().into_iter().map(|request| request.host);
        assert!(hosts.into_iter().all(|host| host == format!("{BUCKET}.s3.test")));
    }
}

#[test]
fn a_pair_may_be_good_with_a_session_token_only() {
    let store = Store::temporary(BUCKET);
    let session = store.passes().session(Duration::from_secs(3600));
    let mut node = Node::shipping_to(&store);
    node.set_env("AWS_ACCESS_KEY_ID", session.id);
    node.set_env("AWS_SECRET_ACCESS_KEY", session.secret);
    node.dump(100);
    assert!(!node.run(&["push"]).status.success());
    node.set_env("AWS_SESSION_TOKEN", session.token);
    assert!(node.run(&["push"]).status.success());
    assert_eq!(store.objects(BUCKET).len(), 1);
}

#[test]
fn two_sources_are_one_too_many() {
    let store = Store::temporary(BUCKET);
    let mut node = Node::shipping_to(&store);
    node.set_env("IBM_CLOUD_API_KEY", "x".to_owned());
    let output = node.run(&["run"]);
    assert_eq!(output.status.code(), Some(64));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.ends_with(
            "uploader.yaml: store.s3.auth: is hmac, and IBM_CLOUD_API_KEY is in the environment as well: \
             one of them is one too many\n"
        ),
        "{said}"
    );
    assert_eq!(said.lines().count(), 1, "{said}");
}
