//! How an object store is reached, and what its objects are to be like.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use md5::{Digest, Md5};
use protocol::settings::Reader;
use reqwest::{Certificate, Url};
use serde::Deserialize;

use super::Env;
use super::auth::{self, Auth};

/// What a key may have besides: together they stay below S3's 1,024 bytes.
const MAX_PREFIX: usize = 120;
/// What S3 takes; "Categorizing your objects using tags" in its user guide.
const MAX_TAGS: usize = 10;
const MAX_TAG_NAME: usize = 128;
const MAX_TAG_VALUE: usize = 256;

/// How an object store is reached.
#[derive(Debug)]
pub struct S3Config {
    /// The bucket.
    pub bucket: String,
    /// What every key begins with, without a slash at either end; may be empty.
    pub prefix: String,
    /// Scheme, host and port, without a slash at the end.
    pub endpoint: String,
    /// What requests are signed for.
    pub region: String,
    /// The bucket in the path instead of in the host name.
    pub path_style: bool,
    /// Certificates to trust besides the system's.
    pub authorities: Vec<Certificate>,
    /// What connections go through; if unset, what the environment says.
    pub proxy: Option<String>,
    /// What gives requests the right to be answered.
    pub auth: Auth,
    /// What objects are to be like.
    pub options: ObjectOptions,
}

/// What the store is to do with every object.
#[derive(Debug, Default)]
pub struct ObjectOptions {
    /// How it is encrypted; if unset, as the bucket says.
    pub encryption: Option<Encryption>,
    /// Where it is kept; if unset, as the bucket says.
    pub storage_class: Option<String>,
    /// Its tags, as the store wants them: like a query.
    pub tagging: Option<String>,
}

/// Who has the key of an object that is encrypted.
#[derive(Debug)]
pub enum Encryption {
    /// The store.
    S3,
    /// A key management service, under this name; if unset, the account's own.
    Kms(Option<String>),
    /// We. The store forgets it.
    Customer(CustomerKey),
}

/// A key of 256 bits, as it is sent.
pub struct CustomerKey {
    /// In base64.
    pub key: String,
    /// Its MD5, in base64, by which a store notices that it was damaged.
    pub md5: String,
}

impl std::fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "CustomerKey({})", self.md5)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum EncryptionType {
    S3,
    Kms,
    Customer,
}

pub(super) fn read(section: &mut Reader, env: Env<'_>) -> Option<S3Config> {
    let bucket = section.required::<String>("bucket");
    if let Some(bucket) = bucket.as_ref().filter(|bucket| !is_bucket(bucket)) {
        section.reject("bucket", format_args!("{bucket:?} is no name of a bucket"));
    }
    let prefix = section.or("prefix", String::new()).trim_matches('/').to_owned();
    let odd = prefix.split('/').any(|part| part == "." || part == "..");
    if odd || prefix.len() > MAX_PREFIX || prefix.contains(|c: char| c.is_control()) {
        let why =
            format_args!("has more than {MAX_PREFIX} bytes, control characters, or a part that is . or ..");
        section.reject("prefix", why);
    }
    let region = section.or("region", "us-east-1".to_owned());
    let endpoint = section.or("endpoint", format!("https://s3.{region}.amazonaws.com"));
    let endpoint = address(section, "endpoint", endpoint);
    let path_style = section.or("path_style", false);
    let authorities = section.take::<PathBuf>("ca_file").map(|file| {
        authorities(&file).map_err(|err| section.reject("ca_file", format_args!("{}: {err}", file.display())))
    });
    let proxy = section.take::<String>("proxy").map(|proxy| address(section, "proxy", proxy));
    let auth = auth::read(section, env, &region);
    let options = options(section);
    if matches!(auth, Some(Auth::Ibm(_))) && !is_private(&endpoint) {
        section.reject("endpoint", "is not https: whoever is on the way could use the token");
    }
    if matches!(options.encryption, Some(Encryption::Customer(_))) && !endpoint.starts_with("https://") {
        section.reject("endpoint", "is not https: whoever is on the way could read the customer's key");
    }
    let authorities = authorities.unwrap_or(Ok(vec![])).ok()?;
    Some(S3Config {
        bucket: bucket?,
        prefix,
        endpoint,
        region,
        path_style,
        authorities,
        proxy,
        auth: auth?,
        options,
    })
}

/// A scheme, a host and perhaps a port, and nothing else: least of all a password.
pub(super) fn address(section: &mut Reader, key: &str, text: String) -> String {
    let text = text.trim_end_matches('/').to_owned();
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if text.contains('@') {
        section.reject(key, "is not http(s)://HOST[:PORT]: names and passwords have no place here");
    } else if host.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', ' ']))
        || Url::parse(&text).is_err()
    {
        section.reject(key, format_args!("{text:?} is not http(s)://HOST[:PORT]"));
    }
    text
}

/// Whether nobody on the way can read what is sent there.
pub(super) fn is_private(address: &str) -> bool {
    let Ok(url) = Url::parse(address) else { return true }; // that is said elsewhere
    let here = match url.host_str().map(|host| host.trim_matches(['[', ']'])) {
        Some("localhost") => true,
        Some(host) => host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback()),
        None => false,
    };
    url.scheme() == "https" || here
}

fn authorities(file: &Path) -> Result<Vec<Certificate>, String> {
    let pem = fs::read(file).map_err(|err| err.to_string())?;
    match Certificate::from_pem_bundle(&pem) {
        Ok(certificates) if certificates.is_empty() => Err("there is no certificate in it".to_owned()),
        Ok(certificates) => Ok(certificates),
        Err(err) => Err(err.to_string()),
    }
}

/// "Bucket naming rules" in the S3 user guide, less the exotic ones.
fn is_bucket(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    (3..=63).contains(&name.len())
        && name.bytes().all(plain)
        && !name.contains("..")
        && !name.starts_with(['-', '.'])
        && !name.ends_with(['-', '.'])
}

fn options(section: &mut Reader) -> ObjectOptions {
    let encryption = section.section("sse").and_then(|mut sse| {
        let encryption = encryption(&mut sse);
        section.absorb(sse.done());
        encryption
    });
    let storage_class = section.take::<String>("storage_class");
    let plain = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
    if let Some(class) = storage_class.as_ref().filter(|class| class.is_empty() || !class.bytes().all(plain))
    {
        section.reject("storage_class", format_args!("{class:?} is no storage class such as STANDARD_IA"));
    }
    let tags = section.or("tags", BTreeMap::<String, String>::new());
    if tags.len() > MAX_TAGS {
        section.reject("tags", format_args!("are {}, more than {MAX_TAGS}", tags.len()));
    }
    for (name, value) in &tags {
        let (long, short) = (name.chars().count() > MAX_TAG_NAME, name.is_empty());
        if long || short || value.chars().count() > MAX_TAG_VALUE {
            let why = format_args!(
                "{name:?} has no name, one of more than {MAX_TAG_NAME} characters, or a value of more than \
                 {MAX_TAG_VALUE}"
            );
            section.reject("tags", why);
        }
    }
    let tagging = form_urlencoded::Serializer::new(String::new()).extend_pairs(&tags).finish();
    let tagging = Some(tagging).filter(|tagging| !tagging.is_empty());
    ObjectOptions { encryption, storage_class, tagging }
}

fn encryption(sse: &mut Reader) -> Option<Encryption> {
    let kind = sse.required::<EncryptionType>("type")?;
    let kms_key_id = sse.take::<String>("kms_key_id");
    let customer_key_file = sse.take::<PathBuf>("customer_key_file");
    if kms_key_id.is_some() && !matches!(kind, EncryptionType::Kms) {
        sse.reject("kms_key_id", "is only for type: kms");
    }
    if customer_key_file.is_some() && !matches!(kind, EncryptionType::Customer) {
        sse.reject("customer_key_file", "is only for type: customer");
    }
    if let Some(id) =
        kms_key_id.as_ref().filter(|id| id.is_empty() || !id.bytes().all(|b| b.is_ascii_graphic()))
    {
        sse.reject("kms_key_id", format_args!("{id:?} is no name of a key"));
    }
    match (kind, customer_key_file) {
        (EncryptionType::S3, _) => Some(Encryption::S3),
        (EncryptionType::Kms, _) => Some(Encryption::Kms(kms_key_id)),
        (EncryptionType::Customer, None) => {
            sse.reject("customer_key_file", "is missing");
            None
        }
        (EncryptionType::Customer, Some(file)) => match customer_key(&file) {
            Ok(key) => Some(Encryption::Customer(key)),
            Err(err) => {
                sse.reject("customer_key_file", format_args!("{}: {err}", file.display()));
                None
            }
        },
    }
}

/// Read once: an object can be asked for only with the key it was put with.
fn customer_key(file: &Path) -> Result<CustomerKey, String> {
    let text = fs::read_to_string(file).map_err(|err| err.to_string())?;
    let key = STANDARD.decode(text.trim()).ok().filter(|key| key.len() == 32);
    let key = key.ok_or("is not 32 bytes in base64, as `openssl rand -base64 32` makes them")?;
    Ok(CustomerKey { key: STANDARD.encode(&key), md5: STANDARD.encode(Md5::digest(&key)) })
}

#[cfg(test)]
mod tests {
    use super::super::{Config, StoreConfig};
    use super::*;

    fn env(name: &str) -> Option<String> {
        ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].contains(&name).then(|| "x".to_owned())
    }

    fn read(more: &str) -> Result<S3Config, Vec<String>> {
        let config = Config::read(&format!("store: {{s3: {{bucket: dumps, {more}}}}}"), &env)?;
        let StoreConfig::S3(s3) = config.store else { panic!() };
        Ok(*s3)
    }

    /// 32 bytes, all of them zero, with a newline as an editor leaves it.
    fn key_file() -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), format!("{}\n", STANDARD.encode([0; 32]))).unwrap();
        file
    }

    #[test]
    fn what_is_wanted_of_objects_is_read() {
        let s3 = read(
            "sse: {type: kms, kms_key_id: 'arn:aws:kms:eu:1:key/2'}, storage_class: STANDARD_IA, \
                       tags: {team: a b, 'x&y': '1=2'}, proxy: 'http://proxy:3128/'",
        )
        .unwrap();
        assert!(matches!(s3.options.encryption, Some(Encryption::Kms(Some(id))) if id.ends_with("key/2")));
        assert_eq!(s3.options.storage_class.as_deref(), Some("STANDARD_IA"));
        assert_eq!(s3.options.tagging.as_deref(), Some("team=a+b&x%26y=1%3D2"));
        assert_eq!(s3.proxy.as_deref(), Some("http://proxy:3128"));
        let nothing = read("").unwrap().options;
        assert!(nothing.encryption.is_none() && nothing.storage_class.is_none() && nothing.tagging.is_none());
    }

    #[test]
    fn a_customers_key_is_read_and_not_told() {
        let file = key_file();
        let s3 =
            read(&format!("sse: {{type: customer, customer_key_file: {}}}", file.path().display())).unwrap();
        assert!(!format!("{s3:?}").contains("AAAA"), "{s3:?}");
        let Some(Encryption::Customer(key)) = s3.options.encryption else { panic!() };
        // head -c 32 /dev/zero | openssl md5 -binary | base64
        assert_eq!(key.md5, "cLyPS3KoaSFGi/joRB3OUQ==");
        assert_eq!(key.key, STANDARD.encode([0; 32]));
    }

    #[test]
    fn each_mistake_is_named() {
        let key = key_file();
        let short = tempfile::NamedTempFile::new().unwrap();
        fs::write(short.path(), STANDARD.encode([0; 31])).unwrap();
        let customer = |file: &tempfile::NamedTempFile, more: &str| {
            format!("sse: {{type: customer, customer_key_file: {}}}{more}", file.path().display())
        };
        let eleven: Vec<_> = (0..11).map(|n| format!("t{n}: x")).collect();
        for (more, key) in [
            ("sse: {type: aes}".to_owned(), "sse.type"),
            ("sse: {}".to_owned(), "sse.type"),
            ("sse: {type: s3, key: x}".to_owned(), "sse.key"),
            ("sse: {type: s3, kms_key_id: x}".to_owned(), "sse.kms_key_id"),
            ("sse: {type: kms, kms_key_id: a b}".to_owned(), "sse.kms_key_id"),
            ("sse: {type: kms, customer_key_file: /x}".to_owned(), "sse.customer_key_file"),
            ("sse: {type: customer}".to_owned(), "sse.customer_key_file"),
            ("sse: {type: customer, customer_key_file: /no/such}".to_owned(), "sse.customer_key_file"),
            (customer(&short, ""), "sse.customer_key_file"),
            (customer(&key, ", endpoint: 'http://store'"), "endpoint"),
            ("storage_class: standard ia".to_owned(), "storage_class"),
            ("tags: [a]".to_owned(), "tags"),
            (format!("tags: {{{}}}", eleven.join(", ")), "tags"),
            (format!("tags: {{a: {}}}", "x".repeat(257)), "tags"),
            ("tags: {'': x}".to_owned(), "tags"),
            ("proxy: proxy:3128".to_owned(), "proxy"),
            ("proxy: 'http://user:secret@proxy'".to_owned(), "proxy"),
            ("endpoint: 'http://host:port'".to_owned(), "endpoint"),
        ] {
            let problems = read(&more).unwrap_err();
            assert_eq!(problems.len(), 1, "{more}: {problems:?}");
            assert!(problems[0].starts_with(&format!("store.s3.{key}: ")), "{more}: {problems:?}");
        }
    }

    #[test]
    fn only_https_and_this_machine_are_private() {
        for private in ["https://h", "http://127.0.0.1:1", "http://[::1]:1", "http://localhost"] {
            assert!(is_private(private), "{private}");
        }
        for open in ["http://h", "http://localhost.h", "http://10.0.0.1", "http://128.0.0.1"] {
            assert!(!is_private(open), "{open}");
        }
    }
}
