//! Which pods' crashes are captured: patterns over names and labels.

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_yaml::Value;

use super::Reader;

/// What is chosen among many. Nothing included means everything.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Choice<P> {
    /// At least one of these has to match, if there are any.
    pub include: Vec<P>,
    /// None of these may match, whatever is included.
    pub exclude: Vec<P>,
}

impl<P> Default for Choice<P> {
    fn default() -> Choice<P> {
        Choice { include: Vec::new(), exclude: Vec::new() }
    }
}

impl<P: DeserializeOwned> Choice<P> {
    /// Takes the mapping `{include: […], exclude: […]}`.
    pub fn read(reader: &mut Reader, key: &str) -> Choice<P> {
        let Some(mut section) = reader.section(key) else { return Choice::default() };
        let [include, exclude] = ["include", "exclude"].map(|key| patterns(&mut section, key));
        reader.absorb(section.done());
        Choice { include, exclude }
    }
}

/// Takes the patterns that are some; one that is none costs no other.
fn patterns<P: DeserializeOwned>(reader: &mut Reader, key: &str) -> Vec<P> {
    let values: Vec<Value> = reader.or(key, Vec::new());
    let patterns = values
        .into_iter()
        .filter_map(|value| serde_yaml::from_value(value).map_err(|err| reader.reject(key, err)).ok());
    patterns.collect()
}

impl<P> Choice<P> {
    fn admits(&self, matches: impl Fn(&P) -> bool) -> bool {
        !self.exclude.iter().any(&matches) && (self.include.is_empty() || self.include.iter().any(&matches))
    }
}

impl Choice<Glob> {
    /// Whether a namespace of this name is chosen.
    pub fn admits_name(&self, name: &str) -> bool {
        self.admits(|glob| glob.matches(name))
    }
}

impl Choice<LabelPattern> {
    /// Whether something with these labels is chosen.
    pub fn admits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        self.admits(|pattern| pattern.matches(labels))
    }
}

/// A name in which `*` stands for anything: `openshift-*`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct Glob(String);

impl Glob {
    /// Whether it stands for `name`. Takes time in proportion to both lengths
    /// at most.
    pub fn matches(&self, name: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == name };
        let Some(mut name) = name.strip_prefix(head) else { return false };
        let Some((middle, tail)) = rest.rsplit_once('*') else { return name.ends_with(rest) };
        // The first place will do: what is left for those that follow is longest then.
        for piece in middle.split('*') {
            let Some(at) = name.find(piece) else { return false };
            name = &name[at + piece.len()..];
        }
        name.ends_with(tail)
    }
}

impl TryFrom<String> for Glob {
    type Error = BadPattern;

    fn try_from(text: String) -> Result<Glob, BadPattern> {
        match text.is_empty() || !text.bytes().all(|byte| is_name(byte) || byte == b'*') {
            true => Err(BadPattern(text)),
            false => Ok(Glob(text)),
        }
    }
}

/// A label, `team=payments`, or `team` whatever its value is. A `*` in the
/// value stands for anything.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(try_from = "String")]
pub struct LabelPattern {
    key: String,
    value: Option<Glob>,
}

impl LabelPattern {
    fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let label = labels.get(&self.key);
        label.is_some_and(|label| self.value.as_ref().is_none_or(|value| value.matches(label)))
    }
}

impl TryFrom<String> for LabelPattern {
    type Error = BadPattern;

    fn try_from(text: String) -> Result<LabelPattern, BadPattern> {
        let (key, value) = match text.split_once('=') {
            // A label may be empty, which a name may not.
            Some((key, "")) => (key, Some(Glob(String::new()))),
            Some((key, value)) => (key, Some(Glob::try_from(value.to_owned())?)),
            None => (text.as_str(), None),
        };
        let key = key.to_owned();
        match key.is_empty() || !key.bytes().all(|byte| is_name(byte) || byte == b'/') {
            true => Err(BadPattern(text)),
            false => Ok(LabelPattern { key, value }),
        }
    }
}

/// What names and the values of labels are made of; "Labels and Selectors" in
/// the documentation of Kubernetes.
fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.".contains(&byte)
}

/// Why a text is no pattern.
#[derive(Debug)]
pub struct BadPattern(String);

impl fmt::Display for BadPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:?} is no pattern such as `payments`, `team-*`, or, for a label, `key` or `key=value`",
            self.0
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn glob(text: &str) -> Glob {
        Glob::try_from(text.to_owned()).unwrap()
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, yes, no) in [
            ("payments", &["payments"][..], &["", "payment", "payments2"][..]),
            ("team-*", &["team-", "team-a", "team-*"], &["team", "my-team-a"]),
            ("*-prod", &["-prod", "a-prod", "a-prod-prod"], &["prod", "a-prod-b"]),
            ("a*b*c", &["abc", "aXbYc", "abbc"], &["acb", "ab", "aXc", "abcd"]),
            ("ab*ba", &["abba", "ab-ba"], &["aba", "ab"]),
            ("*a*a*", &["aa", "xaxax"], &["a", "bab"]),
            ("*", &["", "x"], &[]),
        ] {
            yes.iter().for_each(|name| assert!(glob(pattern).matches(name), "{pattern} {name}"));
            no.iter().for_each(|name| assert!(!glob(pattern).matches(name), "{pattern} {name}"));
        }
    }

    #[test]
    fn exclusion_wins_and_nothing_included_is_everything() {
        let choice = |include: &[&str], exclude: &[&str]| Choice {
            include: include.iter().map(|text| glob(text)).collect(),
            exclude: exclude.iter().map(|text| glob(text)).collect(),
        };
        assert!(choice(&[], &[]).admits_name("a"));
        assert!(choice(&["a", "b"], &[]).admits_name("b"));
        assert!(!choice(&["a"], &[]).admits_name("b"));
        assert!(!choice(&[], &["a"]).admits_name("a"));
        assert!(choice(&[], &["a"]).admits_name("b"));
        assert!(!choice(&["a"], &["a"]).admits_name("a"));
    }

    #[test]
    fn a_label_is_matched_by_its_key_or_by_its_value_too() {
        let labels = BTreeMap::from([("app.kubernetes.io/name", "web"), ("debug", "")]);
        let labels = labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        for (pattern, expected) in [
            ("app.kubernetes.io/name", true),
            ("app.kubernetes.io/name=web", true),
            ("app.kubernetes.io/name=w*", true),
            ("app.kubernetes.io/name=", false),
            ("app.kubernetes.io/name=we", false),
            ("debug=", true),
            ("debug", true),
            ("web", false),
        ] {
            let pattern = LabelPattern::try_from(pattern.to_owned()).unwrap();
            assert_eq!(pattern.matches(&labels), expected, "{pattern:?}");
        }
    }

    #[test]
    fn one_that_is_no_pattern_costs_no_other() {
        let mut reader = Reader::new("namespaces: {include: [payments, a b, 1.5, team-*], exclude: [x]}");
        let choice = Choice::<Glob>::read(&mut reader, "namespaces");
        assert_eq!((choice.include.len(), choice.exclude.len()), (2, 1));
        assert!(choice.admits_name("team-a") && !choice.admits_name("other"));
        let problems = reader.done();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].starts_with("namespaces.include: \"a b\" is no pattern"), "{problems:?}");
    }

    #[test]
    fn what_is_no_pattern_is_refused_rather_than_never_matching() {
        for bad in ["", "a b", "team!=x", "=x", "a=b=c", "k in (a)", "a*=b", "ä"] {
            assert!(LabelPattern::try_from(bad.to_owned()).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a/b", "a=b", "!a"] {
            assert!(Glob::try_from(bad.to_owned()).is_err(), "{bad}");
        }
    }
}
