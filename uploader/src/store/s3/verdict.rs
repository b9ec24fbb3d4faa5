//! What a failed request means for the dump.

use std::error::Error;
use std::time::Duration;

use anyhow::anyhow;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use rusoto_core::RusotoError;
use rusoto_core::request::BufferedHttpResponse;

use super::super::{PutError, Refusal};

/// Codes that condemn the dump: "Error responses" in the S3 API reference.
/// Whatever is not on this list may be cured without touching the dump, by
/// time, the operator or the store's, so the dump waits. A bare 413 is not on
/// it: that is what a proxy in front of the store says, and a person can raise
/// its limit.
const CONDEMNING: [&str; 4] = ["EntityTooLarge", "KeyTooLongError", "MetadataTooLarge", "InvalidObjectName"];
const SKEWED: &str = "RequestTimeTooSkewed";
/// What a person may do about codes that do not speak for themselves.
const REMARKS: [(&str, &str); 6] = [
    (SKEWED, "the clocks of this node and of the store differ too much"),
    ("SignatureDoesNotMatch", "the secret access key is wrong, or something on the way changes requests"),
    ("InvalidAccessKeyId", "the store does not know the access key id"),
    ("AuthorizationHeaderMalformed", "the region may be wrong"),
    ("BadDigest", "the bytes were damaged on their way"),
    ("InvalidStorageClass", "the store has no such storage_class"),
];

/// Codes of an upload in parts that cannot be gone on with: the store has
/// forgotten it, or some of its parts.
const LOST: [&str; 4] = ["NoSuchUpload", "InvalidPart", "InvalidPartOrder", "EntityTooSmall"];

/// Codes of a session that has ended, or that the store does not know.
const OUTDATED: [&str; 3] = ["ExpiredToken", "InvalidToken", "TokenRefreshRequired"];

/// Judges a failed request.
pub fn verdict<E: Error + Send + Sync + 'static>(err: RusotoError<E>) -> PutError {
    let RusotoError::Unknown(response) = err else { return PutError::Later(anyhow!("{err}")) };
    let status = response.status.as_u16();
    let body = response.body_as_str();
    let code = element(body, "Code").unwrap_or_default();
    let remark = REMARKS.iter().find(|(remarked, _)| *remarked == code).map(|(_, remark)| *remark);
    let now = Timestamp::now();
    let clocks = (code == SKEWED).then(|| clocks(&response, now));
    let said = [Some(code), element(body, "Message"), remark, clocks.as_deref()];
    let said: Vec<_> = said.into_iter().flatten().filter(|text| !text.is_empty()).collect();
    let said = if said.is_empty() { status_text(status).to_owned() } else { said.join(": ") };
    let said = format!("{status} {}", said.escape_debug());
    let err = Refusal { said, retry_after: retry_after(&response, now) }.into();
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

/// Whether an upload in parts, or a part of it, is not there any more.
pub fn is_lost<E>(err: &RusotoError<E>) -> bool {
    match err {
        RusotoError::Unknown(response) => {
            element(response.body_as_str(), "Code").is_some_and(|code| LOST.contains(&code))
        }
        // `NoSuchUpload`: of what is asked about parts, the one error that rusoto
        // has a type for.
        RusotoError::Service(_) => true,
        _ => false,
    }
}

/// What each of the two clocks says.
fn clocks(response: &BufferedHttpResponse, now: Timestamp) -> String {
    let theirs = response.headers.get("date").and_then(|date| date_of(date));
    let theirs = theirs.map_or("that is not known".to_owned(), |date| format!("{date:.0}"));
    format!("it is {now:.0} here, and {theirs} there")
}

/// Whether it may be our credentials that were refused, because they are outdated
/// or revoked. IBM's store says AccessDenied then, as it does of missing rights;
/// an answer to HEAD says nothing.
pub fn is_of_credentials(status: u16, body: &[u8]) -> bool {
    let code = || element(std::str::from_utf8(body).ok()?, "Code");
    match status {
        401 | 403 => true,
        400 => body.is_empty() || code().is_some_and(|code| OUTDATED.contains(&code)),
        _ => false,
    }
}

/// When the store wants to be asked again: in seconds, or at a time (RFC 9110,
/// 10.2.3). That time is by its own clock, if it says what that is.
fn retry_after(response: &BufferedHttpResponse, now: Timestamp) -> Option<Duration> {
    let said = response.headers.get("retry-after")?.trim();
    if let Ok(seconds) = said.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let now = response.headers.get("date").and_then(|date| date_of(date)).unwrap_or(now);
    Some(date_of(said)?.duration_since(now).try_into().unwrap_or_default())
}

fn date_of(text: &str) -> Option<Timestamp> {
    DateTimeParser::new().parse_timestamp(text).ok()
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

    use super::*;

    fn response(status: u16, body: &str, headers: &[(&'static str, &str)]) -> RusotoError<std::io::Error> {
        let headers = headers
            .iter()
            .map(|(name, value)| (http02::header::HeaderName::from_static(name), (*value).to_owned()));
        RusotoError::Unknown(BufferedHttpResponse {
            status: http02::StatusCode::from_u16(status).unwrap(),
            body: Bytes::copy_from_slice(body.as_bytes()),
            headers: headers.collect(),
        })
    }

    fn judged(status: u16, body: &str) -> PutError {
        verdict(response(status, body, &[]))
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
        assert!(said(403, &error("RequestTimeTooSkewed")).starts_with(
            "the store is not taking uploads: 403 RequestTimeTooSkewed: the message: \
             the clocks of this node and of the store differ too much: it is 2"
        ));
        assert!(said(404, "").ends_with("404 (there is no such bucket or object)"));
        assert!(!said(500, "<Code>a\nb</Code>").contains('\n'));
    }

    #[test]
    fn both_clocks_are_named_if_they_differ() {
        let date = ("date", "Sun, 22 Nov 2026 19:31:01 GMT");
        let skewed = verdict(response(403, &error("RequestTimeTooSkewed"), &[date]));
        let PutError::Later(err) = skewed else { panic!("{skewed}") };
        assert!(format!("{err:#}").ends_with(" here, and 2026-11-22T19:31:01Z there"), "{err:#}");
    }

    #[test]
    fn when_to_ask_again_is_said_in_seconds_or_as_a_date() {
        let after = |headers: &[(&'static str, &str)]| {
            let PutError::Later(err) = verdict(response(503, "", headers)) else { panic!() };
            super::super::super::retry_after(&err.context("asking")).map(|after| after.as_secs())
        };
        let date = ("date", "Sun, 22 Nov 2026 19:31:01 GMT");
        assert_eq!(after(&[]), None);
        assert_eq!(after(&[("retry-after", "120")]), Some(120));
        assert_eq!(after(&[("retry-after", "soon")]), None);
        assert_eq!(after(&[("retry-after", "-1")]), None);
        assert_eq!(after(&[("retry-after", "Sun, 22 Nov 2026 19:33:01 GMT"), date]), Some(120));
        assert_eq!(after(&[("retry-after", "Sun, 22 Nov 2026 19:30:01 GMT"), date]), Some(0));
        assert_eq!(after(&[("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT")]), Some(0));
    }

    #[test]
    fn what_is_outdated_is_told_from_what_is_wrong() {
        for (status, body, of_credentials) in [
            (400, error("ExpiredToken"), true),
            (400, error("BadDigest"), false),
            (400, String::new(), true),
            (403, error("AccessDenied"), true),
            (401, String::new(), true),
            (404, String::new(), false),
            (503, error("SlowDown"), false),
        ] {
            assert_eq!(is_of_credentials(status, body.as_bytes()), of_credentials, "{status} {body}");
        }
    }

    #[test]
    fn an_upload_is_lost_only_if_the_store_says_so() {
        for (status, code, lost) in [
            (404, "NoSuchUpload", true),
            (400, "InvalidPart", true),
            (404, "NoSuchBucket", false),
            (500, "InternalError", false),
            (403, "AccessDenied", false),
        ] {
            assert_eq!(is_lost(&response(status, &error(code), &[])), lost, "{code}");
        }
    }
}
