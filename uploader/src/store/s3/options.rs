//! What the settings want of every object, as the headers of requests.

use rusoto_core::param::Params;

use crate::config::{CustomerKey, Encryption, ObjectOptions};

/// Ours, if there is one.
pub fn customer_key(options: &ObjectOptions) -> Option<&CustomerKey> {
    match &options.encryption {
        Some(Encryption::Customer(key)) => Some(key),
        Some(Encryption::S3 | Encryption::Kms(_)) | None => None,
    }
}

/// What a request has to say besides. What an object is to be like is said when
/// it begins; a customer's key with every request that is about its bytes, since
/// the store forgets it (PutObject, CreateMultipartUpload, UploadPart,
/// CompleteMultipartUpload and HeadObject in the S3 API reference).
pub fn headers<'a>(
    options: &'a ObjectOptions,
    method: &str,
    params: &Params,
) -> Vec<(&'static str, &'a str)> {
    let has = |name: &str| params.contains_key(name);
    let begins = match method {
        "PUT" => !has("partNumber"),
        "POST" => has("uploads"),
        _ => false,
    };
    let of_bytes = matches!(method, "PUT" | "POST" | "HEAD");
    let mut headers = Vec::new();
    if begins {
        match &options.encryption {
            Some(Encryption::S3) => headers.push(("x-amz-server-side-encryption", "AES256")),
            Some(Encryption::Kms(id)) => {
                headers.push(("x-amz-server-side-encryption", "aws:kms"));
                let name = "x-amz-server-side-encryption-aws-kms-key-id";
                headers.extend(id.as_deref().map(|id| (name, id)));
            }
            Some(Encryption::Customer(_)) | None => {}
        }
        headers.extend(options.storage_class.as_deref().map(|class| ("x-amz-storage-class", class)));
        headers.extend(options.tagging.as_deref().map(|tagging| ("x-amz-tagging", tagging)));
    }
    if let Some(CustomerKey { key, md5 }) = customer_key(options).filter(|_| of_bytes) {
        headers.push(("x-amz-server-side-encryption-customer-algorithm", "AES256"));
        headers.push(("x-amz-server-side-encryption-customer-key", key));
        headers.push(("x-amz-server-side-encryption-customer-key-md5", md5));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(options: &ObjectOptions, method: &str, params: &[&str]) -> Vec<&'static str> {
        let params = params.iter().map(|name| ((*name).to_owned(), Some(String::new()))).collect();
        let short = |name: &'static str| name.strip_prefix("x-amz-").unwrap();
        headers(options, method, &params).into_iter().map(|(name, _)| short(name)).collect()
    }

    #[test]
    fn what_an_object_is_to_be_like_is_said_when_it_begins() {
        let options = ObjectOptions {
            encryption: Some(Encryption::Kms(Some("id".into()))),
            storage_class: Some("COLD".into()),
            tagging: Some("a=b".into()),
        };
        let all =
            ["server-side-encryption", "server-side-encryption-aws-kms-key-id", "storage-class", "tagging"];
        assert_eq!(names(&options, "PUT", &[]), all);
        assert_eq!(names(&options, "POST", &["uploads"]), all);
        for (method, params) in [
            ("PUT", &["partNumber", "uploadId"][..]),
            ("POST", &["uploadId"]),
            ("HEAD", &[]),
            ("GET", &["uploads"]),
            ("DELETE", &["uploadId"]),
        ] {
            assert!(names(&options, method, params).is_empty(), "{method} {params:?}");
        }
    }

    #[test]
    fn a_customers_key_goes_with_all_that_is_about_bytes() {
        let key = CustomerKey { key: "key".into(), md5: "md5".into() };
        let options = ObjectOptions { encryption: Some(Encryption::Customer(key)), ..Default::default() };
        for (method, params, sent) in [
            ("PUT", &[][..], 3),
            ("POST", &["uploads"], 3),
            ("PUT", &["partNumber", "uploadId"], 3),
            ("POST", &["uploadId"], 3),
            ("HEAD", &[], 3),
            ("GET", &["uploads"], 0),
            ("DELETE", &["uploadId"], 0),
        ] {
            assert_eq!(names(&options, method, params).len(), sent, "{method} {params:?}");
        }
    }
}
