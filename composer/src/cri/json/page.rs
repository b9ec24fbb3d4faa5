//! JSON on its way to a person: indented, and without secrets.

use std::io::{self, Write};

use serde_json::value::RawValue;

use crate::process::REDACTED;

/// How many bytes are indented; the rest is copied as it comes. An answer has at
/// most 4 MiB, but users wrote what is in it, and an array of a million numbers
/// would become tens of megabytes of blanks.
const INDENTED: usize = 1 << 20;

/// Where `kubectl apply` keeps what it applied: the pod with its environment.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
/// Where CRI-O keeps all annotations of a pod once more, as JSON.
const CRIO_ANNOTATIONS: &str = "io.kubernetes.cri-o.Annotations";

/// A sink for JSON that is known to be valid.
///
/// It follows strings, brackets and keys and copies everything else. To read
/// values and write them again would be shorter, but takes several times the
/// memory, loses digits of long numbers, and gives up where something is nested
/// deep enough.
///
/// Secrets go by what holds them, not by where that is. Today the variables are
/// in `info.config.envs`, in `info.runtimeSpec.process.env`, and in the pod that
/// [`LAST_APPLIED`] has; but annotations are in `status`, `info.config`,
/// `info.runtimeSpec` and `info.sandboxMetadata.Metadata.Config`, and the next
/// version of a runtime has them in one place more. So: an array `env` or `envs`
/// holds variables, which are `"NAME=value"` or `{"value": …}`, and two
/// annotations hold JSON with more of them.
pub struct Page {
    out: Vec<u8>,
    open: Vec<Open>,
    /// The last key, while what it is the key of is to come.
    key: Key,
    /// What comes next in an object is a key.
    before_key: bool,
    /// Nothing has come yet since the last bracket opened.
    empty: bool,
    /// Where in `out` the string began that we are in.
    string: Option<usize>,
    /// The last byte of the string was a backslash that counts.
    escape: bool,
    indent: bool,
    redact: bool,
}

/// What brackets are around us. One byte each: there can be millions.
#[derive(Clone, Copy, PartialEq)]
enum Open {
    Object,
    Array,
    /// The array of variables.
    Variables,
    /// A variable that is an object.
    Variable,
}

/// The keys that matter.
#[derive(Clone, Copy, PartialEq)]
enum Key {
    Variables,
    Value,
    LastApplied,
    CrioAnnotations,
    Other,
}

impl Page {
    /// An empty page.
    pub fn new(redact: bool) -> Page {
        Page {
            out: Vec::new(),
            open: Vec::new(),
            key: Key::Other,
            before_key: false,
            empty: false,
            string: None,
            escape: false,
            indent: true,
            redact,
        }
    }

    /// All that was written, and the end of the last line.
    pub fn finish(mut self) -> Vec<u8> {
        self.out.push(b'\n');
        self.out
    }

    fn take(&mut self, byte: u8) {
        match (self.string, byte) {
            (Some(start), _) => self.take_in_string(start, byte),
            (None, b' ' | b'\t' | b'\n' | b'\r') if self.indent => {}
            (None, b' ' | b'\t' | b'\n' | b'\r') => self.out.push(byte),
            (None, b'}' | b']') => {
                self.open.pop();
                if !self.empty {
                    self.new_line();
                }
                self.empty = false;
                self.out.push(byte);
            }
            (None, b',') => {
                self.out.push(byte);
                self.new_line();
                self.key = Key::Other;
                self.before_key = matches!(self.open.last(), Some(Open::Object | Open::Variable));
            }
            (None, b':') => {
                self.out.push(byte);
                if self.indent {
                    self.out.push(b' ');
                }
                self.before_key = false;
            }
            (None, _) => {
                if self.empty {
                    self.new_line();
                }
                self.empty = matches!(byte, b'{' | b'[');
                match byte {
                    b'"' => self.string = Some(self.out.len()),
                    b'{' => self.open(match self.open.last() {
                        Some(Open::Variables) => Open::Variable,
                        Some(Open::Object | Open::Array | Open::Variable) | None => Open::Object,
                    }),
                    b'[' if self.key == Key::Variables => self.open(Open::Variables),
                    b'[' => self.open(Open::Array),
                    _ => {}
                }
                self.out.push(byte);
            }
        }
    }

    fn take_in_string(&mut self, start: usize, byte: u8) {
        self.out.push(byte);
        match byte {
            _ if self.escape => self.escape = false,
            b'\\' => self.escape = true,
            b'"' => {
                self.string = None;
                if self.before_key {
                    self.key = Key::read(&self.out[start..]);
                } else if self.redact
                    && let Some(rest) = self.what_may_stay(start)
                {
                    self.out.truncate(start);
                    let rest = serde_json::Value::String(rest);
                    self.out.extend_from_slice(rest.to_string().as_bytes());
                }
            }
            _ => {}
        }
    }

    fn open(&mut self, open: Open) {
        self.open.push(open);
        self.key = Key::Other;
        self.before_key = matches!(open, Open::Object | Open::Variable);
    }

    fn new_line(&mut self) {
        self.indent &= self.out.len() < INDENTED;
        if self.indent {
            self.out.push(b'\n');
            self.out.resize(self.out.len() + 2 * self.open.len(), b' ');
        }
    }

    /// What is left of the value that is the string from `start` on, if not all.
    fn what_may_stay(&self, start: usize) -> Option<String> {
        // It is not a string if it names half of a pair of surrogates, which
        // JSON allows and Unicode does not.
        let text = || serde_json::from_slice::<String>(&self.out[start..]).ok();
        match (self.open.last(), self.key) {
            (Some(Open::Variables), _) => {
                Some(match text().as_deref().and_then(|text| text.split_once('=')) {
                    Some((name, _)) => format!("{name}={REDACTED}"),
                    None => REDACTED.to_owned(),
                })
            }
            (Some(Open::Variable), Key::Value) => Some(REDACTED.to_owned()),
            (Some(Open::Object | Open::Array) | None, Key::Value) | (_, Key::Variables | Key::Other) => None,
            (_, Key::LastApplied) => {
                Some(text().and_then(|text| redacted(&text)).unwrap_or(REDACTED.to_owned()))
            }
            (_, Key::CrioAnnotations) => match text() {
                Some(text) if !text.contains("last-applied-configuration") => redacted(&text),
                text => Some(text.and_then(|text| redacted(&text)).unwrap_or(REDACTED.to_owned())),
            },
        }
    }
}

impl Write for Page {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for byte in bytes {
            self.take(*byte);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Key {
    /// Reads a key in its quotes.
    fn read(json: &[u8]) -> Key {
        let key: Option<String> = serde_json::from_slice(json).ok();
        match key.as_deref() {
            Some("env" | "envs") => Key::Variables,
            Some("value") => Key::Value,
            Some(LAST_APPLIED) => Key::LastApplied,
            Some(CRIO_ANNOTATIONS) => Key::CrioAnnotations,
            _ => Key::Other,
        }
    }
}

/// A document without its secrets and otherwise unchanged, to the blanks; or
/// nothing, if it is no JSON.
///
/// Each document in a document halves what room there is, since its quotes must
/// be escaped: 4 MiB have room for twenty, which is how deep this can call
/// itself.
fn redacted(document: &str) -> Option<String> {
    serde_json::from_str::<&RawValue>(document).ok()?;
    let mut page = Page { indent: false, ..Page::new(true) };
    page.write_all(document.as_bytes()).ok()?;
    String::from_utf8(page.out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn page(json: &str, redact: bool) -> String {
        let mut page = Page::new(redact);
        page.write_all(json.as_bytes()).unwrap();
        String::from_utf8(page.finish()).unwrap()
    }

    #[test]
    fn documents_are_redacted_and_nothing_else_of_them_changes() {
        for (document, left) in [
            // Blanks, the order of keys, numbers and escapes stay.
            (" {\"b\" :1.10,\n\"a\":\"\\u0041\\/\"}\r\n", " {\"b\" :1.10,\n\"a\":\"\\u0041\\/\"}\r\n"),
            (r#"{"env":[{"name":"A","value":"s"}]}"#, r#"{"env":[{"name":"A","value":"<redacted>"}]}"#),
            (r#"{"envs":[{"key":"A","value":"s"}]}"#, r#"{"envs":[{"key":"A","value":"<redacted>"}]}"#),
            (r#"{"env":["A=s=t","s",""]}"#, r#"{"env":["A=<redacted>","<redacted>","<redacted>"]}"#),
            (r#"{"\u0065nv":[{"valu\u0065":"s"}]}"#, r#"{"\u0065nv":[{"valu\u0065":"<redacted>"}]}"#),
            (r#"{"env":["A\u003ds"]}"#, r#"{"env":["A=<redacted>"]}"#),
            (r#"{"env":["A=\ud800"]}"#, r#"{"env":["<redacted>"]}"#),
            (r#"{"env":["\"\\=s\""]}"#, r#"{"env":["\"\\=<redacted>"]}"#),
            (
                r#"[{"env":[{"value":"s"},"A=s"],"x":"y"}]"#,
                r#"[{"env":[{"value":"<redacted>"},"A=<redacted>"],"x":"y"}]"#,
            ),
            (r#"{"env":[{"a":{},"value":"s"}]}"#, r#"{"env":[{"a":{},"value":"<redacted>"}]}"#),
            (r#"{"env":[{"value":"s"}],"value":"t"}"#, r#"{"env":[{"value":"<redacted>"}],"value":"t"}"#),
            // What looks like variables and is not.
            (r#"{"env":"A=s"}"#, r#"{"env":"A=s"}"#),
            (r#"{"env":{"value":"s"}}"#, r#"{"env":{"value":"s"}}"#),
            (r#"{"args":["env","A=s"],"env":null}"#, r#"{"args":["env","A=s"],"env":null}"#),
            (r#"{"env":[],"args":["A=s"]}"#, r#"{"env":[],"args":["A=s"]}"#),
            (r#"["env",["A=s"]]"#, r#"["env",["A=s"]]"#),
            (r#"{"env":[["A=s"]]}"#, r#"{"env":[["A=s"]]}"#),
            (r#"{"env":[{"valueFrom":{"value":"s"}}]}"#, r#"{"env":[{"valueFrom":{"value":"s"}}]}"#),
        ] {
            assert_eq!(redacted(document).as_deref(), Some(left), "{document}");
        }
        for broken in ["", "{", "s", "{\"env\":[\"A=s\"}", "{} {}", "nul", "\"\n\""] {
            assert_eq!(redacted(broken), None, "{broken}");
        }
    }

    #[test]
    fn annotations_are_redacted_or_not_shown() {
        let applied = r#"{"env":[{"name":"A","value":"s"}]}"#.to_owned() + "\n";
        let left = r#"{"env":[{"name":"A","value":"<redacted>"}]}"#.to_owned() + "\n";
        let annotations = |last: &str| json!({LAST_APPLIED: last, "a": "b"}).to_string();
        let hidden = |annotations: String| annotations.replace("-applied", "\\u002dapplied");
        for (name, value, left) in [
            (LAST_APPLIED, applied.clone(), left.clone()),
            (LAST_APPLIED, "{s".into(), REDACTED.into()),
            (LAST_APPLIED, String::new(), REDACTED.into()),
            (CRIO_ANNOTATIONS, annotations(&applied), annotations(&left)),
            (CRIO_ANNOTATIONS, annotations("{s"), annotations(REDACTED)),
            (CRIO_ANNOTATIONS, annotations("{s")[1..].into(), REDACTED.into()),
            (CRIO_ANNOTATIONS, "map[a:b]".into(), "map[a:b]".into()),
            // A name may be written in many ways.
            (CRIO_ANNOTATIONS, hidden(annotations(&applied)), hidden(annotations(&left))),
            ("other", "{\"env\":[\"A=s\"]".into(), "{\"env\":[\"A=s\"]".into()),
        ] {
            let printed: Value =
                serde_json::from_str(&page(&json!({name: value}).to_string(), true)).unwrap();
            assert_eq!(printed, json!({name: left}), "{name} {value}");
        }
        // Half of a surrogate hides the rest from us.
        let half = format!(r#"{{"{CRIO_ANNOTATIONS}":"\ud800{{}}"}}"#);
        assert!(page(&half, true).contains(REDACTED));
    }

    #[test]
    fn it_is_indented_and_broken_into_lines() {
        assert_eq!(page("{}", false), "{}\n");
        let json = r#"{"a":[1,"\"{}[],: \\",{}],"b":{"c":[[]]}, "d" :true }"#;
        let lines = r#"{
  "a": [
    1,
    "\"{}[],: \\",
    {}
  ],
  "b": {
    "c": [
      []
    ]
  },
  "d": true
}
"#;
        assert_eq!(page(json, false), lines);
        assert_eq!(page(lines, true), lines);
    }

    #[test]
    fn documents_within_documents_end_before_the_stack_does() {
        let mut document = "{}".to_owned();
        let mut depth = 0;
        while document.len() < 4 << 20 {
            document = json!({LAST_APPLIED: document}).to_string();
            depth += 1;
        }
        assert!(depth <= 20, "{depth}");
        assert_eq!(redacted(&document), Some(document));
    }

    /// JSON in which the keys that matter are as likely as others.
    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "(secret|A=|\\PC|[\"\\\\\n])*".prop_map(Value::from),
        ];
        leaf.prop_recursive(6, 64, 6, |inner| {
            let key = prop_oneof!["env", "envs", "value", "key", "\\PC*"];
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((key, inner), 0..6)
                    .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
            ]
        })
    }

    /// The same rules, for a value that is in memory.
    fn expected(value: &mut Value) {
        match value {
            Value::Array(values) => values.iter_mut().for_each(expected),
            Value::Object(values) => {
                for (key, value) in values {
                    expected(value);
                    let Value::Array(variables) = value else { continue };
                    if !matches!(key.as_str(), "env" | "envs") {
                        continue;
                    }
                    for variable in variables {
                        match variable {
                            Value::String(text) => match text.split_once('=') {
                                Some((name, _)) => *text = format!("{name}={REDACTED}"),
                                None => *text = REDACTED.to_owned(),
                            },
                            Value::Object(variable) => {
                                if let Some(Value::String(value)) = variable.get_mut("value") {
                                    *value = REDACTED.to_owned();
                                }
                            }
                            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => {}
                        }
                    }
                }
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    proptest! {
        #[test]
        fn it_is_the_same_json_as_before(value in any_json()) {
            let pretty = serde_json::to_string_pretty(&value).unwrap() + "\n";
            prop_assert_eq!(&page(&value.to_string(), false), &pretty);
            prop_assert_eq!(&page(&pretty, false), &pretty);
        }

        #[test]
        fn what_is_redacted_is_what_should_be(mut value in any_json()) {
            let page = page(&value.to_string(), true);
            expected(&mut value);
            prop_assert_eq!(page, serde_json::to_string_pretty(&value).unwrap() + "\n");
        }
    }
}
