//! Under which key a dump goes into the store: a function of the dump alone,
//! never of the attempt, so that an upload may happen twice.

use std::fmt;

use protocol::manifest::Manifest;
use protocol::spool::DumpId;

/// Stands for what is not known. No name in Kubernetes has an underscore.
const UNKNOWN: &str = "_";

const DEFAULT: &str = "{namespace}/{pod}/{id}.zip";
/// What S3 takes, less a prefix.
const MAX_KEY: usize = 900;
/// What file systems take of a name, less what a temporary name adds to it.
const MAX_PART: usize = 245;

/// Where a dump is in the store. Relative, and plain: no part of it is empty,
/// `.` or `..`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectKey(String);

impl ObjectKey {
    /// The key below `prefix`, if there is one.
    pub fn below(&self, prefix: &str) -> String {
        if prefix.is_empty() { self.0.clone() } else { format!("{prefix}/{}", self.0) }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The pattern of keys, for example `{namespace}/{pod}/{id}.zip`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Template(Vec<Piece>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Piece {
    Literal(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Field {
    Id,
    Date,
    Node,
    Namespace,
    Pod,
    Container,
    Signal,
}

/// Each field, and how much of its value is taken: all of it, but for pods,
/// whose names may have 253 bytes and seldom have 100.
const FIELDS: [(&str, Field, usize); 7] = [
    ("id", Field::Id, 36),
    ("date", Field::Date, 8),
    ("node", Field::Node, 64),
    ("namespace", Field::Namespace, 63),
    ("pod", Field::Pod, 200),
    ("container", Field::Container, 63),
    ("signal", Field::Signal, 12),
];

impl Default for Template {
    fn default() -> Template {
        let Ok(template) = Template::parse(DEFAULT) else { unreachable!("a constant") };
        template
    }
}

impl Template {
    /// Understands a pattern.
    ///
    /// # Errors
    /// What is wrong with it, for a person.
    pub fn parse(text: &str) -> Result<Template, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some((literal, tail)) = rest.split_once('{') {
            let (name, tail) = tail.split_once('}').ok_or("has a { without its }")?;
            let known = || FIELDS.map(|(name, ..)| format!("{{{name}}}")).join(" ");
            let field = FIELDS.iter().find(|(field, ..)| *field == name);
            let (_, field, _) =
                field.ok_or_else(|| format!("has {{{name}}}, which is none of {}", known()))?;
            pieces.extend([Piece::Literal(literal.to_owned()), Piece::Field(*field)]);
            rest = tail;
        }
        pieces.push(Piece::Literal(rest.to_owned()));
        if !pieces.contains(&Piece::Field(Field::Id)) {
            return Err("lacks {id}, without which one dump would replace another".to_owned());
        }
        let template = Template(pieces);
        let sample = template.render(|_, max| "x".repeat(max));
        if sample.split('/').any(|part| matches!(part, "" | "." | "..")) {
            return Err("has a part that is empty, . or ..".to_owned());
        }
        if sample.contains(|c: char| c.is_control() || c == '\\') {
            return Err("has a control character or a backslash".to_owned());
        }
        if sample.len() > MAX_KEY || sample.split('/').any(|part| part.len() > MAX_PART) {
            return Err(format!(
                "may make keys of over {MAX_KEY} bytes, or parts of them of over {MAX_PART}"
            ));
        }
        Ok(template)
    }

    /// The key of a dump. `manifest` is absent if the dump has none to read.
    pub fn key(&self, id: &DumpId, manifest: Option<&Manifest>) -> ObjectKey {
        let container = manifest.and_then(|manifest| manifest.container.present());
        ObjectKey(self.render(|field, max| {
            let value = match field {
                Field::Id => Some(id.to_string()),
                Field::Date => id.as_str().get(..8).map(str::to_owned),
                Field::Node => manifest.map(|manifest| manifest.node.to_string()),
                Field::Namespace => container.map(|container| container.pod.namespace.clone()),
                Field::Pod => container.map(|container| container.pod.name.clone()),
                Field::Container => container.map(|container| container.name.clone()),
                Field::Signal => manifest.and_then(|manifest| manifest.crash.signal_name.clone()),
            };
            plain(&value.unwrap_or_default(), max)
        }))
    }

    fn render(&self, value: impl Fn(Field, usize) -> String) -> String {
        let max = |field| FIELDS.iter().find(|(_, known, _)| *known == field).map_or(0, |(.., max)| *max);
        let piece = |piece: &Piece| match piece {
            Piece::Literal(text) => text.clone(),
            Piece::Field(field) => value(*field, max(*field)),
        };
        self.0.iter().map(piece).collect()
    }
}

/// What of a value can stand in a path, whoever chose it.
fn plain(value: &str, max: usize) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '-' };
    let value: String = value.chars().map(safe).take(max).collect();
    match value.trim_matches('.') {
        "" => UNKNOWN.to_owned(),
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest() -> Manifest {
        serde_json::from_str(include_str!("../../protocol/tests/golden/manifest-1.json")).unwrap()
    }

    fn key(template: &str, manifest: Option<&Manifest>) -> String {
        let id = DumpId::try_from("20261122T193101Z-28763-9f3a61c2".to_owned()).unwrap();
        Template::parse(template).unwrap().key(&id, manifest).to_string()
    }

    #[test]
    fn a_key_is_made_of_what_the_manifest_says() {
        let id = "20261122T193101Z-28763-9f3a61c2";
        assert_eq!(key(DEFAULT, Some(&manifest())), format!("default/crash/{id}.zip"));
        let all = "{date}/{node}/{container}-{signal}/{id}";
        assert_eq!(key(all, Some(&manifest())), format!("20261122/worker-3/main-SIGSEGV/{id}"));
        assert_eq!(key(DEFAULT, None), format!("_/_/{id}.zip"));
    }

    #[test]
    fn no_value_leaves_its_place() {
        let mut manifest = manifest();
        manifest.node = "../../etc\n".into();
        assert_eq!(key("{node}/{id}", Some(&manifest)), "..-..-etc-x0a/20261122T193101Z-28763-9f3a61c2");
        manifest.node = "..".into();
        assert_eq!(key("{node}/{id}", Some(&manifest)), "_/20261122T193101Z-28763-9f3a61c2");
        manifest.node = "x".repeat(5000).as_str().into();
        assert!(key("{node}/{id}", Some(&manifest)).len() < 255);
    }

    #[test]
    fn a_template_that_could_lose_a_dump_is_refused() {
        for bad in ["{pod}.zip", "{id", "{idd}", "/{id}", "a//{id}", "../{id}", "{id}\n", "{pod}-{pod}-{id}"]
        {
            assert!(Template::parse(bad).is_err(), "{bad}");
        }
    }

    mod hostile {
        use proptest::prelude::*;
        use protocol::manifest::Attribution;

        use super::*;
        use crate::strange;

        fn templates() -> impl Strategy<Value = String> {
            let samples = [DEFAULT, "{date}/{node}/{container}-{signal}/{id}", "a.{namespace}/.{pod}/{id}"];
            let changed = strange::changed(samples.map(|sample| sample.as_bytes().to_vec()).into());
            changed.prop_map(|text| String::from_utf8_lossy(&text).into_owned())
        }

        proptest! {
            #[test]
            fn whatever_the_template_and_the_values_are_a_key_stays_in_its_place(
                template in templates(),
                names in prop::array::uniform5(prop_oneof![8 => strange::text(), 1 => "[.ä/]{0,5000}"]),
            ) {
                let Ok(template) = Template::parse(&template) else { return Ok(()) };
                let mut manifest = manifest();
                let [node, namespace, pod, name, signal] = names;
                (manifest.node, manifest.crash.signal_name) = (node.as_str().into(), Some(signal));
                let Attribution::Present(container) = &mut manifest.container else { unreachable!("it has one") };
                (container.pod.namespace, container.pod.name, container.name) = (namespace, pod, name);
                let key = template.key(&manifest.id, Some(&manifest)).to_string();
                prop_assert!(key.len() <= MAX_KEY && key.contains(manifest.id.as_str()), "{key}");
                for part in key.split('/') {
                    prop_assert!(!matches!(part, "" | "." | "..") && part.len() <= MAX_PART, "{key}");
                }
                prop_assert!(!key.contains(|c: char| c.is_control() || c == '\\'), "{key:?}");
                prop_assert_eq!(key, template.key(&manifest.id, Some(&manifest)).to_string());
            }
        }
    }
}
