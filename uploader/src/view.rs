//! `uploader ls` and `uploader show`: the spool for people.

use std::fmt::Write;
use std::io;
use std::time::SystemTime;

use anyhow::Context;
use bytesize::ByteSize;
use jiff::{SignedDuration, Timestamp};
use protocol::manifest::{Attribution, Manifest};
use protocol::spool::{Entry, Found, Spool, State};
use protocol::text::one_line;
use serde::Serialize;

use crate::dump::read_manifest;

/// A line of `ls`.
#[derive(Debug, Serialize)]
struct Row {
    id: String,
    name: String,
    state: State,
    modified: Timestamp,
    bytes: u64,
    comm: Option<String>,
    namespace: Option<String>,
    pod: Option<String>,
    container: Option<String>,
    signal: Option<String>,
}

/// The spool as a table, or as a JSON array.
///
/// # Errors
/// If it cannot be listed.
pub fn ls(spool: &Spool, json: bool) -> anyhow::Result<String> {
    let found = spool.list().with_context(|| format!("listing the spool {}", spool.dir().display()))?;
    let rows: Vec<Row> = found.iter().map(|found| row(spool, found)).collect::<io::Result<_>>()?;
    match json {
        true => Ok(serde_json::to_string_pretty(&rows)?),
        false => Ok(table(&rows, SystemTime::now().try_into()?)),
    }
}

fn row(spool: &Spool, found: &Found) -> io::Result<Row> {
    // What is not complete has no manifest yet.
    let manifest = match found.entry.state() {
        State::Ready | State::Rejected | State::Uploaded => {
            let file = spool.read(&found.entry);
            file.ok().and_then(|file| Some(read_manifest(&file, found.entry.id()).ok()?.1))
        }
        State::Part | State::Torn => None,
    };
    let container = manifest.as_ref().and_then(|manifest| manifest.container.present());
    let crash = manifest.as_ref().map(|manifest| &manifest.crash);
    Ok(Row {
        id: found.entry.id().to_string(),
        name: found.entry.to_string(),
        state: found.entry.state(),
        modified: found.modified.try_into().map_err(io::Error::other)?,
        bytes: found.bytes,
        comm: crash.and_then(|crash| Some(crash.comm.as_ref()?.to_string())),
        namespace: container.map(|container| container.pod.namespace.clone()),
        pod: container.map(|container| container.pod.name.clone()),
        container: container.map(|container| container.name.clone()),
        signal: crash.and_then(|crash| crash.signal_name.clone()),
    })
}

fn table(rows: &[Row], now: Timestamp) -> String {
    let head = ["ID", "AGE", "STATE", "NAMESPACE/POD/CONTAINER", "SIGNAL", "SIZE"].map(str::to_owned);
    let line = |row: &Row| {
        let place = match (&row.namespace, &row.pod, &row.container, &row.comm) {
            (Some(namespace), Some(pod), Some(container), _) => format!("{namespace}/{pod}/{container}"),
            (_, _, _, Some(comm)) => format!("({comm})"),
            _ => "-".to_owned(),
        };
        let signal = row.signal.clone().unwrap_or_else(|| "-".to_owned());
        let size = ByteSize::b(row.bytes).to_string();
        let age = age(now.duration_since(row.modified));
        // What a container chose must not speak to the terminal.
        [row.id.clone(), age, row.state.to_string(), one_line(&place), one_line(&signal), size]
    };
    let lines: Vec<_> = std::iter::once(head).chain(rows.iter().map(line)).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 6] = std::array::from_fn(width);
    let mut out = String::new();
    for line in &lines {
        let cells = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        let _ = writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
    out.truncate(out.trim_end().len());
    out
}

/// As kubectl shows it: the largest unit is enough.
fn age(age: SignedDuration) -> String {
    let seconds = age.as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86400),
    }
}

/// One dump's manifest, for a person or as it stands. `id` may be shortened as
/// long as it is the beginning of one id only.
///
/// # Errors
/// If there is no such dump, or it has no manifest.
pub fn show(spool: &Spool, id: &str, json: bool) -> anyhow::Result<String> {
    let found = spool.list().with_context(|| format!("listing the spool {}", spool.dir().display()))?;
    let mut matching =
        found.iter().map(|found| &found.entry).filter(|entry| entry.id().as_str().starts_with(id));
    let entry = match (matching.next(), matching.next()) {
        (Some(entry), None) => entry,
        (None, _) => anyhow::bail!("there is no dump {id} in {}", spool.dir().display()),
        (Some(_), Some(_)) => anyhow::bail!("more than one dump begins with {id}"),
    };
    let file = spool.read(entry).with_context(|| format!("opening {entry}"))?;
    let manifest = read_manifest(&file, entry.id());
    let (text, manifest) = manifest.with_context(|| format!("reading the manifest of {entry}"))?;
    match json {
        true => Ok(String::from_utf8(text)?),
        false => Ok(describe(entry, &manifest, file.metadata()?.len())),
    }
}

fn describe(entry: &Entry, manifest: &Manifest, bytes: u64) -> String {
    let crash = &manifest.crash;
    let mut out = String::new();
    let mut say = |name: &str, value: String| {
        let _ = writeln!(out, "{name:<11}{}", one_line(&value));
    };
    let or_unknown = |value: Option<String>| value.unwrap_or_else(|| "not known".to_owned());
    say("dump", format!("{}, {}, {}", entry.id(), entry.state(), ByteSize::b(bytes)));
    say("node", manifest.node.to_string());
    let signal = or_unknown(crash.signal_name.clone());
    let when = or_unknown(crash.time.map(|time| time.to_string()));
    say("crash", format!("{signal} at {when}"));
    let pid = or_unknown(crash.pid.map(|pid| pid.to_string()));
    let comm = or_unknown(crash.comm.as_ref().map(ToString::to_string));
    say("process", format!("{pid} ({comm}), {}", or_unknown(crash.exe.as_ref().map(ToString::to_string))));
    if let Some(cmdline) = &crash.cmdline {
        say("command", cmdline.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    }
    match &manifest.container {
        Attribution::Present(c) => {
            say("container", format!("{}/{}/{} ({})", c.pod.namespace, c.pod.name, c.name, c.image));
        }
        Attribution::Missing { reason, id, pod_uid } => {
            say("container", format!("missing: {reason}"));
            [("id", id), ("pod uid", pod_uid)]
                .into_iter()
                .for_each(|(name, id)| id.iter().for_each(|id| say(name, id.clone())));
        }
    }
    if !manifest.trusted {
        say("trusted", "no: which process it was could not be proven".to_owned());
    }
    let core = &manifest.core;
    let whole = match (&core.truncated, core.expected_bytes) {
        (None, _) => "whole".to_owned(),
        (Some(why), Some(expected)) => format!("truncated ({}) of {}", why.as_str(), ByteSize::b(expected)),
        (Some(why), None) => format!("truncated ({})", why.as_str()),
    };
    say("core", format!("{}, {whole}", ByteSize::b(core.bytes)));
    say("held", format!("{} ms", manifest.held_ms));
    for problem in &manifest.problems {
        say("problem", problem.clone());
    }
    out.truncate(out.trim_end().len());
    out
}

#[cfg(test)]
mod hostile {
    use proptest::prelude::*;
    use protocol::manifest::Container;

    use super::*;
    use crate::strange;

    const MANIFEST: &str = include_str!("../../protocol/tests/golden/manifest-1.json");

    proptest! {
        #[test]
        fn whatever_a_dump_says_of_itself_nothing_speaks_to_the_terminal(
            texts in prop::array::uniform6(strange::text()), bytes in prop::array::uniform3(strange::bytes())
        ) {
            let mut manifest: Manifest = serde_json::from_str(MANIFEST).unwrap();
            let Attribution::Present(container) = &mut manifest.container else { unreachable!("it has one") };
            let [namespace, pod, name, image, signal, problem] = texts;
            (container.pod.namespace, container.pod.name) = (namespace.clone(), pod.clone());
            *container = Container { name: name.clone(), image, ..container.clone() };
            let [node, comm, exe] = bytes.map(|bytes| protocol::text::Text::from(&bytes[..]));
            (manifest.node, manifest.crash.comm, manifest.crash.exe) = (node, Some(comm.clone()), Some(exe));
            (manifest.crash.signal_name, manifest.problems) = (Some(signal.clone()), vec![problem]);
            let entry = Entry::parse(&format!("{}.zip", manifest.id)).unwrap();
            let row = Row {
                id: manifest.id.to_string(),
                name: entry.to_string(),
                state: entry.state(),
                modified: Timestamp::UNIX_EPOCH,
                bytes: 7,
                comm: Some(comm.to_string()),
                namespace: Some(namespace),
                pod: Some(pod),
                container: Some(name),
                signal: Some(signal),
            };
            let shown = describe(&entry, &manifest, 7) + "\n" + &table(&[row], Timestamp::UNIX_EPOCH);
            prop_assert_eq!(shown.lines().count(), 9 + 2, "{}", shown);
            prop_assert!(shown.lines().all(|line| one_line(line) == line), "{shown:?}");
        }
    }
}
