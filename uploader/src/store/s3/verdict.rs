//! What a failed request means for the dump.

use std::error::Error;

use anyhow::anyhow;
use rusoto_core::RusotoError;

use super::super::PutError;

/// Codes that condemn the dump: "Error responses" in the S3 API reference.
/// Whatever is not on this list may be cured without touching the dump, by
/// time, the operator or the store's, so the dump waits. A bare 413 is not on
/// it: that is what a proxy in front of the store says, and a person can raise
/// its limit.
const CONDEMNING: [&str; 4] = ["EntityTooLarge", "KeyTooLongError", "MetadataTooLarge", "InvalidObjectName"];
/// What a person may do about codes that do not speak for themselves.
const REMARKS: [(&str, &str); 5] = [
    ("RequestTimeTooSkewed", "the clocks of this node and of the store differ too much"),
    ("SignatureDoesNotMatch", "the secret access key is wrong, or something on the way changes requests"),
    ("InvalidAccessKeyId", "the store does not know the access key id"),
    ("AuthorizationHeaderMalformed", "the region may be wrong"),
    ("BadDigest", "the bytes were damaged on their way"),
];

/// Judges a failed request.
pub fn verdict<E: Error + Send + Sync + 'static>(err: RusotoError<E>) -> PutError {
    let RusotoError::Unknown(response) = err else { return PutError::Later(anyhow!("{err}")) };
    let status = response.status.as_u16();
    let body = response.body_as_str();
    let code = element(body, "Code").unwrap_or_default();
    let remark = REMARKS.iter().find(|(remarked, _)| *remarked == code).map(|(_, remark)| *remark);
    let said = [Some(code), element(body, "Message"), remark];
    let said: Vec<_> = said.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    let said = if said.is_empty() { status_text(status).to_owned() } else { said.join(": ") };
    let err = anyhow!("{status} {}", said.escape_debug());
    match CONDEMNING.contains(&code) {
        true => PutError::Never(err),
        false => PutError::Later(err),
    }
}

/// The status of the answer, if there was one.
pub fn answered<E>(err: &RusotoError<E>) -> Option<u16> {
    match err {
        RusotoError::Unknown(response) => Some(response.status.as_u16()),
        // The one error of these requests that rusoto has a type for.
        RusotoError::Service(_) => Some(404),
        _ => None,
    }
}

/// An answer to HEAD has no body to say more.
fn status_text(status: u16) -> &'static str {
    match status {
        301 | 307 => "(the bucket is elsewhere: region or endpoint)",
        403 => "(the store does not allow it: credentials or rights)",
        404 => "(there is no such bucket or object)",
        413 => "(something before the store has a limit on the size of requests; smaller parts may fit)",
        _ => "(the store said no more)",
    }
}

/// The text of an element of the flat XML document in which S3 describes an
/// error.
fn element<'a>(xml: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rusoto_core::request::BufferedHttpResponse;

    use super::*;

    fn judged(status: u16, body: &str) -> PutError {
        let response = BufferedHttpResponse {
            status: http02::StatusCode::from_u16(status).unwrap(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            headers: Default::default(),
        };
        verdict(RusotoError::<std::io::Error>::Unknown(response))
    }

    fn error(code: &str) -> String {
        format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>the message</Message></Error>")
    }

    #[test]
    fn only_the_dump_itself_condemns_a_dump() {
        for (status, code) in [
            (500, "InternalError"),
            (503, "SlowDown"),
            (429, "TooManyRequests"),
            (403, "AccessDenied"),
            (403, "RequestTimeTooSkewed"),
            (400, "ExpiredToken"),
            (400, "BadDigest"),
            (404, "NoSuchBucket"),
            (301, "PermanentRedirect"),
            (400, "SomethingNew"),
            (413, ""),
        ] {
            assert!(matches!(judged(status, &error(code)), PutError::Later(_)), "{code}");
        }
        for (status, code) in [(400, "EntityTooLarge"), (400, "KeyTooLongError"), (400, "MetadataTooLarge")] {
            assert!(matches!(judged(status, &error(code)), PutError::Never(_)), "{code}");
        }
    }

    #[test]
    fn what_the_store_said_is_passed_on() {
        let said = |status, body: &str| format!("{:#}", anyhow::Error::from(judged(status, body)));
        assert_eq!(
            said(403, &error("RequestTimeTooSkewed")),
            "the store is not taking uploads: 403 RequestTimeTooSkewed: the message: \
             the clocks of this node and of the store differ too much"
        );
        assert!(said(404, "").ends_with("404 (there is no such bucket or object)"));
        assert!(!said(500, "<Code>a\nb</Code>").contains('\n'));
    }
}
