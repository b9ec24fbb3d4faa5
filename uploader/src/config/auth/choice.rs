//! One source, which `auth` names. What belongs to another one is a mistake, and
//! not a second choice.

use std::collections::BTreeMap;

use protocol::settings::Reader;
use reqwest::Url;

use super::super::Env;
use super::super::s3::{address, is_private};
use super::{Auth, Container, Ibm, IbmProof, Instance, Pair, Secret, WebIdentity};

const DEFAULT_IAM: &str = "https://iam.cloud.ibm.com";
/// Where a container's agent is, if only a path is given: "Container credential
/// provider" in the AWS SDKs and Tools reference guide.
const CONTAINER_AGENT: &str = "http://169.254.170.2";
/// Who may be asked for credentials over plain http, besides this machine: the
/// agents of ECS and EKS, whose addresses never leave the node. From the same guide.
const AGENTS: [&str; 3] = ["169.254.170.2", "169.254.170.23", "fd00:ec2::23"];
const INSTANCE_METADATA: &str = "http://169.254.169.254";
/// What is seen of us in CloudTrail.
const SESSION_NAME: &str = "coredump-uploader";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Hmac,
    IbmApiKey,
    IbmTrustedProfile,
    AwsWebIdentity,
    AwsContainer,
    AwsInstance,
}

impl Kind {
    const ALL: [Kind; 6] = [
        Kind::Hmac,
        Kind::IbmApiKey,
        Kind::IbmTrustedProfile,
        Kind::AwsWebIdentity,
        Kind::AwsContainer,
        Kind::AwsInstance,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::Hmac => "hmac",
            Kind::IbmApiKey => "ibm_api_key",
            Kind::IbmTrustedProfile => "ibm_trusted_profile",
            Kind::AwsWebIdentity => "aws_web_identity",
            Kind::AwsContainer => "aws_container",
            Kind::AwsInstance => "aws_instance",
        }
    }
}

/// Whose each setting is.
const SETTINGS: [(&str, &[Kind]); 7] = [
    ("access_key_id_file", &[Kind::Hmac]),
    ("secret_access_key_file", &[Kind::Hmac]),
    ("api_key_file", &[Kind::IbmApiKey]),
    ("iam_endpoint", &[Kind::IbmApiKey, Kind::IbmTrustedProfile]),
    ("trusted_profile", &[Kind::IbmTrustedProfile]),
    ("token_file", &[Kind::IbmTrustedProfile]),
    ("sts_endpoint", &[Kind::AwsWebIdentity]),
];
/// Whose each variable is that somebody sets on purpose. Others are put into a
/// pod by whoever runs the cluster, also where they are not asked for.
const VARIABLES: [(&str, Kind); 2] = [(ACCESS_KEY_ID, Kind::Hmac), (API_KEY, Kind::IbmApiKey)];
const ACCESS_KEY_ID: &str = "AWS_ACCESS_KEY_ID";
const API_KEY: &str = "IBM_CLOUD_API_KEY";

pub fn read(section: &mut Reader, env: Env<'_>, region: &str) -> Option<Auth> {
    let kind = kind(section);
    let mut settings = BTreeMap::new();
    for (key, owners) in SETTINGS {
        // Taken in any case: it is a setting, if not of this source.
        let Some(value) = section.take::<String>(key) else { continue };
        settings.insert(key, value);
        if let Some(kind) = kind.filter(|kind| !owners.contains(kind)) {
            let owners: Vec<_> = owners.iter().map(|owner| owner.name()).collect();
            let why = format_args!("is for auth: {}, and auth is {}", owners.join(" or "), kind.name());
            section.reject(key, why);
        }
    }
    let kind = kind?;
    let set = |name: &str| env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    for (name, _) in VARIABLES.iter().filter(|(name, owner)| *owner != kind && set(name).is_some()) {
        let why = format_args!(
            "is {}, and {name} is in the environment as well: one of them is one too many",
            kind.name()
        );
        section.reject("auth", why);
    }
    let mut given = Given { section, settings, set: &set, kind };
    match kind {
        Kind::Hmac => given.pair().map(Auth::Pair),
        Kind::IbmApiKey => {
            let iam = given.address("iam_endpoint", DEFAULT_IAM.to_owned());
            let key = given.secret("api_key_file", API_KEY)?;
            Some(Auth::Ibm(Ibm { iam, proof: IbmProof::ApiKey(key) }))
        }
        Kind::IbmTrustedProfile => {
            let iam = given.address("iam_endpoint", DEFAULT_IAM.to_owned());
            let (id, file) = (given.required("trusted_profile"), given.required("token_file"));
            let proof = IbmProof::Profile { id: id?, token: Secret::File(file?.into()) };
            Some(Auth::Ibm(Ibm { iam, proof }))
        }
        Kind::AwsWebIdentity => {
            let sts = given.address("sts_endpoint", format!("https://sts.{region}.amazonaws.com"));
            let (role, file) =
                (given.injected("AWS_ROLE_ARN"), given.injected("AWS_WEB_IDENTITY_TOKEN_FILE"));
            let session = set("AWS_ROLE_SESSION_NAME").unwrap_or_else(|| SESSION_NAME.to_owned());
            Some(Auth::WebIdentity(WebIdentity {
                sts,
                role: role?,
                session,
                token: Secret::File(file?.into()),
            }))
        }
        Kind::AwsContainer => given.container().map(Auth::Container),
        Kind::AwsInstance => {
            let variable = "AWS_EC2_METADATA_SERVICE_ENDPOINT";
            let metadata = set(variable).unwrap_or_else(|| INSTANCE_METADATA.to_owned());
            let metadata = metadata.trim_end_matches('/').to_owned();
            if Url::parse(&metadata).is_err() {
                section.reject("auth", format_args!("is aws_instance, and {variable} is no address"));
            }
            Some(Auth::Instance(Instance { metadata }))
        }
    }
}

/// `None` if it is none of them.
fn kind(section: &mut Reader) -> Option<Kind> {
    let name = section.or("auth", Kind::Hmac.name().to_owned());
    let kind = Kind::ALL.into_iter().find(|kind| kind.name() == name);
    if kind.is_none() {
        let names = Kind::ALL.map(Kind::name).join(", ");
        section.reject("auth", format_args!("{name:?} is none of {names}"));
    }
    kind
}

/// What there is to make a source of.
struct Given<'a> {
    section: &'a mut Reader,
    settings: BTreeMap<&'static str, String>,
    set: &'a dyn Fn(&str) -> Option<String>,
    kind: Kind,
}

impl Given<'_> {
    fn pair(&mut self) -> Option<Pair> {
        let file = |key| self.settings.get(key).map(|path| Secret::File(path.into()));
        let variable = |name| (self.set)(name).map(|value| Secret::Given(name, value));
        let files = (file("access_key_id_file"), file("secret_access_key_file"));
        let variables = (variable(ACCESS_KEY_ID), variable("AWS_SECRET_ACCESS_KEY"));
        match (files, variables) {
            ((Some(_), _) | (_, Some(_)), (Some(_), _)) => self.twice("access_key_id_file", ACCESS_KEY_ID),
            ((Some(id), Some(secret)), _) => Some(Pair { id, secret, token: None }),
            ((Some(_), None), _) => self.missing("secret_access_key_file"),
            ((None, Some(_)), _) => self.missing("access_key_id_file"),
            (_, (Some(id), Some(secret))) => Some(Pair { id, secret, token: variable("AWS_SESSION_TOKEN") }),
            _ => {
                self.section.reject(
                    "access_key_id_file",
                    "is missing, with secret_access_key_file; or AWS_ACCESS_KEY_ID and \
                     AWS_SECRET_ACCESS_KEY in the environment",
                );
                None
            }
        }
    }

    fn container(&mut self) -> Option<Container> {
        let token =
            (self.set)("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE").map(|path| Secret::File(path.into()));
        let name = "AWS_CONTAINER_AUTHORIZATION_TOKEN";
        let token = token.or_else(|| (self.set)(name).map(|value| Secret::Given(name, value)));
        let name = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        let url = match (self.set)("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI") {
            Some(path) => format!("{CONTAINER_AGENT}/{}", path.trim_start_matches('/')),
            None => self.injected(name)?,
        };
        let agent = |url: &Url| {
            let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
            AGENTS.contains(&host) && url.scheme() == "http"
        };
        match Url::parse(&url) {
            Ok(parsed) if is_private(&url) || agent(&parsed) => Some(Container { url: parsed, token }),
            _ => {
                let why = format_args!(
                    "is aws_container, and {name} is {url:?}: neither https, nor this machine, nor the agent \
                     of EKS or ECS"
                );
                self.section.reject("auth", why);
                None
            }
        }
    }

    /// A host to which secrets are sent.
    fn address(&mut self, key: &'static str, default: String) -> String {
        let text = self.settings.remove(key).unwrap_or(default);
        let text = address(self.section, key, text);
        if !is_private(&text) {
            self.section.reject(key, "is not https: whoever is on the way could read what is sent there");
        }
        text
    }

    fn required(&mut self, key: &'static str) -> Option<String> {
        match self.settings.remove(key) {
            Some(value) => Some(value),
            None => self.missing(key),
        }
    }

    fn missing<T>(&mut self, key: &'static str) -> Option<T> {
        self.section.reject(key, "is missing");
        None
    }

    fn twice<T>(&mut self, key: &'static str, name: &'static str) -> Option<T> {
        let why =
            format_args!("is there, and {name} is in the environment as well: one of them is one too many");
        self.section.reject(key, why);
        None
    }

    /// A variable that the cluster puts into pods of certain service accounts.
    fn injected(&mut self, name: &'static str) -> Option<String> {
        let value = (self.set)(name);
        if value.is_none() {
            let why = format_args!(
                "is {}, and {name} is not in the environment: the cluster gives it to pods whose service \
                 account has a role",
                self.kind.name()
            );
            self.section.reject("auth", why);
        }
        value
    }

    fn secret(&mut self, key: &'static str, name: &'static str) -> Option<Secret> {
        match (self.settings.remove(key), (self.set)(name)) {
            (Some(path), None) => Some(Secret::File(path.into())),
            (None, Some(value)) => Some(Secret::Given(name, value)),
            (Some(_), Some(_)) => self.twice(key, name),
            (None, None) => {
                self.section.reject(key, format_args!("is missing; or {name} in the environment"));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::{Config, StoreConfig};
    use super::*;

    fn read(more: &str, env: &[(&str, &str)]) -> Result<Auth, Vec<String>> {
        let env =
            |name: &str| env.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        let config = Config::read(&format!("store: {{s3: {{bucket: dumps, {more}}}}}"), &env)?;
        let StoreConfig::S3(s3) = config.store else { panic!() };
        Ok(s3.auth)
    }

    const PAIR: [(&str, &str); 2] = [(ACCESS_KEY_ID, "the id"), ("AWS_SECRET_ACCESS_KEY", "the secret")];
    const ROLE: [(&str, &str); 2] =
        [("AWS_ROLE_ARN", "arn:aws:iam::1:role/r"), ("AWS_WEB_IDENTITY_TOKEN_FILE", "/token")];
    const AGENT: [(&str, &str); 2] = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://169.254.170.23/v1/credentials"),
        ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/token"),
    ];

    #[test]
    fn every_source_says_what_it_is_and_not_what_it_knows() {
        let key = [(API_KEY, "the key")];
        for (more, env, said) in [
            ("", &PAIR[..], "hmac, of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
            ("access_key_id_file: /i, secret_access_key_file: /s", &[], "hmac, of /i and /s"),
            ("auth: ibm_api_key", &key, "ibm_api_key, of IBM_CLOUD_API_KEY, at https://iam.cloud.ibm.com"),
            (
                "auth: ibm_api_key, api_key_file: /k, iam_endpoint: 'https://private.iam.cloud.ibm.com/'",
                &[],
                "ibm_api_key, of /k, at https://private.iam.cloud.ibm.com",
            ),
            (
                "auth: ibm_trusted_profile, trusted_profile: Profile-1, token_file: /t",
                &[],
                "ibm_trusted_profile, Profile-1 with /t, at https://iam.cloud.ibm.com",
            ),
            (
                "auth: aws_web_identity, region: eu-central-1",
                &ROLE,
                "aws_web_identity, arn:aws:iam::1:role/r with /token, at https://sts.eu-central-1.amazonaws.com",
            ),
            ("auth: aws_container", &AGENT, "aws_container, at http://169.254.170.23/v1/credentials"),
            ("auth: aws_instance", &[], "aws_instance, at http://169.254.169.254"),
        ] {
            let auth = read(more, env).unwrap();
            assert_eq!(auth.to_string(), said);
            assert!(!format!("{auth:?}").contains("the "), "{auth:?}");
        }
    }

    #[test]
    fn what_belongs_to_two_sources_is_a_mistake() {
        let both = [PAIR[0], PAIR[1], (API_KEY, "x")];
        for (more, env, said) in [
            ("", &both[..], "auth: is hmac, and IBM_CLOUD_API_KEY is in the environment as well"),
            ("auth: ibm_api_key", &both, "auth: is ibm_api_key, and AWS_ACCESS_KEY_ID is in the environment"),
            ("auth: aws_instance", &PAIR, "auth: is aws_instance, and AWS_ACCESS_KEY_ID is in the"),
            ("api_key_file: /k", &PAIR, "api_key_file: is for auth: ibm_api_key, and auth is hmac"),
            ("iam_endpoint: 'https://iam'", &PAIR, "iam_endpoint: is for auth: ibm_api_key or ibm_trusted"),
            ("auth: aws_instance, token_file: /t", &[], "token_file: is for auth: ibm_trusted_profile, and"),
            (
                "access_key_id_file: /i, secret_access_key_file: /s",
                &PAIR,
                "access_key_id_file: is there, and AWS_ACCESS_KEY_ID is in the environment as well",
            ),
            (
                "auth: ibm_api_key, api_key_file: /k",
                &both[2..],
                "api_key_file: is there, and IBM_CLOUD_API_KEY",
            ),
        ] {
            let problems = read(more, env).unwrap_err();
            assert_eq!(problems.len(), 1, "{more}: {problems:?}");
            assert!(problems[0].starts_with(&format!("store.s3.{said}")), "{more}: {problems:?}");
        }
    }

    #[test]
    fn each_mistake_is_named() {
        for (more, said) in [
            ("auth: password", "auth: \"password\" is none of hmac, ibm_api_key, "),
            ("auth: password, api_key_file: /k", "auth: \"password\" is none of"),
            ("access_key_id_file: /id", "secret_access_key_file: is missing"),
            ("secret_access_key_file: /secret", "access_key_id_file: is missing"),
            ("auth: ibm_api_key", "api_key_file: is missing; or IBM_CLOUD_API_KEY in the environment"),
            ("auth: ibm_trusted_profile, trusted_profile: p", "token_file: is missing"),
            ("auth: ibm_trusted_profile, token_file: /t", "trusted_profile: is missing"),
            ("auth: ibm_api_key, api_key_file: /k, iam_endpoint: 'http://iam'", "iam_endpoint: is not https"),
            ("auth: ibm_api_key, api_key_file: /k, iam_endpoint: iam", "iam_endpoint: \"iam\" is not http"),
            ("auth: ibm_api_key, api_key_file: /k, endpoint: 'http://cos'", "endpoint: is not https"),
            ("auth: aws_container", "auth: is aws_container, and AWS_CONTAINER_CREDENTIALS_FULL_URI is not"),
        ] {
            let problems = read(more, &[]).unwrap_err();
            assert_eq!(problems.len(), 1, "{more}: {problems:?}");
            assert!(problems[0].starts_with(&format!("store.s3.{said}")), "{more}: {problems:?}");
        }
        assert_eq!(read("auth: aws_web_identity", &[]).unwrap_err().len(), 2, "two variables are missing");
    }

    #[test]
    fn credentials_are_asked_for_on_this_node_or_over_https_only() {
        let ask = |variable, url| read("auth: aws_container", &[(variable, url)]);
        let full = "AWS_CONTAINER_CREDENTIALS_FULL_URI";
        for url in [
            "https://h/c",
            "http://127.0.0.1:1/c",
            "http://localhost/c",
            "http://[fd00:ec2::23]/v1/credentials",
        ] {
            assert!(ask(full, url).is_ok(), "{url}");
        }
        for url in [
            "http://h/c",
            "http://169.254.169.254/c",
            "http://169.254.170.23.h/c",
            "ftp://169.254.170.2/",
            "c",
        ] {
            assert_eq!(ask(full, url).unwrap_err().len(), 1, "{url}");
        }
        let relative = ask("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "/v2/credentials/x").unwrap();
        assert_eq!(relative.to_string(), "aws_container, at http://169.254.170.2/v2/credentials/x");
    }

    #[test]
    fn an_empty_variable_is_not_set() {
        assert!(read("", &[PAIR[0], PAIR[1], (API_KEY, "\n")]).is_ok());
    }
}
