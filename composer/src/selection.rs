//! Whether the settings want the crash of a pod.

use protocol::journal::{OPT_OUT, Skip};
use protocol::settings::ComposerSettings;

use crate::cri::message::PodSandbox;

/// Why the crash of a process in `pod` is not to be captured, if it is not.
pub fn skip(pod: &PodSandbox, settings: &ComposerSettings) -> Option<Skip> {
    let namespace = pod.metadata.as_ref().map_or("", |metadata| &metadata.namespace);
    match pod.annotations.get(OPT_OUT) {
        _ if !settings.namespaces.admits_name(namespace) => Some(Skip::Namespace),
        _ if !settings.labels.admits_labels(&pod.labels) => Some(Skip::Label),
        Some(value) if value == "false" => Some(Skip::Annotation),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cri::message::PodSandboxMetadata;

    fn pod(annotation: Option<&str>) -> PodSandbox {
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        PodSandbox {
            metadata: Some(PodSandboxMetadata { namespace: "payments".into(), ..Default::default() }),
            labels: map(&[("app", "web")]),
            annotations: annotation.map_or_else(BTreeMap::new, |value| map(&[(OPT_OUT, value)])),
            ..PodSandbox::default()
        }
    }

    fn decide(yaml: &str, annotation: Option<&str>) -> Option<Skip> {
        let (settings, problems) = ComposerSettings::read(yaml);
        assert_eq!(problems, Vec::<String>::new());
        skip(&pod(annotation), &settings)
    }

    #[test]
    fn what_nobody_left_out_is_captured() {
        assert_eq!(decide("", None), None);
        assert_eq!(decide("namespaces: {include: [pay*]}\nlabels: {include: [app=web]}", None), None);
        assert_eq!(decide("namespaces: {exclude: [other]}\nlabels: {exclude: [app=db]}", None), None);
    }

    #[test]
    fn each_way_to_leave_a_pod_out_has_its_reason() {
        for (yaml, reason) in [
            ("namespaces: {exclude: [payments]}", Skip::Namespace),
            ("namespaces: {include: [other]}", Skip::Namespace),
            ("labels: {exclude: [app]}", Skip::Label),
            ("labels: {include: [app=db]}", Skip::Label),
        ] {
            assert_eq!(decide(yaml, None), Some(reason), "{yaml}");
        }
    }

    #[test]
    fn a_pod_may_leave_itself_out_but_not_in() {
        assert_eq!(decide("", Some("false")), Some(Skip::Annotation));
        for other in ["true", "False", "", "no"] {
            assert_eq!(decide("", Some(other)), None, "{other}");
        }
        assert_eq!(decide("namespaces: {exclude: [payments]}", Some("true")), Some(Skip::Namespace));
    }
}
